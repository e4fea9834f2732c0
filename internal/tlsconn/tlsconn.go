// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

// Package tlsconn is TLS for connections that are written without blocking: the
// records of one write are gathered and go to the socket in one call, and what the
// socket does not accept is written by a goroutine of its own.
package tlsconn

import (
	"crypto/tls"
	"net"
	"sync"

	"github.com/manifold-grpc/manifold/internal/nonblock"
)

// A Conn is a tls.Conn with TryWrite. As with a tls.Conn, one goroutine may read while
// another writes; TryWrite and Write are for one goroutine at a time.
type Conn struct {
	*tls.Conn
	low *gather
}

// Server returns the server's end of TLS over nc.
func Server(nc net.Conn, cfg *tls.Config) *Conn {
	g := newGather(nc)
	return &Conn{tls.Server(g, cfg), g}
}

// Client returns the client's end of TLS over nc.
func Client(nc net.Conn, cfg *tls.Config) *Conn {
	g := newGather(nc)
	return &Conn{tls.Client(g, cfg), g}
}

// TryWrite encrypts p and writes what the socket accepts; the rest follows by
// itself. While it does, TryWrite takes nothing and returns 0: then use Write, or try later.
func (c *Conn) TryWrite(p []byte) (int, error) {
	if !c.low.hold() {
		return 0, nil
	}
	n, err := c.Conn.Write(p)
	if lerr := c.low.release(); err == nil {
		err = lerr
	}
	return n, err
}

// Write encrypts p and writes it, blocking.
func (c *Conn) Write(p []byte) (int, error) {
	if err := c.low.wait(); err != nil {
		return 0, err
	}
	n, err := c.TryWrite(p)
	if err != nil {
		return n, err
	}
	return n, c.low.wait()
}

// Close closes the connection, and returns when nothing is written any more.
func (c *Conn) Close() error {
	c.low.stop()
	err := c.Conn.Close()
	c.low.drains.Wait()
	return err
}

// CloseWrite tells the peer that nothing follows. What the socket has not accepted
// yet goes before it: CloseWrite waits for that, because crypto/tls ends all writing
// by a deadline in the past.
func (c *Conn) CloseWrite() error {
	if err := c.low.wait(); err != nil {
		return err
	}
	return c.Conn.CloseWrite()
}

// gather stands between TLS and the socket.
type gather struct {
	net.Conn
	try nonblock.Writer

	mu     sync.Mutex
	idle   *sync.Cond     // draining became false
	drains sync.WaitGroup // the goroutine in drain

	// Guarded by mu.
	holding  bool   // records are collected in buf
	draining bool   // a goroutine writes buf
	stopped  bool   // Close was called: no goroutine starts any more
	buf      []byte // records that the socket has not accepted
	err      error  // of the socket; nothing is written any more
}

func newGather(nc net.Conn) *gather {
	g := &gather{Conn: nc}
	g.idle = sync.NewCond(&g.mu)
	g.try.Init(nc)
	return g
}

// Write takes a record from TLS.
func (g *gather) Write(p []byte) (int, error) {
	g.mu.Lock()
	if g.err != nil {
		defer g.mu.Unlock()
		return 0, g.err
	}
	if g.holding || g.draining {
		defer g.mu.Unlock()
		g.buf = append(g.buf, p...)
		return len(p), nil
	}
	g.mu.Unlock()
	return g.Conn.Write(p) // the handshake, alerts
}

// hold has records collected, unless earlier ones are still being written.
func (g *gather) hold() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.draining {
		return false
	}
	g.holding = true
	return true
}

// release writes the collected records.
func (g *gather) release() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.holding = false
	if g.err != nil || len(g.buf) == 0 {
		return g.err
	}
	n, err := g.try.TryWrite(g.buf)
	if err != nil {
		g.err = err
		return err
	}
	if n < len(g.buf) {
		if g.stopped {
			return net.ErrClosed
		}
		g.draining = true
		g.drains.Add(1)
		go g.drain(n) // ends when all is written or the socket is closed
		return nil
	}
	g.keep(g.buf)
	return nil
}

// keepLen is the capacity up to which the buffer for records is used again.
const keepLen = 128 << 10

// keep empties the buffer. mu is held.
func (g *gather) keep(buf []byte) {
	g.buf = buf[:0]
	if cap(buf) > keepLen {
		g.buf = nil
	}
}

// drain writes what waits, from octet n on, and all that comes meanwhile.
func (g *gather) drain(n int) {
	defer g.drains.Done()
	g.mu.Lock()
	defer g.mu.Unlock()
	buf := g.buf
	g.buf = nil
	for {
		g.mu.Unlock()
		_, err := g.Conn.Write(buf[n:])
		g.mu.Lock()
		if err != nil {
			g.err = err
		}
		if err != nil || len(g.buf) == 0 {
			break
		}
		buf, g.buf, n = g.buf, nil, 0
	}
	g.keep(buf)
	g.draining = false
	g.idle.Broadcast()
}

// stop has no goroutine start any more.
func (g *gather) stop() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.stopped = true
}

// wait returns when nothing waits for the socket.
func (g *gather) wait() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	for g.draining {
		g.idle.Wait()
	}
	return g.err
}
