// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

// Package nonblock reads from and writes to sockets without waiting: what there is, and as much as the socket
// accepts now. net.Conn has no such calls.
package nonblock

import (
	"net"
	"syscall"
)

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
	switch nc := nc.(type) {
	case *net.TCPConn:
		w.raw = rawOf(nc)
	case *net.UnixConn:
		w.raw = rawOf(nc)
	}
	w.fn = w.ready
}

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
