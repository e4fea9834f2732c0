// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

// Package daemon is the proxy as a server: an address to listen on, endpoints to
// forward to, and a life cycle. Command manifold is flags around it; a test can
// have a whole one:
//
//	d, err := daemon.New(daemon.Config{
//		Listen:    daemon.Address{Network: "tcp", Addr: "127.0.0.1:0"},
//		Endpoints: endpoints,
//	})
//	...
//	err = d.Start()             // d.Addr() is where
//	...
//	err = d.Shutdown(ctx)       // drains until ctx ends
//
// A [Daemon] has no global state: any number may run in a process, and a stopped
// one leaves no goroutine and no socket file behind.
//
// The daemon does not move calls itself. It hands them to a data path, whose
// whole interface is in datapath.go: serve a listener, drain. What the daemon
// answers itself, its own health, reaches the data path as local services.
package daemon
