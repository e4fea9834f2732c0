// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package tlsconn_test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"testing"

	"github.com/manifold-grpc/manifold/internal/tlsconn"
)

// held lets a test say how much of what was written arrives.
type held struct {
	net.Conn
	on  bool
	buf []byte
}

func (h *held) Write(p []byte) (int, error) {
	if !h.on {
		return h.Conn.Write(p)
	}
	h.buf = append(h.buf, p...)
	return len(p), nil
}

// pass lets the first n octets through.
func (h *held) pass(t *testing.T, n int) {
	t.Helper()
	if _, err := h.Conn.Write(h.buf[:n]); err != nil {
		t.Fatal(err)
	}
	h.buf = h.buf[n:]
}

// heldPair returns two ends of TLS. What the client writes from now on is held.
func heldPair(t *testing.T, memory bool) (h *held, client, server *tlsconn.Conn) {
	t.Helper()
	a, b := sockets(t, memory)
	h = &held{Conn: a}
	serverTLS, clientTLS := configs(t)
	client, server = tlsconn.Client(h, clientTLS), tlsconn.Server(b, serverTLS)
	t.Cleanup(func() {
		client.Close()
		server.Close()
	})
	done := make(chan error, 1)
	go func() { done <- server.Handshake() }()
	if err := errors.Join(client.Handshake(), <-done); err != nil {
		t.Fatal(err)
	}
	h.on = true
	return h, client, server
}

// TryRead returns records that came with an earlier one, and waits neither for more nor for the rest of
// one; reading goes on where it was.
func TestTryRead(t *testing.T) {
	for name, memory := range map[string]bool{"tcp": false, "memory": true} {
		t.Run(name, func(t *testing.T) {
			h, client, server := heldPair(t, memory)
			words := []string{"one", "two", "three"}
			var ends []int
			for _, w := range words {
				if _, err := client.Write([]byte(w)); err != nil {
					t.Fatal(err)
				}
				ends = append(ends, len(h.buf))
			}
			p := make([]byte, 100)
			check := func(read func([]byte) (int, error), want string) {
				t.Helper()
				n, err := read(p)
				if err != nil || string(p[:n]) != want {
					t.Fatalf("read %q, %v, want %q", p[:n], err, want)
				}
			}
			check(server.TryRead, "")
			h.pass(t, ends[1]+7) // two records, and more than the header of the third
			check(server.Read, "one")
			check(server.TryRead, "two")
			check(server.TryRead, "")
			check(server.TryRead, "")
			h.pass(t, ends[2]-ends[1]-7)
			check(server.Read, "three")
			check(server.TryRead, "")
		})
	}
}

// What a short buffer leaves of a record is there at once.
func TestTryReadOfOneRecord(t *testing.T) {
	each(t, func(t *testing.T, client, server *tlsconn.Conn) {
		go client.Write([]byte("hello, world"))
		p := make([]byte, 5)
		for i, read := range []func([]byte) (int, error){server.Read, server.TryRead, server.TryRead, server.TryRead} {
			want := []string{"hello", ", wor", "ld", ""}[i]
			if n, err := read(p); err != nil || string(p[:n]) != want {
				t.Fatalf("read %q, %v, want %q", p[:n], err, want)
			}
		}
	})
}

// Whatever is read, by either way, is whole and in order, and the end is told apart from nothing.
func TestReadOrder(t *testing.T) {
	each(t, func(t *testing.T, client, server *tlsconn.Conn) {
		want := noise(4 << 20)
		go func() {
			for p := want; len(p) > 0; {
				n := min(len(p), 100<<10)
				client.Write(p[:n])
				p = p[n:]
			}
			client.CloseWrite()
		}()
		var got []byte
		p := make([]byte, 64<<10)
		for {
			n, err := server.Read(p)
			got = append(got, p[:n]...)
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			for n > 0 {
				if n, err = server.TryRead(p); err != nil && err != io.EOF {
					t.Fatal(err)
				}
				got = append(got, p[:n]...)
			}
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%d octets arrived, or others than the %d sent", len(got), len(want))
		}
	})
}

// An octet too many that a record lost is an error for TryRead too, and stays one.
func TestTryReadOfBrokenRecord(t *testing.T) {
	h, client, server := heldPair(t, true)
	for _, w := range []string{"one", "two"} {
		if _, err := client.Write([]byte(w)); err != nil {
			t.Fatal(err)
		}
	}
	h.buf[len(h.buf)-1] ^= 1
	h.pass(t, len(h.buf))
	p := make([]byte, 100)
	if n, err := server.Read(p); err != nil || string(p[:n]) != "one" {
		t.Fatalf("read %q, %v", p[:n], err)
	}
	for range 2 {
		if n, err := server.TryRead(p); n != 0 || err == nil {
			t.Fatalf("a record with another tag: read %q, %v, want an error", p[:n], err)
		}
	}
	if _, err := server.Read(p); err == nil {
		t.Fatal("a read after a broken record succeeds")
	}
}

// A message costs no allocation once buffers are there, but for the small object that crypto/tls makes whenever it reads of
// its connection: at most one for each record.
func TestAllocations(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector has sync.Pool lose what it holds")
	}
	client, server := pair(t, false)
	message := noise(64 << 10)
	p := make([]byte, 64<<10)
	round := func() {
		if _, err := client.TryWrite(message); err != nil {
			t.Fatal(err)
		}
		for got := 0; got < len(message); {
			n, err := server.Read(p)
			if err != nil {
				t.Fatal(err)
			}
			for got += n; n > 0; got += n {
				if n, err = server.TryRead(p); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	for range 20 {
		round()
	}
	if n := testing.AllocsPerRun(200, round); n > 4 {
		t.Errorf("%v allocations for a message of 64 KiB, want no more than its 4 records", n)
	}
}
