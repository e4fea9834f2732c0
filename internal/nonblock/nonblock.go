// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

// Package nonblock reads from and writes to sockets without waiting: what there is, and as much as the socket
// accepts now. net.Conn has no such calls.
package nonblock

import (
	"net"
	"syscall"
)

// A Reader reads from one socket with system calls that the runtime is not told of, where there
// are such (see [Read]). It is for one goroutine at a time. The zero value can read nothing.
type Reader struct {
	raw syscall.RawConn

	// Arguments and results of ready, which is kept so that a read allocates nothing.
	p    []byte
	lend Lender // nil: p is there
	wait bool
	n    int
	err  error
	fn   func(fd uintptr) bool
}

// A Lender has the memory that a read goes into.
type Lender interface {
	// Lend returns it, at least one octet, once there may be something to read.
	Lend() []byte
	// Return is told that nothing was read into it: there is nothing yet, or there was an error.
	Return()
}

// Init makes r read from nc, if that is a socket which can be asked; else it
// leaves r as it is.
func (r *Reader) Init(nc net.Conn) {
	r.raw = rawOfConn(nc)
	r.fn = r.ready
}

// Can reports whether r has a socket that can be asked.
func (r *Reader) Can() bool { return r.raw != nil }

// Read waits until there is input, and reads it; io.EOF is the end. The socket's read deadline bounds the wait.
func (r *Reader) Read(p []byte) (n int, err error) { return r.read(p, true) }

// ReadInto is Read into memory of l, which is held only if there is something to read.
func (r *Reader) ReadInto(l Lender) (n int, err error) {
	r.lend, r.wait, r.n, r.err = l, true, 0, nil
	err = r.raw.Read(r.fn)
	r.lend, r.p = nil, nil
	if err == nil {
		err = r.err
	}
	return r.n, err
}

// TryRead reads what there is; 0 with a nil error is nothing.
func (r *Reader) TryRead(p []byte) (n int, err error) { return r.read(p, false) }

func (r *Reader) read(p []byte, wait bool) (n int, err error) {
	if len(p) == 0 {
		return 0, nil
	}
	r.p, r.wait, r.n, r.err = p, wait, 0, nil
	err = r.raw.Read(r.fn)
	r.p = nil
	if err == nil {
		err = r.err
	}
	return r.n, err
}

// rawOfConn returns the way to the socket of nc, or nil.
func rawOfConn(nc net.Conn) syscall.RawConn {
	switch nc := nc.(type) {
	case *net.TCPConn:
		return rawOf(nc)
	case *net.UnixConn:
		return rawOf(nc)
	}
	return nil
}

// A Writer writes to one socket without blocking. It is for one goroutine at a
// time. The zero value writes nothing.
type Writer struct {
	raw syscall.RawConn

	// Arguments and results of ready, which is kept so that a write allocates nothing.
	p    []byte
	wait bool // for the first octet
	n    int
	err  error
	fn   func(fd uintptr) bool
}

// Init makes w write to nc, if that is a socket which can be asked; else it
// leaves w as it is.
func (w *Writer) Init(nc net.Conn) {
	w.raw = rawOfConn(nc)
	w.fn = w.ready
}

// Can reports whether w has a socket that can be asked.
func (w *Writer) Can() bool { return w.raw != nil }

// TryWrite writes what the socket accepts now. n < len(p), also 0, with a nil error means
// that the rest must be written by the blocking way.
func (w *Writer) TryWrite(p []byte) (n int, err error) {
	if w.raw == nil {
		return 0, nil
	}
	return w.write(p, false)
}

// WriteSome waits until the socket accepts something, and writes what it does. The socket's
// write deadline bounds the wait. Only for a socket that can be asked.
func (w *Writer) WriteSome(p []byte) (n int, err error) { return w.write(p, true) }

func (w *Writer) write(p []byte, wait bool) (n int, err error) {
	w.p, w.wait, w.n, w.err = p, wait, 0, nil
	err = w.raw.Write(w.fn)
	w.p = nil
	if err == nil {
		err = w.err
	}
	return w.n, err
}
