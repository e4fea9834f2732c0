// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

// Package tlsconn is TLS for connections that are written without blocking: the
// records of one write are gathered and go to the socket in one call, and what the
// socket does not accept is written by a goroutine of its own. What has arrived can be
// read without waiting for more.
package tlsconn

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"slices"
	"sync"

	"github.com/manifold-grpc/manifold/internal/nonblock"
)

// A Conn is a tls.Conn with TryRead and TryWrite. As with a tls.Conn, one goroutine may read while
// another writes; Read and TryRead are for one goroutine at a time, and so are TryWrite and Write.
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

// HandshakeContext shakes hands. It must have returned before anything else is called, but for Close: until then records are
// written by who shakes hands, blocking.
func (c *Conn) HandshakeContext(ctx context.Context) error {
	if err := c.Conn.HandshakeContext(ctx); err != nil {
		return err
	}
	c.low.setLive(true)
	return nil
}

// Handshake is HandshakeContext without an end.
func (c *Conn) Handshake() error { return c.HandshakeContext(context.Background()) }

// TryRead reads what has arrived already, one record at most; 0 with a nil error is nothing. It asks the socket only if
// there is probably more than what was read of it before.
func (c *Conn) TryRead(p []byte) (int, error) {
	c.low.trying = true
	n, err := c.Conn.Read(p)
	c.low.trying = false
	if err == errNothing {
		err = nil
	}
	return n, err
}

// TryWrite encrypts p and writes what the socket accepts; the rest follows by
// itself. While it does, TryWrite takes nothing and returns 0: then use Write, or try later.
func (c *Conn) TryWrite(p []byte) (int, error) {
	if !c.low.hold(len(p)) {
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
	for {
		if err := c.low.wait(); err != nil {
			return 0, err
		}
		n, err := c.TryWrite(p)
		switch {
		case err != nil:
			return n, err
		case n == len(p): // else an alert has just begun to be written
			return n, c.low.wait()
		}
	}
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
	c.low.setLive(false)
	return c.Conn.CloseWrite()
}

// gather stands between TLS and the socket.
type gather struct {
	net.Conn
	in  nonblock.Reader
	try nonblock.Writer

	// Owned by who reads.
	trying bool // do not wait for input
	full   bool // the last read filled all that there was room for

	mu     sync.Mutex
	idle   *sync.Cond     // draining became false
	drains sync.WaitGroup // the goroutine in drain

	// Guarded by mu.
	live     bool    // between handshake and CloseWrite: no record may block
	holding  bool    // records are collected in buf
	draining bool    // a goroutine writes buf
	stopped  bool    // Close was called: no goroutine starts any more
	buf      *buffer // records that the socket has not accepted; nil: none
	err      error   // of the socket; nothing is written any more
}

func newGather(nc net.Conn) *gather {
	g := &gather{Conn: nc}
	g.idle = sync.NewCond(&g.mu)
	g.in.Init(nc)
	g.try.Init(nc)
	return g
}

// errNothing ends a read that shall not wait. It is temporary: after such an error TLS goes on where it was.
var errNothing net.Error = nothing{}

type nothing struct{}

func (nothing) Error() string   { return "tlsconn: no input" }
func (nothing) Timeout() bool   { return true }
func (nothing) Temporary() bool { return true }

// Read gives TLS what arrives, in as large portions as it has room for.
func (g *gather) Read(p []byte) (n int, err error) {
	switch {
	case !g.trying && !g.in.Can():
		return g.Conn.Read(p)
	case !g.trying:
		n, err = g.in.Read(p)
	case g.full && g.in.Can():
		if n, err = g.in.TryRead(p); n == 0 && err == nil {
			err = errNothing
		}
	default:
		return 0, errNothing
	}
	g.full = n == len(p)
	return n, err
}

// A buffer is one for records on its way through the pool.
type buffer struct{ p []byte }

// pool holds buffers for records: a connection that writes nothing has none.
var pool = sync.Pool{New: func() any { return new(buffer) }}

// keepLen is the capacity up to which a buffer is used again.
const keepLen = 640 << 10

// buffer returns the buffer to append to. mu is held.
func (g *gather) buffer() *buffer {
	if g.buf == nil {
		g.buf = pool.Get().(*buffer)
	}
	return g.buf
}

// free empties buf, and gives it back.
func free(buf *buffer) {
	if cap(buf.p) <= keepLen {
		buf.p = buf.p[:0]
		pool.Put(buf)
	}
}

// A record holds recordLen octets at most, and recordCost beside them: header, nonce, tag and padding.
const (
	recordLen  = 16 << 10
	recordCost = 64
)

// maxAside bounds the records that TLS writes by itself while the socket takes nothing: alerts, and answers to key updates, which a peer that reads nothing
// can ask for without end.
const maxAside = 64 << 10

var errAside = errors.New("tlsconn: the peer asks for key updates and reads none")

// Write takes a record from TLS. It must not wait: TLS holds the lock of its writing side meanwhile, also where who reads has it send an alert or
// answer a key update, and a TryWrite of somebody else's would wait for a peer that reads nothing.
func (g *gather) Write(p []byte) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.err != nil:
		return 0, g.err
	case !g.live || g.stopped && !g.try.Can(): // or Close would not say goodbye
		return g.writeNow(p)
	}
	buf := g.buffer()
	if g.draining && len(buf.p)+len(p) > maxAside {
		g.err = errAside
		return 0, g.err
	}
	buf.p = append(buf.p, p...)
	if g.holding || g.draining {
		return len(p), nil
	}
	return len(p), g.send()
}

// writeNow writes p, blocking. mu is held, and released meanwhile.
func (g *gather) writeNow(p []byte) (int, error) {
	g.mu.Unlock()
	defer g.mu.Lock()
	return g.Conn.Write(p)
}

// setLive begins and ends the time between handshake and CloseWrite, which write their records themselves.
func (g *gather) setLive(live bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.live = live
}

// hold has the records for n octets collected, unless earlier ones are still being written.
func (g *gather) hold(n int) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.draining {
		return false
	}
	g.holding = true
	buf := g.buffer()
	buf.p = slices.Grow(buf.p, n+(n/recordLen+1)*recordCost)
	return true
}

// release writes the collected records.
func (g *gather) release() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.holding = false
	return g.send()
}

// send writes what is in the buffer: as much as the socket accepts now, and the rest by a goroutine. mu is held.
func (g *gather) send() error {
	buf := g.buf
	g.buf = nil
	if g.err != nil || len(buf.p) == 0 {
		free(buf)
		return g.err
	}
	n, err := g.try.TryWrite(buf.p)
	switch {
	case err != nil:
		g.err = err
	case n == len(buf.p):
	case g.stopped:
		err = net.ErrClosed
	default:
		g.draining = true
		g.drains.Add(1)
		go g.drain(buf, n) // ends when all is written or the socket is closed
		return nil
	}
	free(buf)
	return err
}

// drain writes what waits, buf from octet n on, and all that comes meanwhile.
func (g *gather) drain(buf *buffer, n int) {
	defer g.drains.Done()
	for {
		_, err := g.Conn.Write(buf.p[n:])
		free(buf)
		g.mu.Lock()
		if err != nil {
			g.err = err
		}
		if err != nil || g.buf == nil {
			break
		}
		buf, g.buf, n = g.buf, nil, 0
		g.mu.Unlock()
	}
	defer g.mu.Unlock()
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
