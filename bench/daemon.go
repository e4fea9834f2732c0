// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/manifold-grpc/manifold/internal/address"
	"github.com/manifold-grpc/manifold/internal/config"
	"github.com/manifold-grpc/manifold/internal/daemon"
)

// The daemon, which can stand in for the libraries.
const (
	Daemon   Library = "daemon"          // by flags: nothing is watched
	Observed Library = "daemon-observed" // by a file with 100 routes, metrics and health checks
	Logged   Library = "daemon-logged"   // the same with an access log, to a file
)

// observedRoutes is how many routes Observed and Logged have.
const observedRoutes = 100

// startObserved runs a daemon of a file, as Start does a library.
func startObserved(backends []string, logged bool) (addr string, stop func(), err error) {
	dir, err := os.MkdirTemp("", "manifold-bench-")
	if err != nil {
		return "", nil, err
	}
	defer func() {
		if err != nil {
			_ = os.RemoveAll(dir)
		}
	}()
	var text strings.Builder
	fmt.Fprintf(&text, "frontends: [{name: bench, listen: \"127.0.0.1:0\"}]\nadmin: {listen: \"127.0.0.1:0\"}\n")
	fmt.Fprintf(&text, "backends: {one: {endpoints: [%q], health: {}}, all: {endpoints: [\"%s\"], health: {}}}\n", backends[0], strings.Join(backends, `","`))
	if logged {
		fmt.Fprintf(&text, "access_log: {path: %q}\n", filepath.Join(dir, "access.log"))
	}
	text.WriteString("routes:\n- {match: {service: bench.One}, backend: one}\n- {match: {service: bench.All}, fan_out: {backend: all, streaming: [Pull]}}\n")
	for i := range observedRoutes - 2 {
		fmt.Fprintf(&text, "- {match: {service: bench.Other%d}, backend: one}\n", i)
	}
	file, err := config.Source{Name: filepath.Join(dir, "manifold.yaml")}.Parse([]byte(text.String()))
	if err != nil {
		return "", nil, err
	}
	addr, end, err := runDaemon(daemon.Config{File: file})
	if err != nil {
		return "", nil, err
	}
	return addr, func() {
		end()
		_ = os.RemoveAll(dir)
	}, nil
}

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
	return runDaemon(cfg)
}

func runDaemon(cfg daemon.Config) (addr string, stop func(), err error) {
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
