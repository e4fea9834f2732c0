// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

//go:build unix

package nonblock

import (
	"io"
	"syscall"
)

// rawOf returns the way to the file descriptor, or nil for a closed socket, whose
// error the blocking way then tells.
func rawOf(nc syscall.Conn) syscall.RawConn {
	raw, err := nc.SyscallConn()
	if err != nil {
		return nil
	}
	return raw
}

// ready writes until all is written or the socket would block. False has the poller wait and call
// again: only for who wants to wait, and has nothing written yet.
func (w *Writer) ready(fd uintptr) bool {
	for w.n < len(w.p) {
		n, err := Write(int(fd), w.p[w.n:])
		if n > 0 {
			w.n += n
		}
		switch err {
		case nil, syscall.EINTR:
		case syscall.EAGAIN:
			return !w.wait || w.n > 0
		default:
			w.err = err
			return true
		}
	}
	return true
}

// ready reads once. False has the poller wait for input and call again.
func (r *Reader) ready(fd uintptr) bool {
	if r.lend != nil {
		r.p = r.lend.Lend()
	}
	n, err := Read(int(fd), r.p)
	for err == syscall.EINTR {
		n, err = Read(int(fd), r.p)
	}
	if err == nil && n > 0 {
		r.n = n
		return true
	}
	if r.lend != nil {
		r.lend.Return()
	}
	switch err {
	case syscall.EAGAIN:
		return !r.wait
	case nil:
		err = io.EOF
	}
	r.err = err
	return true
}
