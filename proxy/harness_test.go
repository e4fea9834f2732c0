// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package proxy_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/experimental"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/manifold-grpc/manifold/internal/memnet"
	"github.com/manifold-grpc/manifold/proxy"
)

func TestMain(m *testing.M) {
	experimental.SetDefaultBufferPool(poisonPool{mem.DefaultBufferPool()})
	goleak.VerifyTestMain(m)
}

// poisonPool overwrites what is given back. Whatever reads a buffer that it has freed reads poison then, in every test here.
type poisonPool struct {
	mem.BufferPool
}

const poison = 0xDB

func (p poisonPool) Put(b *[]byte) {
	whole := (*b)[:cap(*b)]
	if len(whole) > 0 {
		whole[0] = poison
	}

	for n := 1; n < len(whole); n *= 2 {
		copy(whole[n:], whole[:n])
	}

	p.BufferPool.Put(b)
}

// testTimeout bounds every call of a test that does not say otherwise. It is far beyond what any of them needs.
const testTimeout = 30 * time.Second

// duplex is the descriptor of every stream that the tests open: the proxy treats all kinds alike.
var duplex = &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}

// inMemory makes the servers and connections of a test use memory in place of the network. Tests under synctest need it.
func inMemory(t testing.TB) {
	memoryTests.Store(t, true)
	t.Cleanup(func() { memoryTests.Delete(t) })
}

var (
	memoryTests     sync.Map // testing.TB to true
	memoryListeners sync.Map // address to *memnet.Listener
	memoryCount     atomic.Int64
)

// listen listens on a loopback port, or in memory.
func listen(t testing.TB) (net.Listener, string) {
	t.Helper()

	if _, ok := memoryTests.Load(t); ok {
		addr := fmt.Sprint("memory-", memoryCount.Add(1))
		l := memnet.Listen(addr)
		l.BufSize = 1 << 20
		memoryListeners.Store(addr, l)
		t.Cleanup(func() { memoryListeners.Delete(addr) })

		return l, addr
	}

	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}

	return l, l.Addr().String()
}

// blackHole is an address that never answers, closedPort one that refuses connections.
const (
	blackHole  = "black-hole"
	closedPort = "closed-port"
)

// connect is the dialer of all connections.
func connect(ctx context.Context, addr string) (net.Conn, error) {
	switch addr {
	case blackHole:
		<-ctx.Done()

		return nil, ctx.Err()
	case closedPort:
		return nil, syscall.ECONNREFUSED
	}

	if l, ok := memoryListeners.Load(addr); ok {
		return l.(*memnet.Listener).DialContext(ctx)
	}

	return (&net.Dialer{}).DialContext(ctx, "tcp", addr)
}

// serve runs a server until the test ends, and returns its address.
func serve(t testing.TB, s *grpc.Server) string {
	t.Helper()

	l, addr := listen(t)
	served := make(chan struct{})

	go func() { // ends with s.Stop
		defer close(served)
		_ = s.Serve(l)
	}()

	t.Cleanup(func() {
		s.Stop()
		<-served
	})

	return addr
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

	opts = append([]grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithContextDialer(connect)}, opts...)

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

// connected waits until conn is connected, for tests that count the time of a call.
func connected(t testing.TB, conn *grpc.ClientConn) {
	t.Helper()

	ctx, cancel := context.WithTimeout(context.Background(), testTimeout)
	defer cancel()

	conn.Connect()

	for s := conn.GetState(); s != connectivity.Ready; s = conn.GetState() {
		if !conn.WaitForStateChange(ctx, s) {
			t.Fatalf("the connection is %v", s)
		}
	}
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

// stream is what both sides of a call have in common.
type stream interface {
	SendMsg(m any) error
	RecvMsg(m any) error
}

// send sends one message. io.EOF is not a failure: the status says more.
func send(t testing.TB, s stream, payload string) {
	t.Helper()

	if err := s.SendMsg(proxy.NewFrame([]byte(payload))); err != nil && !errors.Is(err, io.EOF) {
		t.Fatalf("sending %.20q: %v", payload, err)
	}
}

// recv receives one message that must come.
func recv(t testing.TB, s stream) string {
	t.Helper()

	payload, err := tryRecv(s)
	if err != nil {
		t.Fatalf("receiving: %v", err)
	}

	return payload
}

func tryRecv(s stream) (string, error) {
	f := proxy.NewFrame(nil).(*proxy.Frame)
	err := s.RecvMsg(f)

	return string(f.Bytes()), err
}

// collect receives until the end and returns the messages and what the stream ended with, nil for OK.
func collect(s stream) (messages []string, err error) {
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

// wantStatus checks what a call ended with. text must be part of the message.
func wantStatus(t testing.TB, err error, code codes.Code, text string) {
	t.Helper()

	s := status.Convert(err)
	if s.Code() != code || !strings.Contains(s.Message(), text) || strings.ContainsAny(s.Message(), "\n\r") {
		t.Errorf("the call ended with %v: %q, want %v and %q, on one line", s.Code(), s.Message(), code, text)
	}
}

// within fails the test if f takes longer. It is for what must happen at once, with room for a slow machine.
func within(t testing.TB, limit time.Duration, what string, f func()) {
	t.Helper()

	begin := time.Now()
	f()

	if d := time.Since(begin); d > limit {
		t.Errorf("%s took %v, want at most %v", what, d, limit)
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

// answer returns a handler that reads the requests to their end and then sends the messages.
func answer(messages ...string) grpc.StreamHandler {
	return func(_ any, s grpc.ServerStream) error {
		if _, err := collect(s); err != nil {
			return err
		}

		for _, m := range messages {
			if err := s.SendMsg(proxy.NewFrame([]byte(m))); err != nil {
				return err
			}
		}

		return nil
	}
}

// fail returns a handler that reads the requests to their end, sends the messages, and fails.
func fail(code codes.Code, text string, messages ...string) grpc.StreamHandler {
	return func(srv any, s grpc.ServerStream) error {
		if err := answer(messages...)(srv, s); err != nil {
			return err
		}

		return status.Error(code, text)
	}
}

// hang is a handler that does nothing until its call is cancelled.
func hang(_ any, s grpc.ServerStream) error {
	<-s.Context().Done()

	return s.Context().Err()
}

// bufferSlice is b as grpc-go's transport would hand it over.
func bufferSlice(b []byte) mem.BufferSlice {
	return mem.BufferSlice{mem.Copy(b, mem.DefaultBufferPool())}
}

// countDials is the dialer of connections whose attempts are counted.
func countDials(n *atomic.Int64) func(context.Context, string) (net.Conn, error) {
	return func(ctx context.Context, addr string) (net.Conn, error) {
		n.Add(1)

		return connect(ctx, addr)
	}
}
