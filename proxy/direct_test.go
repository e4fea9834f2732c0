// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package proxy_test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/nettest"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/mem"

	"github.com/manifold-grpc/manifold/proxy"
)

// pair returns the ends of a connection.
func pair(t testing.TB, network string) (client, server net.Conn) {
	t.Helper()

	address := "127.0.0.1:0"
	if network == "unix" {
		address = filepath.Join(t.TempDir(), "s")
	}

	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()

	if client, err = net.Dial(network, l.Addr().String()); err != nil {
		t.Fatal(err)
	}

	t.Cleanup(func() { client.Close() })

	if server, err = l.Accept(); err != nil {
		t.Fatal(err)
	}

	t.Cleanup(func() { server.Close() })

	return client, server
}

// directPair returns them as credentials see them.
func directPair(t testing.TB, network string) (client, server net.Conn) {
	t.Helper()

	client, server = pair(t, network)
	creds := proxy.DirectSockets(insecure.NewCredentials())

	client, _, err := creds.ClientHandshake(t.Context(), "", client)
	if err != nil {
		t.Fatal(err)
	}

	if server, _, err = creds.Clone().ServerHandshake(server); err != nil {
		t.Fatal(err)
	}

	return client, server
}

// What a net.Conn does, by the tests of the Go project.
func TestDirectSocketIsConn(t *testing.T) {
	for _, network := range []string{"tcp", "unix"} {
		t.Run(network, func(t *testing.T) {
			nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
				c1, c2 = directPair(t, network)

				return c1, c2, func() { c1.Close(); c2.Close() }, nil
			})
		})
	}
}

// Reads and writes fail as those of net's own sockets do.
func TestDirectSocketErrors(t *testing.T) {
	read := func(nc net.Conn) error { _, err := nc.Read(make([]byte, 1)); return err }
	write := func(nc net.Conn) error { _, err := nc.Write(make([]byte, 1)); return err }

	for _, test := range []struct {
		name   string
		before func(nc net.Conn) error
		do     func(nc net.Conn) error
	}{
		{"read after the deadline", func(nc net.Conn) error { return nc.SetReadDeadline(time.Unix(1, 0)) }, read},
		{"write after the deadline", func(nc net.Conn) error { return nc.SetWriteDeadline(time.Unix(1, 0)) }, write},
		{"read of a closed one", net.Conn.Close, read},
		{"write to a closed one", net.Conn.Close, write},
		{"read into nothing of a closed one", net.Conn.Close, func(nc net.Conn) error { _, err := nc.Read(nil); return err }},
		{"write after the end", func(nc net.Conn) error { return nc.(interface{ CloseWrite() error }).CloseWrite() }, write},
	} {
		t.Run(test.name, func(t *testing.T) {
			var errs [2]*net.OpError

			own, _ := pair(t, "tcp")
			nc, _ := directPair(t, "tcp")

			for i, nc := range []net.Conn{own, nc} {
				if err := test.before(nc); err != nil {
					t.Fatal(err)
				}

				err := test.do(nc)
				if !errors.As(err, &errs[i]) {
					t.Fatalf("%v, want a net.OpError", err)
				}

				if e := errs[i]; e.Source.String() != nc.LocalAddr().String() || e.Addr.String() != nc.RemoteAddr().String() {
					t.Errorf("%v: of %v and %v", err, e.Source, e.Addr)
				}
			}

			if want, got := errs[0], errs[1]; got.Op != want.Op || got.Net != want.Net || got.Err.Error() != want.Err.Error() ||
				got.Timeout() != want.Timeout() || got.Temporary() != want.Temporary() ||
				errors.Is(got, net.ErrClosed) != errors.Is(want, net.ErrClosed) || errors.Is(got, syscall.EPIPE) != errors.Is(want, syscall.EPIPE) {
				t.Errorf("%v, want %v", got, want)
			}
		})
	}
}

