// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

// Command conformance holds third-party suites against a proxy and prints their
// figures. It exits with 1 when a case failed that is not known to.
//
//	go run . [-proxy NAME] [-run PATTERN]... [h2spec] [interop] [connect]
//
// Without a suite it runs all three. The README beside this file says more.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/manifold-grpc/manifold/conformance/connect"
	"github.com/manifold-grpc/manifold/conformance/h2spec"
	"github.com/manifold-grpc/manifold/conformance/interop"
	"github.com/manifold-grpc/manifold/conformance/suite"
	"github.com/manifold-grpc/manifold/conformance/undertest"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "conformance:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) > 0 && strings.HasPrefix(args[0], "connect-") {
		return underTest(ctx, args[0], args[1:])
	}
	flags := flag.NewFlagSet("conformance", flag.ExitOnError)
	proxy := flags.String("proxy", "relay", "the proxy under test: "+strings.Join(undertest.Names(), ", ")+", or a command line")
	var patterns []string
	flags.Func("run", "run only the cases of connect that match, as the suite's runner does; may be repeated", func(p string) error {
		patterns = append(patterns, p)
		return nil
	})
	if err := flags.Parse(args); err != nil {
		return err
	}
	start, err := undertest.ByName(*proxy)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "conformance")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()

	suites := flags.Args()
	if len(suites) == 0 {
		suites = []string{"h2spec", "interop", "connect"}
	}
	var reports []suite.Report
	for _, name := range suites {
		began := time.Now()
		found, err := runSuite(ctx, name, dir, start, *proxy, patterns)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		fmt.Printf("ran %s in %v\n", name, time.Since(began).Round(time.Second))
		reports = append(reports, found...)
	}
	if !suite.Print(os.Stdout, reports) {
		return fmt.Errorf("not all cases passed")
	}
	return nil
}

func runSuite(ctx context.Context, name, dir string, start undertest.Start, proxy string, patterns []string) ([]suite.Report, error) {
	switch name {
	case "h2spec":
		return h2spec.Run(ctx, dir, start)
	case "interop":
		return interop.Run(ctx, dir, start)
	case "connect":
		executable, err := os.Executable()
		if err != nil {
			return nil, err
		}
		return connect.Run(ctx, dir, executable, proxy, patterns)
	default:
		return nil, fmt.Errorf("no such suite; there are h2spec, interop and connect")
	}
}

// underTest is what the runner of the connect suite starts: see connect.Run.
func underTest(ctx context.Context, command string, args []string) error {
	flags := flag.NewFlagSet(command, flag.ExitOnError)
	proxy := flags.String("proxy", "", "the proxy under test")
	program := flags.String("program", "", "the program of the suite beside it")
	plain := flags.Bool("plain", false, "the program has no TLS")
	if err := flags.Parse(args); err != nil {
		return err
	}
	start, err := undertest.ByName(*proxy)
	if err != nil {
		return err
	}
	if command == "connect-server" {
		server := connect.Server{Start: start, Program: *program, Plain: *plain}
		return server.Run(ctx, os.Stdin, os.Stdout, os.Stderr)
	}
	client := connect.Client{Start: start, Program: *program}
	return client.Run(ctx, os.Stdin, os.Stdout, os.Stderr)
}
