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
	Ancestor Library = "ancestor" // github.com/siderolabs/grpc-proxy
	Manifold Library = "manifold" // package proxy
)

// Start runs a proxy over the library, in front of the backends with the given
// addresses, until the returned function is called.
func (l Library) Start(backends []string) (addr string, stop func(), err error) {
	var (
		build func([]*grpc.ClientConn) *grpc.Server
		codec grpc.CallOption
	)
	switch l {
	case Ancestor:
		build, codec = newAncestor, grpc.ForceCodecV2(ancestor.Codec())
	case Manifold:
		build, codec = newManifold, grpc.ForceCodecV2(manifold.Codec())
	case Relay:
		return startRelay(backends)
	default:
		return "", nil, fmt.Errorf("bench: no library %q", string(l))
	}
	conns := make([]*grpc.ClientConn, len(backends))
	for i, backend := range backends {
		conns[i], err = grpc.NewClient("passthrough:///"+backend,
			grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(codec))
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
