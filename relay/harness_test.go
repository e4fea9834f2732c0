// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package relay_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/manifold-grpc/manifold/internal/rawpeer"
	"github.com/manifold-grpc/manifold/relay"
)

// patience bounds every wait of a test.
const patience = 20 * time.Second

// octets is the codec of these tests: a message is a *[]byte, taken as it is. Its name
// is the content-subtype.
type octets struct{ subtype string }

func (octets) Marshal(v any) ([]byte, error)   { return *v.(*[]byte), nil }
func (octets) Unmarshal(p []byte, v any) error { *v.(*[]byte) = bytes.Clone(p); return nil }
func (o octets) Name() string                  { return o.subtype }

// listen returns a listener on a free port of the loopback, closed with the test.
func listen(t testing.TB) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// serve runs a grpc-go backend that handles every method, and returns its address.
func serve(t testing.TB, h grpc.StreamHandler, opts ...grpc.ServerOption) (addr string) {
	t.Helper()
	l := listen(t)
	serveOn(t, l, h, opts...)
	return l.Addr().String()
}

func serveOn(t testing.TB, l net.Listener, h grpc.StreamHandler, opts ...grpc.ServerOption) *grpc.Server {
	t.Helper()
	s := grpc.NewServer(append([]grpc.ServerOption{
		grpc.UnknownServiceHandler(h), grpc.ForceServerCodec(octets{"octets"}), grpc.MaxRecvMsgSize(1 << 30),
	}, opts...)...)
	done := make(chan struct{})
	go func() { // ends with Stop
		defer close(done)
		s.Serve(l) //nolint:errcheck // the calls tell
	}()
	t.Cleanup(func() { s.Stop(); <-done })
	return s
}

// raw runs a backend that plays each connection by hand, and returns it.
func raw(t testing.TB, play func(*rawpeer.Peer)) *rawpeer.Backend {
	t.Helper()
	b := rawpeer.Serve(listen(t), play)
	t.Cleanup(b.Close)
	return b
}

// frames plays a connection by telling on of every frame, until that says no.
func frames(on func(*rawpeer.Peer, rawpeer.Frame) error) func(*rawpeer.Peer) {
	return func(p *rawpeer.Peer) {
		if p.Greet() != nil {
			return
		}
		for {
			f, err := p.Read()
			if err != nil || on(p, f) != nil {
				return
			}
		}
	}
}

// rig is a relay under test.
type rig struct {
	*relay.Server
	addr    string
	backend *relay.Backend
}

// shareReader has connections of all rigs share a reader: their sockets, where the network is not one in memory. The tests
// are run both ways.
var shareReader = os.Getenv("MANIFOLD_TEST_SHARE_READER") != ""

// rigConfig says how a relay differs from the plainest. Every field may be zero.
type rigConfig struct {
	endpoint relay.EndpointConfig
	server   func(*relay.Server)
	listener net.Listener
	dial     []grpc.DialOption // of the channel that fanMemory returns
}

// start runs a relay before the addresses, and waits until its endpoints have been tried.
func start(t testing.TB, cfg rigConfig, addrs ...string) *rig {
	t.Helper()
	b := &relay.Backend{Name: "b"}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cfg.endpoint.ShareReader = shareReader
	for _, a := range addrs {
		e := relay.NewEndpoint(a, cfg.endpoint)
		t.Cleanup(e.Close)
		b.Endpoints = append(b.Endpoints, e)
	}
	for _, e := range b.Endpoints {
		e.WaitForStateChange(ctx, relay.Connecting)
	}
	r := &rig{Server: &relay.Server{Route: func(c *relay.Call) { c.Forward(b) }, ShareReader: shareReader}, backend: b}
	if cfg.server != nil {
		cfg.server(r.Server)
	}
	l := cfg.listener
	if l == nil {
		l = listen(t)
	}
	r.addr = l.Addr().String()
	done := make(chan error, 1)
	go func() { done <- r.Serve(l) }() // ends with Close
	t.Cleanup(func() {
		r.Close()
		if err := <-done; !errors.Is(err, relay.ErrServerClosed) {
			t.Errorf("Serve returned %v", err)
		}
	})
	return r
}

// dial returns a channel of grpc-go's.
func dial(t testing.TB, addr string, opts ...grpc.DialOption) *grpc.ClientConn {
	t.Helper()
	cc, err := grpc.NewClient("passthrough:///"+addr, append([]grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.ForceCodec(octets{"octets"}), grpc.MaxCallRecvMsgSize(1<<30), grpc.MaxCallSendMsgSize(1<<30)),
	}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cc.Close() })
	return cc
}

// rawDial returns a client's end to play by hand, its preface sent.
func rawDial(t testing.TB, addr string) *rawpeer.Peer {
	t.Helper()
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	p, err := rawpeer.Client(nc)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// must returns v, or ends the test.
func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// within is the context of a call that must end.
func within(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// awaitReady waits until calls may go to the endpoint. The state is read once a round: one that has become Ready between
// two looks would be waited for to change again.
func awaitReady(t testing.TB, e *relay.Endpoint) {
	t.Helper()
	for s := e.State(); s != relay.Ready; s = e.State() {
		if !e.WaitForStateChange(t.Context(), s) {
			t.Fatalf("%s is %v to the end", e.Addr(), s)
		}
	}
}

// wait receives from a channel, or ends the test.
func wait[T any](t testing.TB, ch <-chan T, what string) T {
	t.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(patience):
		t.Fatalf("waited in vain for %s", what)
		panic("unreachable")
	}
}

// unary makes a unary call.
func unary(ctx context.Context, cc *grpc.ClientConn, method, in string, opts ...grpc.CallOption) (string, error) {
	req, res := []byte(in), []byte(nil)
	err := cc.Invoke(ctx, method, &req, &res, opts...)
	return string(res), err
}

// bidi describes any streaming method.
var bidi = &grpc.StreamDesc{StreamName: "any", ServerStreams: true, ClientStreams: true}

func send(st interface{ SendMsg(any) error }, s string) error {
	p := []byte(s)
	return st.SendMsg(&p)
}

func recv(st interface{ RecvMsg(any) error }) (string, error) {
	var p []byte
	err := st.RecvMsg(&p)
	return string(p), err
}

// echo answers every message with itself.
func echo(_ any, st grpc.ServerStream) error {
	for {
		m, err := recv(st)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if err := send(st, m); err != nil {
			return err
		}
	}
}

// named answers as echo does, with the name in the header field "backend".
func named(name string) grpc.StreamHandler {
	return func(srv any, st grpc.ServerStream) error {
		if err := st.SetHeader(map[string][]string{"backend": {name}}); err != nil {
			return err
		}
		return echo(srv, st)
	}
}

// eventually waits until ok, which no channel tells of.
func eventually(t testing.TB, ok func() bool, what string) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(patience); !ok(); <-tick.C {
		if time.Now().After(end) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}
