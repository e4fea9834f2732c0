// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/manifold-grpc/manifold/proxy"
)

// newMoved returns a server that proxies with package proxy. Apart from the import,
// this file and ancestor.go are the same, as a program's would be that moves.
func newMoved(backends []*grpc.ClientConn) *grpc.Server {
	targets := make([]proxy.Backend, len(backends))
	for i, conn := range backends {
		targets[i] = &proxy.SingleBackend{
			GetConn: func(ctx context.Context) (context.Context, *grpc.ClientConn, error) {
				md, _ := metadata.FromIncomingContext(ctx)
				return metadata.NewOutgoingContext(ctx, md.Copy()), conn, nil
			},
		}
	}
	director := func(_ context.Context, method string) (proxy.Mode, []proxy.Backend, error) {
		if strings.HasPrefix(method, serviceAll) {
			return proxy.One2Many, targets, nil
		}
		return proxy.One2One, targets[:1], nil
	}
	unary := func(string) bool { return false }
	return grpc.NewServer(
		grpc.ForceServerCodecV2(proxy.Codec()),
		grpc.UnknownServiceHandler(proxy.TransparentHandler(director, proxy.WithStreamedDetector(unary))),
	)
}
