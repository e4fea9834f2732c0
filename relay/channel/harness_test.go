// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package channel_test

import (
	"context"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/manifold-grpc/manifold/relay"
	"github.com/manifold-grpc/manifold/relay/channel"
)

const testTimeout = 30 * time.Second

// testContext returns a context that ends with the test, or when it takes too long.
func testContext(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), testTimeout)
	t.Cleanup(cancel)
	return ctx
}

// startServer runs a server whose every method is handler, and returns its address.
func startServer(t testing.TB, handler grpc.StreamHandler, opts ...grpc.ServerOption) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer(append(opts, grpc.UnknownServiceHandler(handler))...)
	done := make(chan struct{})
	go func() { // ends with Stop
		defer close(done)
		if err := s.Serve(l); err != nil {
			t.Error(err)
		}
	}()
	t.Cleanup(func() {
		s.Stop()
		<-done
	})
	return l.Addr().String()
}

// open returns a channel to addr.
func open(t testing.TB, addr string, cfg relay.EndpointConfig) *channel.Channel {
	t.Helper()
	e := relay.NewEndpoint(addr, cfg)
	t.Cleanup(e.Close)
	return channel.New(e)
}

// dial returns grpc-go's connection to addr.
func dial(t testing.TB, addr string, opts ...grpc.DialOption) *grpc.ClientConn {
	t.Helper()
	opts = append([]grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials())}, opts...)
	cc, err := grpc.NewClient("passthrough:///"+addr, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cc.Close() })
	return cc
}

// echo is a handler that sends back every message as it comes.
func echo(_ any, s grpc.ServerStream) error {
	for {
		m := new(wrapperspb.BytesValue)
		switch err := s.RecvMsg(m); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
		if err := s.SendMsg(m); err != nil {
			return err
		}
	}
}

var bidi = &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}

// payload returns n octets in which one that is lost or moved shows.
func payload(n int) *wrapperspb.BytesValue {
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(i ^ i>>8 ^ i>>16)
	}
	return wrapperspb.Bytes(p)
}
