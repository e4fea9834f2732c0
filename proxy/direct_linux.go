// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"

	"google.golang.org/grpc/mem"

	"github.com/manifold-grpc/manifold/internal/nonblock"
)

// maxDirect is the most octets that one system call moves of which the runtime is not told.
const maxDirect = 64 << 10

// direct returns a connection that does what nc does with fewer threads woken, or nc if it is no open stream socket.
func direct(nc net.Conn) net.Conn {
	switch nc := nc.(type) {
	case *net.TCPConn:
		c := &directTCP{TCPConn: nc}
		if c.init(nc) {
			return c
		}
	case *net.UnixConn:
		c := &directUnix{UnixConn: nc}
		if nc.LocalAddr().Network() == "unix" && c.init(nc) {
			return c
		}
	}

	return nc
}

// directTCP and directUnix are the sockets, but for reads and writes.
type (
	directTCP struct {
		*net.TCPConn
		directIO
	}
	directUnix struct {
		*net.UnixConn
		directIO
	}
)

// directIO reads and writes a socket. It is safe for concurrent use. Its locks are held for as long as a read or a write waits,
// as those of net's own sockets are; deadlines and Close end that wait. Neither is taken while holding another.
type directIO struct {
	nc net.Conn

	reading sync.Mutex // guards in and lent
	in      nonblock.Reader
	lent    lentBuffer

	writing sync.Mutex // guards out
	out     nonblock.Writer
}

// lentBuffer is a buffer of a pool that a read takes when there is something to read.
type lentBuffer struct {
	pool mem.BufferPool
	size int
	buf  *[]byte // nil: none is taken
}

func (l *lentBuffer) Lend() []byte {
	l.buf = l.pool.Get(l.size)

	return (*l.buf)[:min(len(*l.buf), maxDirect)]
}

func (l *lentBuffer) Return() {
	l.pool.Put(l.buf)
	l.buf = nil
}

func (d *directIO) init(nc net.Conn) bool {
	d.nc = nc
	d.in.Init(nc)
	d.out.Init(nc)

	return d.in.Can() && d.out.Can()
}

// Read reads into p, as a net.Conn does.
func (d *directIO) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return d.nc.Read(p)
	}

	d.reading.Lock()
	defer d.reading.Unlock()

	n, err := d.in.Read(p[:min(len(p), maxDirect)])

	return n, d.readError(err)
}

// ReadOnReady reads into a buffer of pool that it takes when there is something to read. grpc-go looks for this method, so that connections
// hold no memory while they wait.
func (d *directIO) ReadOnReady(size int, pool mem.BufferPool) (*[]byte, int, error) {
	d.reading.Lock()
	defer d.reading.Unlock()

	d.lent.pool, d.lent.size = pool, size
	n, err := d.in.ReadInto(&d.lent)
	buf := d.lent.buf
	d.lent = lentBuffer{}

	return buf, n, d.readError(err)
}

// readError is what a read ended with, as a net.Conn returns it.
func (d *directIO) readError(err error) error {
	if err == nil || err == io.EOF {
		return err
	}

	return d.opError("read", err)
}

// Write writes all of p, as a net.Conn does. What is large takes the socket's own way.
func (d *directIO) Write(p []byte) (n int, err error) {
	d.writing.Lock()
	defer d.writing.Unlock()

	if len(p) == 0 || len(p) > maxDirect {
		return d.nc.Write(p)
	}

	for n < len(p) {
		some, err := d.out.WriteSome(p[n:])
		n += some

		if err != nil {
			return n, d.opError("write", err)
		}
	}

	return n, nil
}

// opError is err as a net.Conn returns it.
func (d *directIO) opError(op string, err error) error {
	if e, ok := errors.AsType[*net.OpError](err); ok {
		err = e.Err // of the raw connection, which has names of its own for the operations
	} else {
		err = os.NewSyscallError(op, err)
	}

	local := d.nc.LocalAddr()

	return &net.OpError{Op: op, Net: local.Network(), Source: local, Addr: d.nc.RemoteAddr(), Err: err}
}
