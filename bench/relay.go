// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"net"
	"strings"

	"github.com/manifold-grpc/manifold/fanout"
	"github.com/manifold-grpc/manifold/relay"
)

// Relay is package relay, which can stand in for the libraries.
const Relay Library = "relay"

// startRelay runs a relay in front of the backends, as Start does a library.
func startRelay(backends []string) (addr string, stop func(), err error) {
	var (
		one     relay.Backend
		targets []relay.Target
		closing []func()
	)
	for _, b := range backends {
		e := relay.NewEndpoint(b, relay.EndpointConfig{})
		closing = append(closing, e.Close)
		e.WaitForStateChange(context.Background(), relay.Connecting)
		targets = append(targets, relay.Target{Name: b, Backend: &relay.Backend{Name: b, Endpoints: []*relay.Endpoint{e}}})
		one.Endpoints = append(one.Endpoints, e)
	}
	one.Endpoints = one.Endpoints[:1]
	unary := &relay.FanOut{Policy: fanout.BestEffort()}
	srv := &relay.Server{Route: func(c *relay.Call) {
		if strings.HasPrefix(c.Path(), serviceAll) {
			c.FanOut(unary, targets)
			return
		}
		c.Forward(&one)
	}}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, err
	}
	served := make(chan struct{})
	go func() { // ends with srv.Close
		defer close(served)
		_ = srv.Serve(l)
	}()
	return l.Addr().String(), func() {
		srv.Close()
		<-served
		for _, end := range closing {
			end()
		}
	}, nil
}
