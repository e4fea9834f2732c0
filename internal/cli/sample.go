// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"os"

	"github.com/spf13/cobra"

	"github.com/manifold-grpc/manifold/internal/address"
	"github.com/manifold-grpc/manifold/internal/sample"
)

// newSample makes the command that runs a sample backend until a signal.
func newSample(signals <-chan os.Signal) *cobra.Command {
	var f sampleFlags
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
		RunE: func(cmd *cobra.Command, _ []string) error { return f.run(cmd.ErrOrStderr(), signals) },
	}

	flags := cmd.Flags()
	flags.SortFlags = false
	flags.StringVar(&f.listen, "listen", "localhost:50051", "`address` to listen on")
	flags.StringVar(&f.name, "name", "", "`name` of the backend in its answers (default: its address)")
	flags.StringVar(&f.tlsCert, "tls-cert", "", "PEM `file` of the certificate chain to serve TLS with (default: plaintext)")
	flags.StringVar(&f.tlsKey, "tls-key", "", "PEM `file` of the certificate's key")
	f.log.register(flags)

	return cmd
}

// sampleFlags are the flags of sample, as they were given.
type sampleFlags struct {
	listen, name    string
	tlsCert, tlsKey string
	log             logFlags
}

// tls returns nil without a certificate.
func (f *sampleFlags) tls() (*tls.Config, error) {
	if err := checkPair(f.tlsCert, f.tlsKey); err != nil || f.tlsCert == "" {
		return nil, err
	}
	pair, err := tls.LoadX509KeyPair(f.tlsCert, f.tlsKey)
	if err != nil {
		return nil, failed(fmt.Errorf("--tls-cert %s, --tls-key %s: %w", f.tlsCert, f.tlsKey, err))
	}

	return &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}, nil
}

// run serves until a signal. It does not drain: a backend that breaks off is one
// of the things to try a proxy with.
func (f *sampleFlags) run(stderr io.Writer, signals <-chan os.Signal) error {
	address, err := address.ParseListen(f.listen)
	if err != nil {
		return fmt.Errorf("--listen %q: %w", f.listen, err)
	}
	config, err := f.tls()
	if err != nil {
		return err
	}
	log, err := f.log.logger(stderr)
	if err != nil {
		return err
	}

	lis, err := net.Listen(address.Network, address.Addr)
	if err != nil {
		return failed(err)
	}
	backend := sample.Start(lis, sample.Options{Name: f.name, TLS: config})
	defer backend.Stop()
	log.Info("listening", "address", backend.Addr().String(), "name", backend.Name(), "tls", config != nil)
	<-signals

	return nil
}
