// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"net"
	"os"

	"github.com/spf13/cobra"

	"github.com/manifold-grpc/manifold/internal/daemon"
	"github.com/manifold-grpc/manifold/internal/sample"
)

func newSample(signals <-chan os.Signal) *cobra.Command {
	var listen, name string
	var log logFlags
	cmd := &cobra.Command{
		Use:   "sample --listen ADDRESS",
		Short: "Run a sample backend, to try the proxy with",
		Long: `Sample runs a gRPC server that is made to be put behind the proxy: it echoes
messages, metadata and errors by a method of each call kind, says in each answer
which backend gave it, and has server reflection and health.`,
		Example: `  manifold sample --listen localhost:50051 --name one &
  manifold sample --listen localhost:50052 --name two &
  manifold serve --listen localhost:8080 --to localhost:50051,localhost:50052`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			address, err := daemon.ParseListen(listen)
			if err != nil {
				return fmt.Errorf("--listen %q: %w", listen, err)
			}
			logger, err := log.logger(cmd.ErrOrStderr())
			if err != nil {
				return err
			}

			lis, err := net.Listen(address.Network, address.Addr)
			if err != nil {
				return failed(err)
			}
			backend := sample.Start(lis, sample.Options{Name: name})
			defer backend.Stop()
			logger.Info("listening", "address", backend.Addr().String(), "name", backend.Name())
			<-signals

			return nil
		},
	}

	flags := cmd.Flags()
	flags.SortFlags = false
	flags.StringVar(&listen, "listen", "localhost:50051", "`address` to listen on")
	flags.StringVar(&name, "name", "", "`name` of the backend in its answers (default: its address)")
	log.register(flags)

	return cmd
}
