// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package proxies

import (
	"crypto/tls"
	"math"
	"net"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/manifold-grpc/manifold/proxy"
)

// serveLibrary is package proxy, with grpc-go on both sides. grpc-go's windows
// follow the connection by themselves, so they are left alone.
func serveLibrary(lis net.Listener, c Config, front *tls.Config) (stop func(), err error) {
	conn, err := grpc.NewClient("passthrough:///"+c.Backend, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, err
	}
	upstream := &proxy.Upstream{Channel: conn}
	options := []grpc.ServerOption{
		grpc.ForceServerCodecV2(proxy.Codec()),
		grpc.UnknownServiceHandler(proxy.TransparentHandler(upstream.Direct)),
		grpc.MaxRecvMsgSize(math.MaxInt32),
	}
	if front != nil {
		options = append(options, grpc.Creds(credentials.NewTLS(front)))
	}
	server := grpc.NewServer(options...)
	done := make(chan struct{})
	go func() { // ends with server.Stop
		defer close(done)
		_ = server.Serve(lis)
	}()
	return func() {
		server.Stop()
		<-done
		_ = conn.Close()
	}, nil
}
