// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package tlsconn_test

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/manifold-grpc/manifold/internal/certtest"
	"github.com/manifold-grpc/manifold/internal/memnet"
	"github.com/manifold-grpc/manifold/internal/tlsconn"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// pair returns two ends of TLS over TCP, or over memory, where no write can be tried.
func pair(t *testing.T, memory bool) (client, server *tlsconn.Conn) {
	t.Helper()
	a, b := sockets(t, memory)
	serverTLS, clientTLS := configs(t)
	client, server = tlsconn.Client(a, clientTLS), tlsconn.Server(b, serverTLS)
	t.Cleanup(func() {
		client.Close()
		server.Close()
	})
	done := make(chan error, 1)
	go func() { done <- server.Handshake() }()
	if err := errors.Join(client.Handshake(), <-done); err != nil {
		t.Fatal(err)
	}
	return client, server
}

func sockets(t *testing.T, memory bool) (a, b net.Conn) {
	t.Helper()
	if memory {
		return memnet.Pipe(64 << 10)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if a, err = net.Dial("tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if b, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	return a, b
}

func noise(n int) []byte {
	p := make([]byte, n)
	r := rand.NewChaCha8([32]byte{})
	r.Read(p)
	return p
}

// each runs a test over sockets and over memory.
func each(t *testing.T, test func(t *testing.T, client, server *tlsconn.Conn)) {
	for name, memory := range map[string]bool{"tcp": false, "memory": true} {
		t.Run(name, func(t *testing.T) {
			client, server := pair(t, memory)
			test(t, client, server)
		})
	}
}

// Whatever is written, by either way, arrives whole and in order.
func TestOrder(t *testing.T) {
	each(t, func(t *testing.T, client, server *tlsconn.Conn) {
		want := noise(8 << 20)
		got := make(chan []byte, 1)
		go func() {
			p, _ := io.ReadAll(server)
			got <- p
		}()
		r := rand.New(rand.NewPCG(1, 2))
		for p := want; len(p) > 0; {
			n := min(len(p), 1+r.IntN(200<<10))
			m, err := client.TryWrite(p[:n])
			if err != nil {
				t.Fatal(err)
			}
			if m == 0 { // earlier records are still on their way
				if m, err = client.Write(p[:n]); err != nil {
					t.Fatal(err)
				}
			}
			p = p[m:]
		}
		if err := client.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if p := <-got; !bytes.Equal(p, want) {
			t.Errorf("%d octets arrived, or others than the %d sent", len(p), len(want))
		}
	})
}

// A peer that reads nothing blocks no TryWrite: it takes nothing more at some time.
func TestTryWriteNeverBlocks(t *testing.T) {
	each(t, func(t *testing.T, client, server *tlsconn.Conn) {
		p := noise(256 << 10)
		sent := 0
		for {
			n, err := client.TryWrite(p)
			if err != nil {
				t.Fatal(err)
			}
			if n == 0 {
				break
			}
			if sent += n; sent > 1<<30 {
				t.Fatal("a gigabyte was taken with nobody reading")
			}
		}
		got := make(chan int64, 1)
		go func() {
			n, _ := io.CopyN(io.Discard, server, int64(sent))
			got <- n
		}()
		if n := <-got; n != int64(sent) {
			t.Errorf("%d octets arrived of %d", n, sent)
		}
	})
}

// Close ends a write that waits for the peer, and leaves nothing running.
func TestCloseWhileWriting(t *testing.T) {
	each(t, func(t *testing.T, client, _ *tlsconn.Conn) {
		p := noise(256 << 10)
		for {
			if n, err := client.TryWrite(p); err != nil || n == 0 {
				break
			}
		}
		failed := make(chan error, 1)
		go func() {
			_, err := client.Write(p)
			failed <- err
		}()
		client.Close()
		if err := <-failed; err == nil {
			t.Error("a write to a closed connection succeeded")
		}
		if _, err := client.TryWrite(p); err == nil {
			t.Error("TryWrite on a closed connection succeeded")
		}
	})
}

// An error of the socket reaches who writes.
func TestPeerGone(t *testing.T) {
	each(t, func(t *testing.T, client, server *tlsconn.Conn) {
		server.Close()
		p := noise(64 << 10)
		deadline := time.Now().Add(10 * time.Second)
		for time.Now().Before(deadline) {
			if _, err := client.Write(p); err != nil {
				return
			}
		}
		t.Error("writes to a peer that is gone succeed")
	})
}

// A read goes on while a write waits: nobody who reads is held up by who does not.
func TestReadWhileWriteWaits(t *testing.T) {
	each(t, func(t *testing.T, client, server *tlsconn.Conn) {
		p := noise(256 << 10)
		for {
			if n, err := client.TryWrite(p); err != nil {
				t.Fatal(err)
			} else if n == 0 {
				break
			}
		}
		go server.Write([]byte("hello"))
		buf := make([]byte, 5)
		if _, err := io.ReadFull(client, buf); err != nil || string(buf) != "hello" {
			t.Errorf("read %q, %v", buf, err)
		}
	})
}

// The records of one write go to the socket in one call.
func TestGathers(t *testing.T) {
	a, b := memnet.Pipe(1 << 20)
	serverTLS, clientTLS := configs(t)
	calls := &counting{Conn: a}
	client, server := tlsconn.Client(calls, clientTLS), tlsconn.Server(b, serverTLS)
	defer server.Close()
	defer client.Close()
	done := make(chan error, 1)
	go func() { done <- server.Handshake() }()
	if err := errors.Join(client.Handshake(), <-done); err != nil {
		t.Fatal(err)
	}
	before := calls.writes
	if n, err := client.Write(make([]byte, 100<<10)); err != nil || n != 100<<10 { // 7 records
		t.Fatal(n, err)
	}
	if n := calls.writes - before; n != 1 {
		t.Errorf("%d calls of the socket for one write, want 1", n)
	}
}

// counting counts writes.
type counting struct {
	net.Conn
	writes int
}

func (c *counting) Write(p []byte) (int, error) {
	c.writes++
	return c.Conn.Write(p)
}

func configs(t *testing.T) (server, client *tls.Config) {
	t.Helper()
	ca := certtest.New(t)
	server = &tls.Config{Certificates: []tls.Certificate{ca.Issue(t, "localhost").Certificate}, DynamicRecordSizingDisabled: true}
	client = &tls.Config{RootCAs: ca.Pool, ServerName: "localhost", DynamicRecordSizingDisabled: true}
	return server, client
}
