// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"

	"github.com/manifold-grpc/manifold/internal/address"
	"github.com/manifold-grpc/manifold/internal/daemon"
)

// Daemon is the daemon, which can stand in for the libraries.
const Daemon Library = "daemon"

// startDaemon runs a daemon in front of the backends, as Start does a library.
func startDaemon(backends []string) (addr string, stop func(), err error) {
	listen, err := address.ParseListen("127.0.0.1:0")
	if err != nil {
		return "", nil, err
	}
	cfg := daemon.Config{Listen: listen, FanOut: daemon.FanOut{
		Services: []string{"bench.All"}, Streaming: func(string) bool { return false },
	}}
	for _, b := range backends {
		e, err := address.ParseEndpoint(b)
		if err != nil {
			return "", nil, err
		}
		cfg.Endpoints = append(cfg.Endpoints, e)
	}
	d, err := daemon.New(cfg)
	if err != nil {
		return "", nil, err
	}
	if err := d.Start(); err != nil {
		return "", nil, err
	}
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	return d.Addr().Addr, func() { _ = d.Shutdown(ended) }, nil
}
