// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/manifold-grpc/manifold/proxy"
)

// newManifold returns a server that proxies with package proxy, as that package's
// documentation says for a new program: by Upstream, ServerOptions and DirectSockets.
func newManifold(backends []*grpc.ClientConn) *grpc.Server {
	channels := make([]grpc.ClientConnInterface, len(backends))
	for i, conn := range backends {
		channels[i] = conn
	}
	return manifoldOver(channels)
}

// manifoldOver is newManifold over any channels.
func manifoldOver(backends []grpc.ClientConnInterface) *grpc.Server {
	targets := make([]proxy.Backend, len(backends))
	for i, conn := range backends {
		targets[i] = &proxy.Upstream{Channel: conn}
	}
	director := func(_ context.Context, method string) (proxy.Mode, []proxy.Backend, error) {
		if strings.HasPrefix(method, serviceAll) {
			return proxy.One2Many, targets, nil
		}
		return proxy.One2One, targets[:1], nil
	}
	unary := proxy.WithStreamedDetector(func(string) bool { return false })
	return grpc.NewServer(append(proxy.ServerOptions(director, unary), grpc.Creds(directSockets()))...)
}

// directSockets are the credentials of both sides.
func directSockets() credentials.TransportCredentials {
	return proxy.DirectSockets(insecure.NewCredentials())
}
