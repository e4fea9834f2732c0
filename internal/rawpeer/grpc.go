// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package rawpeer

import (
	"encoding/binary"
	"net"
	"sync"
)

// Request returns the fields of a gRPC request, and then more.
func Request(path string, more ...string) []string {
	return append([]string{
		":method", "POST", ":scheme", "http", ":path", path, ":authority", "test",
		"content-type", "application/grpc", "te", "trailers",
	}, more...)
}

// Response returns the fields that open a gRPC response, and then more.
func Response(more ...string) []string {
	return append([]string{":status", "200", "content-type", "application/grpc"}, more...)
}

// TrailersOnly returns the fields of a response that is nothing but a status.
func TrailersOnly(code, message string) []string {
	return Response("grpc-status", code, "grpc-message", message)
}

// Message returns a gRPC message with its prefix.
func Message(payload []byte) []byte {
	m := binary.BigEndian.AppendUint32([]byte{0}, uint32(len(payload)))
	return append(m, payload...)
}

// A Backend accepts connections and plays each by a function of its own.
type Backend struct {
	l    net.Listener
	play func(*Peer)
	wg   sync.WaitGroup

	mu     sync.Mutex
	conns  map[net.Conn]struct{}
	count  int
	closed bool
}

// Serve has play run for each connection of l, in a goroutine of its own, with the
// connection before its preface. The connection is closed when play returns. Close ends all.
func Serve(l net.Listener, play func(*Peer)) *Backend {
	b := &Backend{l: l, play: play, conns: make(map[net.Conn]struct{})}
	b.wg.Add(1)
	go b.accept() // ends with the listener
	return b
}

func (b *Backend) accept() {
	defer b.wg.Done()
	for {
		nc, err := b.l.Accept()
		if err != nil {
			return
		}
		b.mu.Lock()
		b.conns[nc] = struct{}{}
		b.count++
		if b.closed {
			nc.Close() //nolint:errcheck // play sees it
		}
		b.mu.Unlock()
		b.wg.Add(1)
		go b.run(nc) // ends with the connection
	}
}

func (b *Backend) run(nc net.Conn) {
	defer b.wg.Done()
	b.play(New(nc))
	nc.Close() //nolint:errcheck // over either way
	b.mu.Lock()
	delete(b.conns, nc)
	b.mu.Unlock()
}

// Accepted returns how many connections were accepted so far.
func (b *Backend) Accepted() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.count
}

// Addr returns the listener's address.
func (b *Backend) Addr() string { return b.l.Addr().String() }

// Cut closes the connections that are open.
func (b *Backend) Cut() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for nc := range b.conns {
		nc.Close() //nolint:errcheck // over either way
	}
}

// Close closes the listener and the connections, and returns when nothing is left running.
func (b *Backend) Close() {
	b.l.Close() //nolint:errcheck // over either way
	b.mu.Lock()
	b.closed = true
	b.mu.Unlock()
	b.Cut()
	b.wg.Wait()
}
