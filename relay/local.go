// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package relay

import (
	"context"
	"net"

	"github.com/manifold-grpc/manifold/internal/memnet"
)

// NewLocalEndpoint returns an endpoint for services of this process, over connections in
// memory: health, reflection, one-to-many calls by package proxy. serve is called at once in a goroutine
// and must serve the listener's connections as HTTP/2 until the listener is closed, as grpc.Server's Serve does. name
// stands for the address.
//
// Close closes the listener and returns after serve has. The server's own connections end by it;
// stopping the server is the caller's.
func NewLocalEndpoint(name string, serve func(net.Listener) error, cfg EndpointConfig) *Endpoint {
	l := memnet.Listen(name)
	cfg.TLS = nil
	cfg.Dial = func(ctx context.Context) (net.Conn, error) { return l.DialContext(ctx) }
	e := newEndpoint(name, cfg)
	e.local = l
	e.runs.Go(func() { // ends when Close closes the listener
		serve(l) //nolint:errcheck // that no connection can be made tells more
	})
	e.mu.Lock()
	defer e.mu.Unlock()
	e.dialLocked()
	return e
}
