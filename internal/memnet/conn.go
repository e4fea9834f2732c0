// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package memnet

import (
	"io"
	"net"
	"syscall"
	"time"
)

// DefaultBuf is the buffer of each direction where the caller names none. It is
// of the order of a socket's, so that writers of whole batches rarely block.
const DefaultBuf = 256 << 10

// Addr is the address of a listener or of an end of a connection.
type Addr string

var _ net.Addr = Addr("")

// Network returns "mem".
func (a Addr) Network() string { return "mem" }

// String returns the name.
func (a Addr) String() string { return string(a) }

// Conn is one end of a connection. Its methods may run at once, as those of any
// net.Conn; simultaneous Writes do not mix their octets.
type Conn struct {
	in, out       *half
	local, remote Addr
}

var _ net.Conn = (*Conn)(nil)

// Pipe returns the two ends of a connection with a buffer of bufSize octets in
// each direction; 0 means DefaultBuf. The buffers grow as far as they are used.
func Pipe(bufSize int) (a, b *Conn) { return pipe(bufSize, "pipe-a", "pipe-b") }

func pipe(bufSize int, nameA, nameB Addr) (a, b *Conn) {
	if bufSize <= 0 {
		bufSize = DefaultBuf
	}
	ab, ba := newHalf(bufSize), newHalf(bufSize)
	return &Conn{in: ba, out: ab, local: nameA, remote: nameB},
		&Conn{in: ab, out: ba, local: nameB, remote: nameA}
}

// Read reads what is there, and waits for the first octet.
func (c *Conn) Read(p []byte) (int, error) {
	n, err := c.in.read(p)
	return n, c.wrap("read", err)
}

// Write writes all of p and blocks while the buffer is full. p is not kept.
func (c *Conn) Write(p []byte) (int, error) {
	n, err := c.out.write(p, len(p))
	return n, c.wrap("write", err)
}

// WriteSome writes as much of p as has room, and blocks while there is none. It is
// for writers that tell a slow peer from one that reads nothing.
func (c *Conn) WriteSome(p []byte) (int, error) {
	n, err := c.out.write(p, min(len(p), 1))
	return n, c.wrap("write", err)
}

// TryWrite writes as much of p as has room now, possibly nothing, and never
// blocks. It is for writers that hand the rest to somebody who may wait.
func (c *Conn) TryWrite(p []byte) (int, error) {
	n, err := c.out.write(p, 0)
	return n, c.wrap("write", err)
}

// Close closes both directions. The peer can read what was written, then meets
// io.EOF; its writes fail. Operations that wait here return net.ErrClosed. A
// second Close does too.
func (c *Conn) Close() error {
	if !c.in.endRead() {
		return c.wrap("close", net.ErrClosed)
	}
	c.out.endWrite(net.ErrClosed)
	return nil
}

// CloseWrite closes the sending direction: the peer can read what was written,
// then meets io.EOF. Reading goes on.
func (c *Conn) CloseWrite() error {
	c.out.endWrite(syscall.EPIPE)
	return nil
}

// LocalAddr returns the address of this end.
func (c *Conn) LocalAddr() net.Addr { return c.local }

// RemoteAddr returns the address of the other end.
func (c *Conn) RemoteAddr() net.Addr { return c.remote }

// SetDeadline sets both deadlines.
func (c *Conn) SetDeadline(t time.Time) error {
	if err := c.SetReadDeadline(t); err != nil {
		return err
	}
	return c.SetWriteDeadline(t)
}

// SetReadDeadline makes reads fail from t on, those that wait included; the zero
// time means never.
func (c *Conn) SetReadDeadline(t time.Time) error {
	return c.wrap("set", c.in.setReadLimit(t))
}

// SetWriteDeadline makes writes fail from t on, those that wait included; the
// zero time means never.
func (c *Conn) SetWriteDeadline(t time.Time) error {
	return c.wrap("set", c.out.setWriteLimit(t))
}

// wrap says of which operation and connection err is; nil and io.EOF stay.
func (c *Conn) wrap(op string, err error) error {
	if err == nil || err == io.EOF {
		return err
	}
	return &net.OpError{Op: op, Net: c.local.Network(), Source: c.local, Addr: c.remote, Err: err}
}

// Freeze turns the network between both ends into a black hole: writes are
// accepted until the buffers are full, and nothing arrives, neither octets nor
// the news that the other end closed. Deadlines, Close at this end and Cut work
// as ever. For tests.
func (c *Conn) Freeze() { c.setFrozen(true) }

// Thaw ends Freeze; what was written meanwhile arrives.
func (c *Conn) Thaw() { c.setFrozen(false) }

func (c *Conn) setFrozen(v bool) {
	for _, h := range [...]*half{c.in, c.out} {
		h.set(func() { h.frozen = v })
	}
}

// Cut breaks the connection as a reset by the network does: octets on their way
// are lost, and both ends fail with syscall.ECONNRESET. For tests.
func (c *Conn) Cut() {
	c.in.cut()
	c.out.cut()
}

// Counters says what an end has done so far.
type Counters struct {
	BytesRead, BytesWritten uint64 // octets that left, or entered, the buffers
	Reads, Writes           uint64 // calls, those that failed or still wait included
}

// Counters returns the counters of this end.
func (c *Conn) Counters() Counters {
	var n Counters
	c.in.mu.Lock()
	n.BytesRead, n.Reads = c.in.bytesOut, c.in.reads
	c.in.mu.Unlock()
	c.out.mu.Lock()
	n.BytesWritten, n.Writes = c.out.bytesIn, c.out.writes
	c.out.mu.Unlock()
	return n
}

// Buffered returns how many octets this end has written that the other has not
// read.
func (c *Conn) Buffered() int {
	c.out.mu.Lock()
	defer c.out.mu.Unlock()
	return c.out.count
}
