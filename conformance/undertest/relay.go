// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package undertest

import (
	"net"

	"github.com/manifold-grpc/manifold/relay"
)

// Relay starts package relay with its defaults, but without the ErrorInfo in
// statuses of its own: Connect's suite compares statuses whole.
func Relay(c Config) (string, func(), error) {
	down, err := c.ServerTLS()
	if err != nil {
		return "", nil, err
	}
	up, err := c.BackendTLS()
	if err != nil {
		return "", nil, err
	}
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, err
	}
	backend := &relay.Backend{Name: "under test"}
	for _, addr := range c.Backends {
		backend.Endpoints = append(backend.Endpoints, relay.NewEndpoint(addr, relay.EndpointConfig{TLS: up}))
	}
	server := &relay.Server{TLS: down, OmitErrorInfo: true, Route: func(call *relay.Call) { call.Forward(backend) }}
	done := make(chan struct{})
	go func() { // ends when stop closes the server
		_ = server.Serve(lis)
		close(done)
	}()
	stop := func() {
		server.Close()
		<-done
		for _, endpoint := range backend.Endpoints {
			endpoint.Close()
		}
	}
	return lis.Addr().String(), stop, nil
}