// A write that waits counts what left before its deadline; after a new one the rest goes on, and arrives whole beside
// a write of another goroutine.
func TestDirectSocketWritesWhole(t *testing.T) {
	for _, size := range []int{48 << 10, 1 << 20} {
		a, b := directPair(t, "tcp")
		piece := bytes.Repeat([]byte{'x'}, size)

		a.SetWriteDeadline(time.Now().Add(20 * time.Millisecond))

		sent, err := 0, error(nil)
		for err == nil {
			var n int
			n, err = a.Write(piece)
			sent += n
		}

		if !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal(err)
		}

		a.SetWriteDeadline(time.Time{})

		var writers sync.WaitGroup
		for _, letter := range []byte{'y', 'z'} {
			writers.Go(func() {
				if n, err := a.Write(bytes.Repeat([]byte{letter}, size)); n != size || err != nil {
					t.Errorf("Write = %d, %v", n, err)
				}
			})
		}

		go func() {
			writers.Wait()
			a.(interface{ CloseWrite() error }).CloseWrite()
		}()

		got, err := io.ReadAll(b)
		if err != nil {
			t.Fatal(err)
		}

		rest := got[min(sent, len(got)):]
		if len(rest) != 2*size || bytes.Count(rest[:size], rest[:1]) != size || bytes.Count(rest[size:], rest[size:size+1]) != size {
			t.Errorf("%d octets after the first %d, want two writes of %d, one after the other", len(rest), sent, size)
		}

		if _, err := b.Write([]byte("half-closed")); err != nil {
			t.Error(err)
		}

		p := make([]byte, 64)
		if n, err := a.Read(p); string(p[:n]) != "half-closed" || err != nil {
			t.Errorf("Read = %q, %v", p[:n], err)
		}
	}
}

// borrowedPool counts the buffers that are out.
type borrowedPool struct {
	mem.BufferPool
	out atomic.Int64
}

func (p *borrowedPool) Get(n int) *[]byte {
	p.out.Add(1)

	return p.BufferPool.Get(n)
}

func (p *borrowedPool) Put(b *[]byte) {
	p.out.Add(-1)
	p.BufferPool.Put(b)
}

// What grpc-go reads with holds no buffer while there is nothing, nor after an error.
func TestDirectSocketReadsWhenReady(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("no direct sockets here")
	}

	a, b := directPair(t, "tcp")
	r := a.(interface {
		ReadOnReady(size int, pool mem.BufferPool) (*[]byte, int, error)
	})
	pool := &borrowedPool{BufferPool: mem.DefaultBufferPool()}

	check := func(want string, wantErr error) {
		t.Helper()

		buf, n, err := r.ReadOnReady(8, pool)
		if !errors.Is(err, wantErr) {
			t.Fatalf("error %v, want %v", err, wantErr)
		}

		if want != "" {
			if string((*buf)[:n]) != want {
				t.Errorf("read %q, want %q", (*buf)[:n], want)
			}

			pool.Put(buf)
		}

		if out := pool.out.Load(); out != 0 {
			t.Errorf("%d buffers are out", out)
		}
	}

	a.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
	check("", os.ErrDeadlineExceeded) // having looked, and waited
	a.SetReadDeadline(time.Time{})
	b.Write([]byte("hello, world"))
	check("hello, w", nil)
	check("orld", nil)

	written := make(chan struct{})
	go func() {
		<-written
		b.Write([]byte("later"))
		b.Close()
	}()
	close(written)
	check("later", nil)
	check("", io.EOF)
	a.Close()
	check("", net.ErrClosed)
}

// xdsCredentials say that they use xDS.
type xdsCredentials struct {
	credentials.TransportCredentials
}

func (xdsCredentials) UsesXDS() bool { return true }

// What is no stream socket reaches the credentials as it is, and what they tell of themselves the program.
func TestDirectSocketsPassOn(t *testing.T) {
	creds := proxy.DirectSockets(insecure.NewCredentials())

	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()

	if nc, _, err := creds.ServerHandshake(a); nc != a || err != nil {
		t.Errorf("a pipe became %v, %v", nc, err)
	}

	tcp, _ := directPair(t, "tcp")
	if nc, _, err := creds.ServerHandshake(tcp); nc != tcp || err != nil {
		t.Errorf("a direct socket became %v, %v", nc, err)
	}

	if p := creds.Info().SecurityProtocol; p != "insecure" {
		t.Errorf("protocol %q", p)
	}

	usesXDS := func(c credentials.TransportCredentials) bool { return c.(interface{ UsesXDS() bool }).UsesXDS() }
	if usesXDS(creds) || !usesXDS(proxy.DirectSockets(xdsCredentials{creds})) {
		t.Error("UsesXDS is not that of the credentials below")
	}
}
