// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

//go:build unix

package h2

import (
	"io"
	"net"
	"syscall"

	"github.com/manifold-grpc/manifold/internal/evloop"
	"github.com/manifold-grpc/manifold/internal/nonblock"
)

func (t *transport) initRaw(nc syscall.Conn) {
	raw, err := nc.SyscallConn()
	if err != nil {
		return // closed already; the first read says so
	}
	t.raw = raw
	t.rfn = t.readReady
}

// initSocket makes nc one that the loop may read, if it can be.
func (t *transport) initSocket(nc net.Conn) bool {
	if t.sock = evloop.Of(nc); t.sock == nil {
		return false
	}
	t.nc, t.rfn = t.sock, t.readReady
	return true
}

func (t *transport) readRaw(r *reader) (int, error) {
	t.in = r
	t.rn, t.rerr = 0, nil
	var err error
	if t.sock != nil {
		err = t.sock.RawRead(t.rfn)
	} else {
		err = t.raw.Read(t.rfn)
	}
	if err == nil {
		err = t.rerr
	}
	return t.rn, err
}

// readReady reads once; false: the poller shall wait for input, and meanwhile
// no buffer is held.
func (t *transport) readReady(fd uintptr) bool {
	r := t.in
	r.attach()
	for {
		n, err := nonblock.Read(int(fd), r.data[r.w:])
		switch {
		case err == syscall.EINTR:
			continue
		case err == syscall.EAGAIN:
			r.release()
			return false
		case err != nil:
			t.rerr = err
		case n == 0:
			t.rerr = io.EOF
		default:
			t.rn = n
			r.w += n
			r.took(n)
		}
		return true
	}
}
