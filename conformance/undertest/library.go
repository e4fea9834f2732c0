// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package undertest

import (
	"context"
	"fmt"
	"math"
	"net"
	"sync/atomic"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	_ "google.golang.org/grpc/encoding/gzip" // so that it decompresses what it gets
	"google.golang.org/grpc/metadata"

	"github.com/manifold-grpc/manifold/proxy"
)

// Library starts a grpc.Server that forwards everything by package proxy.
func Library(c Config) (string, func(), error) {
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
	l := &library{}
	for _, addr := range c.Backends {
		creds := insecure.NewCredentials()
		if up != nil {
			creds = credentials.NewTLS(up)
		}
		conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(creds))
		if err != nil {
			return "", nil, fmt.Errorf("backend %s: %w", addr, err)
		}
		l.conns = append(l.conns, conn)
	}
	options := []grpc.ServerOption{
		grpc.ForceServerCodecV2(proxy.Codec()),
		grpc.UnknownServiceHandler(proxy.TransparentHandler(l.direct)),
		grpc.MaxRecvMsgSize(math.MaxInt32),
	}
	if down != nil {
		options = append(options, grpc.Creds(credentials.NewTLS(down)))
	}
	l.server, l.done = grpc.NewServer(options...), make(chan struct{})
	go l.serve(lis) // ends when stop stops the server
	return lis.Addr().String(), l.stop, nil
}

type library struct {
	conns  []*grpc.ClientConn
	next   atomic.Uint64
	server *grpc.Server
	done   chan struct{} // closed when serve has ended
}

func (l *library) serve(lis net.Listener) {
	_ = l.server.Serve(lis)
	close(l.done)
}

// direct sends each call to the next backend, with the caller's metadata.
func (l *library) direct(context.Context, string) (proxy.Mode, []proxy.Backend, error) {
	conn := l.conns[l.next.Add(1)%uint64(len(l.conns))]
	backend := &proxy.SingleBackend{GetConn: func(ctx context.Context) (context.Context, *grpc.ClientConn, error) {
		md, _ := metadata.FromIncomingContext(ctx)
		return metadata.NewOutgoingContext(ctx, md), conn, nil
	}}
	return proxy.One2One, []proxy.Backend{backend}, nil
}

func (l *library) stop() {
	l.server.Stop()
	<-l.done
	for _, conn := range l.conns {
		_ = conn.Close()
	}
}
