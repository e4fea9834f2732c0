// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/manifold-grpc/manifold/internal/address"
	"github.com/manifold-grpc/manifold/internal/config"
	"github.com/manifold-grpc/manifold/internal/memnet"
	"github.com/manifold-grpc/manifold/relay"
)

// world is a network in memory with a relay, its client, and gRPC servers, named by their addresses.
// Tests run it by a clock that jumps (testing/synctest).
type world struct {
	t   *testing.T
	log *lockedBuffer

	mu      sync.Mutex
	servers map[string]*node
}

// node is a server of the world.
type node struct {
	*grpc.Server
	listener *memnet.Listener
	answer   func(context.Context) error // what all calls come to; nil: success

	mu     sync.Mutex
	conns  []*memnet.Conn // the dialling ends
	dials  int
	hole   bool // nothing arrives, neither dials nor octets
	closed bool
}

func newWorld(t *testing.T) *world {
	return &world{t: t, servers: map[string]*node{}, log: &lockedBuffer{}}
}

// serve runs a server at addr.
func (w *world) serve(addr string, register ...func(*grpc.Server)) *node {
	n := &node{listener: memnet.Listen(addr)}
	n.Server = grpc.NewServer(grpc.WaitForHandlers(true), grpc.UnknownServiceHandler(func(_ any, st grpc.ServerStream) error {
		if err := st.RecvMsg(&emptypb.Empty{}); err != nil {
			return err
		}
		st.SetTrailer(metadata.Pairs("backend", addr))
		n.mu.Lock()
		answer := n.answer
		n.mu.Unlock()
		if answer != nil {
			if err := answer(st.Context()); err != nil {
				return err
			}
		}
		return st.SendMsg(&emptypb.Empty{})
	}))
	for _, r := range register {
		r(n.Server)
	}
	done := make(chan struct{})
	go func() { // ends with Stop
		defer close(done)
		n.Serve(n.listener) //nolint:errcheck // the calls tell
	}()
	w.t.Cleanup(func() { n.Stop(); <-done })
	w.mu.Lock()
	w.servers[addr] = n
	w.mu.Unlock()

	return n
}

// answers makes what calls come to.
func (n *node) answers(answer func(context.Context) error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.answer = answer
}

// fails has all calls fail with a code.
func (n *node) fails(code codes.Code) {
	n.answers(func(context.Context) error { return status.Error(code, "as asked") })
}

// setHole begins or ends a black hole at the server.
func (n *node) setHole(hole bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.hole = hole
	for _, c := range n.conns {
		if hole {
			c.Freeze()
		} else {
			c.Thaw()
		}
	}
}

// kill breaks all connections and refuses new ones, until revive.
func (n *node) kill() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.closed = true
	for _, c := range n.conns {
		c.Cut()
	}
	n.conns = nil
}

func (n *node) revive() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.closed = false
}

func (n *node) dialled() int {
	n.mu.Lock()
	defer n.mu.Unlock()

	return n.dials
}

// dial is Deps.Dial.
func (w *world) dial(ctx context.Context, _, addr string) (net.Conn, error) {
	w.mu.Lock()
	n := w.servers[addr]
	w.mu.Unlock()
	if n == nil {
		return nil, errors.New("no such host")
	}
	n.mu.Lock()
	hole, closed := n.hole, n.closed
	n.dials++
	n.mu.Unlock()
	switch {
	case hole:
		<-ctx.Done()
		return nil, ctx.Err()
	case closed:
		return nil, errors.New("connection refused")
	}
	nc, err := n.listener.DialContext(ctx)
	if err == nil {
		n.mu.Lock()
		n.conns = append(n.conns, nc.(*memnet.Conn))
		n.mu.Unlock()
	}

	return nc, err
}

// open opens a backend and waits until its endpoints are tried.
func (w *world) open(cfg Config, hooks ...Hooks) *Backend {
	w.t.Helper()
	deps := Deps{Dial: w.dial, Log: logTo(w.log)}
	for _, h := range hooks {
		deps.Hooks = h
	}
	b, err := Open("b", cfg, deps)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(b.Close)
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	b.AwaitTries(ctx)

	return b
}

// client runs a relay before b, and returns a channel to it.
func (w *world) client(b *Backend) *grpc.ClientConn {
	return w.routed(func(c *relay.Call) { c.Forward(b.Relay()) })
}

// routed runs a relay that routes as told, and returns a channel to it.
func (w *world) routed(route func(*relay.Call)) *grpc.ClientConn {
	w.t.Helper()
	front := memnet.Listen("front")
	s := &relay.Server{Route: route}
	done := make(chan struct{})
	go func() { // ends with Close
		defer close(done)
		s.Serve(front) //nolint:errcheck // the calls tell
	}()
	w.t.Cleanup(func() { s.Close(); <-done })
	cc, err := grpc.NewClient("passthrough:///front", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return front.DialContext(ctx) }))
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { cc.Close() }) //nolint:errcheck // of no interest

	return cc
}

// call makes a call and returns which server it came to.
func call(cc *grpc.ClientConn, timeout time.Duration, md ...string) (string, error) {
	ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(context.Background(), md...), timeout)
	defer cancel()
	var trailer metadata.MD
	err := cc.Invoke(ctx, "/a.B/C", &emptypb.Empty{}, &emptypb.Empty{}, grpc.Trailer(&trailer))

	return one(trailer.Get("backend")), err
}

func one(values []string) string {
	if len(values) == 0 {
		return ""
	}

	return values[0]
}

// tallyOfCalls makes n calls and returns how many came to each server; failures count for "".
func tallyOfCalls(cc *grpc.ClientConn, n int, md ...string) map[string]int {
	tally := map[string]int{}
	for range n {
		name, err := call(cc, time.Second, md...)
		if err != nil {
			name = ""
		}
		tally[name]++
	}

	return tally
}

// endpoints returns the configuration of endpoints by their addresses.
func endpoints(addrs ...string) config.Endpoints {
	var list config.Endpoints
	for _, a := range addrs {
		list = append(list, config.NamedEndpoint{Name: a, Endpoint: address.Endpoint{Address: address.Address{Network: "tcp", Addr: a}}})
	}

	return list
}

// lockedBuffer is a log to look into while it is written.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()

	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()

	return b.buf.String()
}

func logTo(b *lockedBuffer) *slog.Logger { return slog.New(slog.NewTextHandler(b, nil)) }

// events collects what hooks tell, a line each.
type events struct {
	mu    sync.Mutex
	lines []string
}

func (e *events) add(format string, args ...any) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.lines = append(e.lines, fmt.Sprintf(format, args...))
}

func (e *events) all() []string {
	e.mu.Lock()
	defer e.mu.Unlock()

	return slices.Clone(e.lines)
}
