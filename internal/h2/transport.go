// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package h2

import (
	"net"
	"sync"
	"syscall"

	"github.com/manifold-grpc/manifold/internal/evloop"
	"github.com/manifold-grpc/manifold/internal/nonblock"
)

// readLen is the size of a read buffer: it holds at least three of the longest frames that we accept,
// and what a batch of small ones brings. bulkLen is that of one for a connection whose
// input filled such a buffer: a quarter of the system calls for large messages.
const (
	readLen = 64 << 10
	bulkLen = 256 << 10
)

// readPool and bulkPool hold read buffers: a connection without input holds none.
var (
	readPool = sync.Pool{New: func() any { return new([readLen]byte) }}
	bulkPool = sync.Pool{New: func() any { return new([bulkLen]byte) }}
)

// firstLen is what a connection without input holds where the socket cannot be asked whether
// there is any, as below TLS: room for the first octets, and for most of what a unary call brings.
const firstLen = 1 << 10

// transport is the octets of a connection: a net.Conn, and the way around it that
// never blocks, where there is one.
type transport struct {
	nc   net.Conn
	raw  syscall.RawConn // nil: reading blocks only, or sock has it
	out  nonblock.Writer // of a socket
	ways *ways           // nil: nc is a socket
	sock *evloop.Socket  // nc, if it may be read by the loop; else nil

	// Owned by the read loop: the arguments and results of readReady.
	in   *reader
	rn   int
	rerr error
	rfn  func(fd uintptr) bool
}

// ways are those of a net.Conn that is no socket.
type ways struct {
	more tryReader  // nil: unless it blocks, there is no telling whether there is more to read
	try  tryWriter  // nil: writing blocks
	some someWriter // nil: writing blocks until all is written
}

// tryReader is a net.Conn that can read what has arrived without blocking: n is 0 with a nil error if
// that is nothing.
type tryReader interface {
	TryRead(p []byte) (n int, err error)
}

// tryWriter is a net.Conn that can write without blocking: n may be less than
// len(p), also 0, with a nil error.
type tryWriter interface {
	TryWrite(p []byte) (n int, err error)
}

// someWriter is a net.Conn that can wait until it accepts something and write that:
// n is at least 1 with a nil error.
type someWriter interface {
	WriteSome(p []byte) (n int, err error)
}

func (t *transport) init(nc net.Conn, share bool) {
	if share && t.initSocket(nc) {
		return
	}
	t.nc = nc
	switch nc := nc.(type) {
	case *net.TCPConn:
		t.initRaw(nc)
	case *net.UnixConn:
		t.initRaw(nc)
	}
	if t.raw != nil {
		t.out.Init(nc)
		return
	}
	t.ways = new(ways)
	t.ways.more, _ = nc.(tryReader)
	t.ways.try, _ = nc.(tryWriter)
	t.ways.some, _ = nc.(someWriter)
}

// tryWrite writes what the socket accepts now. n < len(p) with a nil error:
// the rest must be written by the blocking way.
func (t *transport) tryWrite(p []byte) (n int, err error) {
	switch {
	case t.sock != nil:
		return t.sock.TryWrite(p)
	case t.ways == nil:
		return t.out.TryWrite(p)
	case t.ways.try == nil:
		return 0, nil
	}
	return t.ways.try.TryWrite(p)
}

// writeSome writes some of p, blocking.
func (t *transport) writeSome(p []byte) (n int, err error) {
	switch {
	case t.sock != nil:
		return t.sock.WriteSome(p)
	case t.ways == nil:
		return t.out.WriteSome(p)
	case t.ways.some != nil:
		return t.ways.some.WriteSome(p)
	}
	return t.nc.Write(p[:min(len(p), writeLen)])
}

// closeWrite tells the peer that nothing follows.
func (t *transport) closeWrite() {
	if w, ok := t.nc.(interface{ CloseWrite() error }); ok {
		w.CloseWrite() //nolint:errcheck // the peer may be gone
	}
}

// reader is the read buffer: data[r:w] waits to be parsed. Owned by the read loop.
type reader struct {
	t     *transport
	data  []byte // nil: nothing waits
	r, w  int
	bulk  bool   // the last read filled the buffer, or half of a long one
	first []byte // nil where the socket can be asked
	more  bool   // the last read brought so much that the next will
}

func (r *reader) bytes() []byte {
	if r.data == nil {
		return nil
	}
	return r.data[r.r:r.w]
}

func (r *reader) advance(n int) { r.r += n }

// fill waits for input and reads it.
func (r *reader) fill() (int, error) {
	r.compact()
	if r.t.rfn != nil {
		return r.t.readRaw(r)
	}
	n, err := r.await()
	if n > 0 {
		err = nil // what came before the end counts, and the end comes again
	}
	r.w += n
	if r.t.ways.more != nil && n > 0 {
		n += r.readRest()
	}
	r.took(n)
	return n, err
}

// tryFill reads what there is of a socket that can be asked; 0 with a nil error is nothing.
func (r *reader) tryFill() (int, error) {
	r.compact()
	r.attach()
	n, err := r.t.sock.TryRead(r.data[r.w:])
	r.w += n
	if r.took(n); n == 0 {
		r.release()
	}
	return n, err
}

// await waits for input and reads some.
func (r *reader) await() (n int, err error) {
	if r.data != nil || r.more {
		r.attach()
		n, err = r.t.nc.Read(r.data[r.w:])
		r.more = n >= firstLen && r.t.ways.more == nil
		return n, err
	}
	// Without a read buffer.
	if r.first == nil {
		r.first = make([]byte, firstLen)
	}
	if n, err = r.t.nc.Read(r.first); n > 0 {
		r.attach()
		copy(r.data, r.first[:n])
		r.more = n == firstLen && r.t.ways.more == nil
	}
	return n, err
}

// readRest reads what else has arrived, after some has: TLS gives it by the record, and each batch costs a write. It
// returns how much that is. An error comes again with the next read.
func (r *reader) readRest() (rest int) {
	for r.w < len(r.data) {
		n, err := r.t.ways.more.TryRead(r.data[r.w:])
		r.w += n
		rest += n
		if n == 0 || err != nil {
			break
		}
	}
	return rest
}

// attach makes sure that there is a buffer, and that it is a long one while much comes.
func (r *reader) attach() {
	if r.data != nil && (!r.bulk || len(r.data) == bulkLen) {
		return
	}
	old, n := r.data, r.w
	if r.bulk {
		r.data = bulkPool.Get().(*[bulkLen]byte)[:]
	} else {
		r.data = readPool.Get().(*[readLen]byte)[:]
	}
	if old != nil {
		copy(r.data, old[:n])
		giveBack(old)
	}
}

// took notes that the last n octets of the buffer came at once.
func (r *reader) took(n int) {
	r.bulk = r.w == len(r.data) || len(r.data) == bulkLen && n >= bulkLen/2
}

// compact moves what waits to the front of the buffer.
func (r *reader) compact() {
	if r.r == 0 {
		return
	}
	r.w = copy(r.data, r.data[r.r:r.w])
	r.r = 0
}

// release gives the buffer back if nothing waits in it.
func (r *reader) release() {
	if r.data != nil && r.r == r.w {
		giveBack(r.data)
		r.data, r.r, r.w = nil, 0, 0
	}
}

// giveBack returns a read buffer to its pool.
func giveBack(data []byte) {
	poison(data)
	if len(data) == bulkLen {
		bulkPool.Put((*[bulkLen]byte)(data))
	} else {
		readPool.Put((*[readLen]byte)(data))
	}
}
