// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package tlsconn_test

import (
	"errors"
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/manifold-grpc/manifold/internal/nonblock"
	"github.com/manifold-grpc/manifold/internal/tlsconn"
)

// fullPair returns a server's end of TLS whose socket accepts nothing more, though nothing of TLS waits for it, and the client's socket.
func fullPair(t *testing.T) (client net.Conn, server *tlsconn.Conn) {
	t.Helper()
	a, b := unixSockets(t)
	serverTLS, clientTLS := configs(t)
	server = tlsconn.Server(b, serverTLS)
	t.Cleanup(func() {
		a.Close()
		server.Close()
	})
	done := make(chan error, 1)
	go func() { done <- server.Handshake() }()
	if err := errors.Join(tlsconn.Client(a, clientTLS).Handshake(), <-done); err != nil {
		t.Fatal(err)
	}
	var w nonblock.Writer
	w.Init(b)
	if !w.Can() {
		t.Skip("sockets cannot be asked here")
	}
	for noise := make([]byte, 1<<20); ; {
		if n, err := w.TryWrite(noise); err != nil {
			t.Fatal(err)
		} else if n == 0 {
			return a, server
		}
	}
}

// unixSockets returns two ends of a connection whose buffers do not grow.
func unixSockets(t *testing.T) (a, b net.Conn) {
	t.Helper()
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "socket"))
	if err != nil {
		t.Skip(err)
	}
	defer l.Close()
	if a, err = net.Dial("unix", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if b, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	return a, b
}

// within fails if f takes as long as a write that waits for the peer.
func within(t *testing.T, what string, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		f()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(4 * time.Second):
		t.Fatal(what + " waits for a peer that reads nothing")
	}
}

// An alert to a peer that reads nothing blocks neither who reads nor, by the lock that TLS holds meanwhile, who writes.
func TestAlertNeverBlocks(t *testing.T) {
	client, server := fullPair(t)
	if _, err := client.Write([]byte("\x17\x03\x03\x00\x20 no record that anybody encrypted.")); err != nil {
		t.Fatal(err)
	}
	within(t, "Read", func() {
		if n, err := server.Read(make([]byte, 10)); err == nil {
			t.Errorf("read %d octets of a record that cannot be decrypted", n)
		}
	})
	within(t, "TryWrite", func() { server.TryWrite([]byte("hello")) })
}

// Close does not wait until its alert can be written.
func TestCloseNeverBlocks(t *testing.T) {
	_, server := fullPair(t)
	within(t, "Close", func() { server.Close() })
}
