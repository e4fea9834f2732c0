// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

// Command manifold is a transparent reverse proxy for gRPC. Run `manifold help`
// for what it can do; package internal/cli is its command line.
package main

import (
	"os"
	"os/signal"
	"syscall"

	"github.com/manifold-grpc/manifold/internal/cli"
)

func main() {
	// Room for two: the first signal drains, the second stops at once, however
	// soon it comes.
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)

	os.Exit(cli.Run(os.Args[1:], os.Stdout, os.Stderr, signals))
}
