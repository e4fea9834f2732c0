// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/manifold-grpc/manifold/internal/address"
	"github.com/manifold-grpc/manifold/internal/demo"
)

// newDemo makes the command that runs the demo; with --keep it ends on a signal,
// else by itself.
func newDemo(signals <-chan os.Signal) *cobra.Command {
	var (
		listen string
		keep   bool
		show   bool
	)
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Show what the proxy does, with three sample backends",
		Long: `Demo starts three sample backends and the proxy in front of them, all on TCP
ports of this host and in one process, makes calls of every kind, and shows what
went where. It takes a second and leaves nothing behind.

With --keep all of it runs until Ctrl-C, and commands to try with grpcurl are shown.`,
		Example: `  manifold demo
  manifold demo --show-config
  manifold demo --keep --listen localhost:8080`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			address, err := address.ParseListen(listen)
			if err != nil {
				return fmt.Errorf("--listen %q: %w", listen, err)
			}

			opts := demo.Options{Listen: address, ShowConfig: show}
			if keep {
				opts.Keep = signals
			}

			return failed(demo.Run(cmd.Context(), cmd.OutOrStdout(), opts))
		},
	}

	flags := cmd.Flags()
	flags.SortFlags = false
	flags.BoolVar(&keep, "keep", false, "leave everything running, to try it with other clients")
	flags.BoolVar(&show, "show-config", false, "show the configuration file that the proxy runs on, too")
	flags.StringVar(&listen, "listen", "127.0.0.1:0", "`address` of the proxy; port 0 is any free one")

	return cmd
}
