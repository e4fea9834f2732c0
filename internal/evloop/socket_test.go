// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package evloop

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/net/nettest"
)

func TestMain(m *testing.M) {
	if runtime.GOMAXPROCS(0) < 2 {
		runtime.GOMAXPROCS(2) // with one there is no loop
	}
	SetPatient(true) // a test that does nothing but write is busy
	goleak.VerifyTestMain(m)
}

// pair returns a Socket and its peer.
func pair(t *testing.T, network string) (*Socket, net.Conn) {
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
	a, err := net.Dial(network, ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	b, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	s := Of(a)
	if s == nil {
		t.Fatal("a socket is none")
	}
	t.Cleanup(func() { s.Close(); b.Close() })
	b.SetDeadline(time.Now().Add(10 * time.Second))
	return s, b
}

// resting has the loop take the socket from Go's poller, and give it back.
func resting(t *testing.T, s *Socket) {
	t.Helper()
	h := newHandler(s, false)
	if !s.Watch(h) {
		t.Fatal("the loop does not take the socket")
	}
	shared.kick(s)
	<-h.left
	if s.Polled() {
		t.Fatal("Go's poller knows of a socket that the loop took")
	}
}

// both runs a test with a socket as it comes, and with one that the loop had.
func both(t *testing.T, f func(t *testing.T, s *Socket, peer net.Conn)) {
	for _, network := range []string{"tcp", "unix"} {
		t.Run(network, func(t *testing.T) {
			s, peer := pair(t, network)
			f(t, s, peer)
		})
		t.Run(network+" after the loop", func(t *testing.T) {
			s, peer := pair(t, network)
			resting(t, s)
			f(t, s, peer)
		})
	}
}

// The net package's own tests of a net.Conn hold.
func TestConn(t *testing.T) {
	for _, rest := range []bool{false, true} {
		nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
			a, b := pair(t, "tcp")
			if rest {
				resting(t, a)
			}
			return a, Of(b), func() { a.Close(); b.Close() }, nil
		})
	}
}

func TestTry(t *testing.T) {
	both(t, func(t *testing.T, s *Socket, peer net.Conn) {
		p := make([]byte, 8)
		try := func(want string, wantErr error) {
			t.Helper()
			if n, err := s.TryRead(p); string(p[:n]) != want || !errors.Is(err, wantErr) {
				t.Fatalf("read %q, %v, want %q, %v", p[:n], err, want, wantErr)
			}
		}
		try("", nil)
		peer.Write([]byte("hello, world"))
		if n, err := s.Read(p); string(p[:n]) != "hello, w" || err != nil {
			t.Fatalf("read %q, %v", p[:n], err)
		}
		try("orld", nil)
		try("", nil)
		if n, err := s.TryWrite([]byte("back")); n != 4 || err != nil {
			t.Fatalf("TryWrite = %d, %v", n, err)
		}
		if _, err := io.ReadFull(peer, p[:4]); string(p[:4]) != "back" || err != nil {
			t.Fatalf("the peer read %q, %v", p[:4], err)
		}
		s.SetReadDeadline(longAgo)
		try("", os.ErrDeadlineExceeded)
		s.SetReadDeadline(time.Time{})
		if err := s.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if n, err := peer.Read(p); n != 0 || err != io.EOF {
			t.Fatalf("the peer read %d, %v, want the end", n, err)
		}
		peer.Close()
		if n, err := s.Read(p); n != 0 || err != io.EOF {
			t.Fatalf("read %d, %v, want the end", n, err)
		}
		s.Close()
		try("", net.ErrClosed)
		for what, f := range map[string]func() error{
			"TryWrite": func() error { _, err := s.TryWrite(p); return err },
			"Write":    func() error { _, err := s.Write(p); return err },
			"Read":     func() error { _, err := s.Read(p); return err },
			"Close":    s.Close, "CloseWrite": s.CloseWrite,
			"SetDeadline": func() error { return s.SetDeadline(time.Now().Add(time.Hour)) },
		} {
			if err := f(); !errors.Is(err, net.ErrClosed) {
				t.Errorf("%s of a closed socket: %v", what, err)
			}
		}
	})
}

// Everything that a full socket does not take is written once there is room.
func TestFullSocket(t *testing.T) {
	both(t, func(t *testing.T, s *Socket, peer net.Conn) {
		p := bytes.Repeat([]byte("0123456789"), 1<<17)
		total := 0
		for room := true; room; {
			n := total % len(p)
			m, err := s.TryWrite(p[n:])
			if err != nil {
				t.Fatal(err)
			}
			total += m
			room = n+m == len(p)
		}
		s.SetWriteDeadline(time.Now().Add(time.Millisecond))
		if m, err := s.WriteSome(p); m != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("WriteSome = %d, %v, want a timeout", m, err)
		}
		s.SetWriteDeadline(time.Now().Add(10 * time.Second))
		rest := p[total%len(p):]
		wrote := make(chan error)
		go func() {
			_, err := s.Write(rest)
			wrote <- err
		}()
		got := make([]byte, len(p))
		for left := total + len(rest); left > 0; left -= len(p) {
			if _, err := io.ReadFull(peer, got); err != nil || !bytes.Equal(got, p) {
				t.Fatalf("the peer read other octets, %v", err)
			}
		}
		if err := <-wrote; err != nil {
			t.Error(err)
		}
	})
}

// The descriptor is closed when the last operation ends, and by then the peer is told.
func TestCloseIsSeen(t *testing.T) {
	both(t, func(t *testing.T, s *Socket, peer net.Conn) {
		waits := make(chan error)
		go func() {
			_, err := s.Read(make([]byte, 1))
			waits <- err
		}()
		for !s.Polled() {
			runtime.Gosched()
		}
		s.Close()
		if err := <-waits; !errors.Is(err, net.ErrClosed) {
			t.Errorf("who waited got %v", err)
		}
		if n, err := peer.Read(make([]byte, 1)); n != 0 || err != io.EOF {
			t.Errorf("the peer read %d, %v, want the end", n, err)
		}
	})
}

// What is no socket, or closed, is left alone.
func TestOfOthers(t *testing.T) {
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	if Of(a) != nil {
		t.Error("a pipe in memory is a socket")
	}
	c, _ := pair(t, "tcp")
	nc := c.polled.(*net.TCPConn)
	nc.Close()
	if Of(nc) != nil {
		t.Error("a closed connection is a socket")
	}
}

// Options of the socket stay when the loop takes it.
func TestOptionsStay(t *testing.T) {
	s, _ := pair(t, "tcp")
	option := func() (v int) {
		v, err := syscall.GetsockoptInt(s.fd, syscall.IPPROTO_TCP, syscall.TCP_NODELAY)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	before := option()
	resting(t, s)
	if after := option(); before != 1 || after != 1 {
		t.Errorf("TCP_NODELAY is %d before and %d after, want 1", before, after)
	}
	if s.LocalAddr() == nil || s.RemoteAddr().Network() != "tcp" {
		t.Errorf("the addresses are %v and %v", s.LocalAddr(), s.RemoteAddr())
	}
}
