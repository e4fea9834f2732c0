// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package h2

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/manifold-grpc/manifold/internal/h2/flow"
	"github.com/manifold-grpc/manifold/internal/h2/frame"
)

// The tests of this file use sockets of the operating system: what they do when
// they are full, and what an idle one costs, no memory network shows.

// sockets returns the ends of a connection over loopback or a Unix socket.
func sockets(t testing.TB, network string) (a, b net.Conn) {
	t.Helper()
	addr := "127.0.0.1:0"
	if network == "unix" {
		addr = filepath.Join(t.TempDir(), "s")
	}
	ln, err := net.Listen(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if a, err = net.Dial(network, ln.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if b, err = ln.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}

// A caller is a client's owner that sends octets on each stream and expects them back.
type caller struct {
	owner
	mu   sync.Mutex
	got  map[*Stream]*bytes.Buffer
	left sync.WaitGroup
	t    testing.TB
}

func (k *caller) Headers(s *Stream, b *Batch, h Head) {
	if h.EndStream {
		k.left.Done()
	}
}

func (k *caller) Data(s *Stream, b *Batch, p []byte, end bool) int {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.got[s].Write(p)
	if end {
		k.left.Done()
	}
	return len(p)
}

var _ RunEvents = (*caller)(nil)

func (*caller) Turned() {}

func (k *caller) Run(s *Stream, b *Batch, r Run) (passed int) { return eachFrame(k, s, b, r) }

func (k *caller) End(s *Stream, b *Batch, e End) {
	k.t.Errorf("stream %d: %+v", s.ID(), e)
	k.left.Done()
}

func (k *caller) Credit(*Stream, *Batch, int) {}
func (k *caller) Ready(*Conn, *Batch)         {}

// echoServer is the server's owner: it sends back what comes.
type echoServer struct {
	owner
	app echo
}

func newEchoServer() *echoServer {
	return &echoServer{owner: *newOwner(), app: echo{began: map[*Stream]bool{}}}
}

func (e *echoServer) Headers(s *Stream, b *Batch, h Head) { e.app.headers(s, b, h) }

func (e *echoServer) Data(s *Stream, b *Batch, p []byte, end bool) int {
	passed, err := s.Send(b, p, end)
	if err != nil {
		panic(err)
	}
	return passed
}

var _ RunEvents = (*echoServer)(nil)

func (*echoServer) Turned() {}

func (e *echoServer) Run(s *Stream, b *Batch, r Run) int {
	passed, err := s.SendRun(b, r)
	if err != nil {
		panic(err)
	}
	return passed
}

func (e *echoServer) End(*Stream, *Batch, End)          {}
func (e *echoServer) Credit(s *Stream, b *Batch, n int) { s.Consumed(b, n) }
func (e *echoServer) Ready(*Conn, *Batch)               {}
func (e *echoServer) GoAway(*Conn, *Batch, frame.Code)  {}

// serve runs c until it ends, and returns what waits for that.
func serve(c *Conn) (ended func() error) {
	result := make(chan error, 1)
	go func() { result <- c.Serve() }() // ends with the connection
	return func() error {
		select {
		case err := <-result:
			<-c.Done()
			return err
		case <-time.After(30 * time.Second):
			c.Close()
			return errors.New("Serve did not return")
		}
	}
}

// Streams that together are far more than sockets and windows hold arrive whole,
// and the connections end when both sides have had enough.
func TestSockets(t *testing.T) {
	for _, tt := range []struct {
		name, network string
		share         bool
	}{{"tcp", "tcp", false}, {"unix", "unix", false}, {"shared tcp", "tcp", true}, {"shared unix", "unix", true}} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			a, b := sockets(t, tt.network)
			k := &caller{owner: *newOwner(), got: map[*Stream]*bytes.Buffer{}, t: t}
			budget := flow.NewBudget(1 << 30)
			client := New(a, Config{Client: true, Budget: budget, ShareReader: tt.share}, k)
			server := New(b, Config{Budget: budget, ShareReader: tt.share}, newEchoServer())
			endClient, endServer := serve(client), serve(server)

			sent := call(t, client, k, 20, 300_000)
			k.left.Wait()
			k.mu.Lock()
			for s, got := range k.got {
				if !bytes.Equal(got.Bytes(), sent[s]) {
					t.Errorf("stream %d: %d octets came back, not the %d that were sent", s.ID(), got.Len(), len(sent[s]))
				}
			}
			k.mu.Unlock()
			if n := budget.Used(); n != 0 {
				t.Errorf("%d octets of the budget were not given back", n)
			}
			var batch Batch
			server.Drain(&batch)
			batch.Flush()
			if err := endServer(); !errors.Is(err, errDrained) {
				t.Errorf("server ended with %v", err)
			}
			if err := endClient(); !errors.Is(err, io.EOF) && !errors.Is(err, errDrained) {
				t.Errorf("client ended with %v", err)
			}
		})
	}
}

