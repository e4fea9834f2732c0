// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"google.golang.org/grpc"

	"github.com/manifold-grpc/manifold/relay"
	"github.com/manifold-grpc/manifold/relay/channel"
)

// startChannel runs package proxy over channels of package relay/channel in front of the backends, as Start does.
func startChannel(backends []string) (addr string, stop func(), err error) {
	endpoints := make([]*relay.Endpoint, len(backends))
	channels := make([]grpc.ClientConnInterface, len(backends))
	for i, b := range backends {
		endpoints[i] = relay.NewEndpoint(b, relay.EndpointConfig{})
		channels[i] = channel.New(endpoints[i])
	}
	addr, stopServer, err := serve(manifoldOver(channels))
	end := func() {
		if stopServer != nil {
			stopServer()
		}
		for _, e := range endpoints {
			e.Close()
		}
	}
	if err != nil {
		end()
		return "", nil, err
	}
	return addr, end, nil
}
