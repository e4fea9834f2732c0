// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"

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
		if c.init(nc, nc) {
			return c
		}
	case *net.UnixConn:
		c := &directUnix{UnixConn: nc}
		if nc.LocalAddr().Network() == "unix" && c.init(nc, nc) {
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
	nc  net.Conn
	raw syscall.RawConn

	reading sync.Mutex // guards in
	in      directRead

	writing sync.Mutex // guards out
	out     nonblock.Writer
}

// directRead is the arguments and results of a read. They are kept so that a read allocates nothing.
type directRead struct {
	ready func(fd uintptr) bool

	p    []byte
	size int            // with pool: the length of buf to ask for
	pool mem.BufferPool // nil: read into p
	buf  *[]byte        // of pool; nil if nothing was read
	n    int
	err  error
}

func (d *directIO) init(nc net.Conn, sc syscall.Conn) bool {
	raw, err := sc.SyscallConn()
	if err != nil {
		return false
	}

	d.nc, d.raw = nc, raw
	d.in.ready = d.in.try
	d.out.Init(nc)

	return d.out.Can()
}

// Read reads into p, as a net.Conn does.
func (d *directIO) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return d.nc.Read(p)
	}

	d.reading.Lock()
	defer d.reading.Unlock()

	d.in.p = p[:min(len(p), maxDirect)]
	_, n, err := d.read()

	return n, err
}

// ReadOnReady reads into a buffer of pool that it takes when there is something to read. grpc-go looks for this method, so that connections
// hold no memory while they wait.
func (d *directIO) ReadOnReady(size int, pool mem.BufferPool) (*[]byte, int, error) {
	d.reading.Lock()
	defer d.reading.Unlock()

	d.in.size, d.in.pool = size, pool

	return d.read()
}

// read reads as d.in says, and leaves there no more than what every read has in common.
func (d *directIO) read() (*[]byte, int, error) {
	in := &d.in
	defer func() { *in = directRead{ready: in.ready} }()

	err := d.raw.Read(in.ready)
	if err == nil {
		err = in.err
	}

	if err != nil && err != io.EOF {
		err = d.opError("read", err)
	}

	return in.buf, in.n, err
}

// try reads once. False has the poller wait for input and call again.
func (in *directRead) try(fd uintptr) bool {
	if in.pool != nil {
		in.buf = in.pool.Get(in.size)
		in.p = (*in.buf)[:min(len(*in.buf), maxDirect)]
	}

	in.n, in.err = nonblock.Read(int(fd), in.p)
	for in.err == syscall.EINTR {
		in.n, in.err = nonblock.Read(int(fd), in.p)
	}

	if in.n == 0 && in.err == nil {
		in.err = io.EOF
	}

	again := in.err == syscall.EAGAIN
	if in.err != nil {
		in.n = 0
		in.giveBack()
	}

	if again {
		in.err = nil // that of the wait counts
	}

	return !again
}

func (in *directRead) giveBack() {
	if in.pool != nil {
		in.pool.Put(in.buf)
		in.buf, in.p = nil, nil
	}
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
