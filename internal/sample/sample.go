// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

// Package sample is a gRPC backend to put behind the proxy: in the demo, in
// tests, and when a configuration is tried by hand.
//
// Each [Backend] serves, on one listener:
//
//   - manifold.sample.v1.EchoService: a method of each call kind, that echoes
//     messages, request metadata (as headers or trailers) and errors with
//     details, and waits where asked to;
//   - manifold.sample.v1.FleetService: answers laid out so that those of several
//     backends can be concatenated by a one-to-many call;
//   - grpc.health.v1 and server reflection.
//
// Start a backend with [Start], end it with [Backend.Stop].
package sample

import (
	"crypto/tls"
	"math"
	"net"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	_ "google.golang.org/grpc/encoding/gzip" // for callers that compress
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection"

	"github.com/manifold-grpc/manifold/internal/sample/samplepb"
)

// Options are the choices one has with a backend. The zero value is valid.
type Options struct {
	// Name is how the backend calls itself in its answers. Default: its address.
	Name string
	// TLS, if not nil, makes the backend serve TLS. Default: plaintext HTTP/2.
	TLS *tls.Config
}

// Backend is a running sample backend. Its methods may be called concurrently.
type Backend struct {
	name   string
	lis    net.Listener
	server *grpc.Server
	health *health.Server
	calls  counters
	served chan struct{} // closed when serve has returned
}

// Start serves a new backend on lis, which the backend owns from now on: the
// caller ends both with Stop.
func Start(lis net.Listener, opts Options) *Backend {
	b := &Backend{
		name:   opts.Name,
		lis:    lis,
		health: health.NewServer(),
		served: make(chan struct{}),
	}
	if b.name == "" {
		b.name = lis.Addr().String()
	}

	b.server = grpc.NewServer(b.serverOptions(opts.TLS)...)
	samplepb.RegisterEchoServiceServer(b.server, &echoService{backend: b.name})
	samplepb.RegisterFleetServiceServer(b.server, &fleetService{backend: b.name, calls: &b.calls})
	healthpb.RegisterHealthServer(b.server, b.health)
	reflection.Register(b.server)

	go b.serve() // until the server is stopped

	return b
}

func (b *Backend) serverOptions(config *tls.Config) []grpc.ServerOption {
	opts := []grpc.ServerOption{
		grpc.UnaryInterceptor(b.interceptUnary),
		grpc.StreamInterceptor(b.interceptStream),
		// Big messages are among the things to try through a proxy.
		grpc.MaxRecvMsgSize(math.MaxInt32),
		// Stop returns when nothing of the backend runs any more.
		grpc.WaitForHandlers(true),
	}
	if config != nil {
		opts = append(opts, grpc.Creds(credentials.NewTLS(config)))
	}

	return opts
}

// serve runs until Stop.
func (b *Backend) serve() {
	defer close(b.served)

	// The error says that the listener failed, which callers see for themselves:
	// nobody answers. It is nil after Stop.
	_ = b.server.Serve(b.lis)
}

// Name returns the name the backend gives itself in its answers.
func (b *Backend) Name() string { return b.name }

// Addr returns the address the backend listens on.
func (b *Backend) Addr() net.Addr { return b.lis.Addr() }

// Health sets what the backend says of itself through grpc.health.v1; a new
// backend is SERVING.
func (b *Backend) Health(status healthpb.HealthCheckResponse_ServingStatus) {
	b.health.SetServingStatus("", status)
}

// Stop cuts the calls in flight, closes the listener, and returns when no
// goroutine of the backend is left. It may be called more than once.
func (b *Backend) Stop() {
	b.server.Stop()
	<-b.served
}
