// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"fmt"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	ancestor "github.com/siderolabs/grpc-proxy/proxy"

	manifold "github.com/manifold-grpc/manifold/proxy"
)

// Library is one of the libraries that are compared.
type Library string

const (
	Ancestor Library = "ancestor" // github.com/siderolabs/grpc-proxy, as its README says
	Moved    Library = "moved"    // package proxy, by a program of the ancestor's after a change of the import path
	Manifold Library = "manifold" // package proxy, as its documentation says, over connections of grpc-go
	Channel  Library = "channel"  // the same over package relay/channel
)

// Start runs a proxy over the library, in front of the backends with the given
// addresses, until the returned function is called.
func (l Library) Start(backends []string) (addr string, stop func(), err error) {
	options := []grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials())}
	var build func([]*grpc.ClientConn) *grpc.Server
	switch l {
	case Ancestor:
		build = newAncestor
		options = append(options, grpc.WithDefaultCallOptions(grpc.ForceCodecV2(ancestor.Codec())))
	case Moved:
		build = newMoved
		options = append(options, grpc.WithDefaultCallOptions(grpc.ForceCodecV2(manifold.Codec())))
	case Manifold:
		build = newManifold
		options[0] = grpc.WithTransportCredentials(directSockets())
	case Channel:
		return startChannel(backends)
	case Relay:
		return startRelay(backends)
	case Daemon:
		return startDaemon(backends)
	case Observed, Logged:
		return startObserved(backends, l == Logged)
	default:
		return "", nil, fmt.Errorf("bench: no library %q", string(l))
	}
	conns := make([]*grpc.ClientConn, len(backends))
	for i, backend := range backends {
		conns[i], err = grpc.NewClient("passthrough:///"+backend, options...)
		if err != nil {
			return "", nil, err
		}
	}
	addr, stopServer, err := serve(build(conns))
	if err != nil {
		return "", nil, err
	}
	return addr, func() {
		stopServer()
		for _, conn := range conns {
			_ = conn.Close()
		}
	}, nil
}
