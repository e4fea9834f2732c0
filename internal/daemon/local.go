// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"net"

	"google.golang.org/grpc"
	_ "google.golang.org/grpc/encoding/gzip" // for callers that compress: without it their calls fail

	"github.com/manifold-grpc/manifold/relay"
)

// localServices is a gRPC server inside of the daemon for its own services. The data path reaches
// it as a backend in memory.
type localServices struct {
	server  *grpc.Server
	backend *relay.Backend
}

// openHealth starts a server of the daemon's own services. Its owner closes it.
func openHealth(register func(grpc.ServiceRegistrar)) *localServices {
	l := &localServices{server: grpc.NewServer(grpc.WaitForHandlers(true))}
	register(l.server)
	l.open()

	return l
}

// open makes the server a backend.
func (l *localServices) open() {
	endpoint := relay.NewLocalEndpoint("local", func(lis net.Listener) error { return l.server.Serve(lis) }, relay.EndpointConfig{})
	l.backend = &relay.Backend{Name: "local", Endpoints: []*relay.Endpoint{endpoint}}
}

// close ends the server and its connections.
func (l *localServices) close() {
	l.backend.Endpoints[0].Close()
	l.server.Stop()
}