// call opens n streams and sends size octets on each.
func call(t *testing.T, c *Conn, k *caller, n, size int) (sent map[*Stream][]byte) {
	sent = map[*Stream][]byte{}
	pat := pattern{}
	k.left.Add(n)
	for range n {
		s := &Stream{}
		k.mu.Lock()
		k.got[s] = &bytes.Buffer{}
		k.mu.Unlock()
		var b Batch
		if err := c.Open(&b, s, own(requestFields), false); err != nil {
			t.Fatal(err)
		}
		sent[s] = pat.next(s.ID(), size)
		if _, err := s.Send(&b, sent[s], true); err != nil {
			t.Fatal(err)
		}
		b.Flush()
	}
	return sent
}

// A connection that has nothing to do holds no buffer: many are open, and most
// of them idle.
func TestIdleMemory(t *testing.T) {
	const conns, limit = 50, 16 << 10
	if raceEnabled {
		t.Skip("the race detector needs memory of its own")
	}
	var ends []func() error
	var all []*Conn
	before := heap()
	for range conns {
		a, b := sockets(t, "tcp")
		k := &caller{owner: *newOwner(), got: map[*Stream]*bytes.Buffer{}, t: t}
		client := New(a, Config{Client: true}, k)
		server := New(b, Config{}, newEchoServer())
		ends = append(ends, serve(client), serve(server))
		all = append(all, client, server)
		call(t, client, k, 1, 1000)
		k.left.Wait()
		k.got = nil
	}
	if per := (heap() - before) / (2 * conns); per > limit {
		t.Errorf("an idle connection holds %d octets, at most %d allowed", per, limit)
	} else {
		t.Logf("an idle connection holds %d octets, with its goroutine's stack", per)
	}
	for i, c := range all {
		c.Close()
		ends[i]() //nolint:errcheck // closed by us
	}
}

// heap returns the memory in use after a collection, stacks included.
func heap() int {
	runtime.GC()
	runtime.GC() // what sync.Pool holds survives one
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc + m.StackInuse)
}

// What was read before, to find out what the peer speaks, is not lost.
func TestPreread(t *testing.T) {
	t.Parallel()
	a, b := sockets(t, "tcp")
	o := newOwner()
	server := New(b, Config{}, o)
	w := newFrameWriter()
	server.Preread(append([]byte(frame.ClientPreface), w.line("SETTINGS; HEADERS 1 end request")...))
	ended := serve(server)
	a.(*net.TCPConn).CloseWrite()
	if err := ended(); err != io.EOF {
		t.Errorf("Serve = %v", err)
	}
	if log := o.take(); len(log) < 2 || log[0] != "ready" || log[1] != "headers 1 end request" {
		t.Errorf("happened: %q", log)
	}
	if server.NetConn() != b {
		t.Error("NetConn is another one")
	}
}

// tlsState is a connection that says it uses TLS.
type tlsState struct{ net.Conn }

func (tlsState) ConnectionState() tls.ConnectionState {
	return tls.ConnectionState{ServerName: "here"}
}

func TestTLSState(t *testing.T) {
	t.Parallel()
	a, _ := sockets(t, "tcp")
	if st := New(a, Config{}, newOwner()).TLS(); st != nil {
		t.Errorf("TLS without TLS: %v", st)
	}
	if st := New(tlsState{a}, Config{}, newOwner()).TLS(); st == nil || st.ServerName != "here" {
		t.Errorf("TLS = %v", st)
	}
}
