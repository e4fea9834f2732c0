// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package proxy_test

import (
	"context"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	"github.com/manifold-grpc/manifold/proxy"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m)
}

// testTimeout bounds every call of a test that does not say otherwise. It is far beyond what any of them needs.
const testTimeout = 30 * time.Second

// duplex is the descriptor of every stream that the tests open: the proxy treats all kinds alike.
var duplex = &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}

// serve runs a server on a loopback port until the test ends, and returns its address.
func serve(t testing.TB, s *grpc.Server) string {
	t.Helper()

	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}

	served := make(chan struct{})

	go func() { // ends with s.Stop
		defer close(served)
		_ = s.Serve(l)
	}()

	t.Cleanup(func() {
		s.Stop()
		<-served
	})

	return l.Addr().String()
}

// startBackend runs a server that answers every method with handle, which exchanges *proxy.Frame messages.
func startBackend(t testing.TB, handle grpc.StreamHandler, opts ...grpc.ServerOption) string {
	t.Helper()

	opts = append([]grpc.ServerOption{
		grpc.ForceServerCodecV2(proxy.Codec()), grpc.UnknownServiceHandler(handle), grpc.MaxRecvMsgSize(1 << 30), grpc.WaitForHandlers(true),
	}, opts...)

	return serve(t, grpc.NewServer(opts...))
}

// startProxy runs a server that does nothing but proxy.
func startProxy(t testing.TB, director proxy.StreamDirector, opts ...any) string {
	t.Helper()

	var (
		proxyOpts  []proxy.Option
		serverOpts []grpc.ServerOption
	)

	for _, o := range opts {
		switch o := o.(type) {
		case proxy.Option:
			proxyOpts = append(proxyOpts, o)
		case grpc.ServerOption:
			serverOpts = append(serverOpts, o)
		default:
			t.Fatalf("option of type %T", o)
		}
	}

	serverOpts = append([]grpc.ServerOption{
		grpc.ForceServerCodecV2(proxy.Codec()), grpc.MaxRecvMsgSize(1 << 30), grpc.WaitForHandlers(true),
		grpc.UnknownServiceHandler(proxy.TransparentHandler(director, proxyOpts...)),
	}, serverOpts...)

	return serve(t, grpc.NewServer(serverOpts...))
}

// dial returns a connection that lives as long as the test.
func dial(t testing.TB, addr string, opts ...grpc.DialOption) *grpc.ClientConn {
	t.Helper()

	opts = append([]grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials())}, opts...)

	conn, err := grpc.NewClient("passthrough:///"+addr, opts...)
	if err != nil {
		t.Fatal(err)
	}

	t.Cleanup(func() { _ = conn.Close() })

	return conn
}

// dialRaw is dial for calls with *proxy.Frame messages of any size.
func dialRaw(t testing.TB, addr string, opts ...grpc.DialOption) *grpc.ClientConn {
	t.Helper()

	return dial(t, addr, append(opts, grpc.WithDefaultCallOptions(
		grpc.ForceCodecV2(proxy.Codec()), grpc.MaxCallRecvMsgSize(1<<30)))...)
}

// to is a director that sends every call to one connection, with the caller's metadata.
func to(conn *grpc.ClientConn) proxy.StreamDirector {
	return func(context.Context, string) (proxy.Mode, []proxy.Backend, error) {
		return proxy.One2One, []proxy.Backend{&proxy.SingleBackend{GetConn: withMetadata(conn)}}, nil
	}
}

// withMetadata is a GetConn that forwards the caller's metadata.
func withMetadata(conn *grpc.ClientConn) func(context.Context) (context.Context, *grpc.ClientConn, error) {
	return func(ctx context.Context) (context.Context, *grpc.ClientConn, error) {
		md, _ := metadata.FromIncomingContext(ctx)

		return metadata.NewOutgoingContext(ctx, md.Copy()), conn, nil
	}
}

// behind returns a connection to a proxy in front of one backend that runs handle.
func behind(t testing.TB, handle grpc.StreamHandler, opts ...any) *grpc.ClientConn {
	t.Helper()

	upstream := dial(t, startBackend(t, handle))

	return dialRaw(t, startProxy(t, to(upstream), opts...))
}

// open starts a call that is cancelled when the test ends at the latest.
func open(t testing.TB, conn *grpc.ClientConn, method string, opts ...grpc.CallOption) grpc.ClientStream {
	t.Helper()

	ctx, cancel := context.WithTimeout(context.Background(), testTimeout)
	t.Cleanup(cancel)

	return openContext(t, ctx, conn, method, opts...)
}

func openContext(t testing.TB, ctx context.Context, conn *grpc.ClientConn, method string, opts ...grpc.CallOption) grpc.ClientStream { //nolint:revive // t first
	t.Helper()

	s, err := conn.NewStream(ctx, duplex, method, opts...)
	if err != nil {
		t.Fatalf("opening %s: %v", method, err)
	}

	return s
}

// send sends one message. io.EOF is not a failure: the status says more.
func send(t testing.TB, s grpc.Stream, payload string) {
	t.Helper()

	if err := s.SendMsg(proxy.NewFrame([]byte(payload))); err != nil && !errors.Is(err, io.EOF) {
		t.Fatalf("sending %.20q: %v", payload, err)
	}
}

// recv receives one message that must come.
func recv(t testing.TB, s grpc.Stream) string {
	t.Helper()

	payload, err := tryRecv(s)
	if err != nil {
		t.Fatalf("receiving: %v", err)
	}

	return payload
}

func tryRecv(s grpc.Stream) (string, error) {
	f := proxy.NewFrame(nil).(*proxy.Frame)
	err := s.RecvMsg(f)

	return string(f.Bytes()), err
}

// collect receives until the end and returns the messages and what the stream ended with, nil for OK.
func collect(s grpc.Stream) (messages []string, err error) {
	for {
		m, err := tryRecv(s)
		if err == io.EOF {
			return messages, nil
		} else if err != nil {
			return messages, err
		}

		messages = append(messages, m)
	}
}

// call makes a call with the given requests, half-closes, and collects the answer.
func call(t testing.TB, conn *grpc.ClientConn, method string, requests ...string) ([]string, error) {
	t.Helper()

	s := open(t, conn, method)
	for _, r := range requests {
		send(t, s, r)
	}

	if err := s.CloseSend(); err != nil {
		t.Fatalf("half-closing: %v", err)
	}

	return collect(s)
}

// echo answers each message with itself.
func echo(_ any, s grpc.ServerStream) error {
	for {
		f := proxy.NewFrame(nil)
		if err := s.RecvMsg(f); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}

		if err := s.SendMsg(f); err != nil {
			return err
		}
	}
}
