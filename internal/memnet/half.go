// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

// Package memnet is a network inside the process: listeners and buffered
// full-duplex connections with the semantics of TCP, without sockets.
//
// It serves two ends. In production it joins the proxy to services that run in
// the same process. In tests it stands in for the network: it blocks durably
// under testing/synctest, counts octets and calls, and can be frozen or cut.
//
// A connection behaves as a TCP connection does where it matters to a protocol:
//
//   - Write returns as soon as its octets are in the buffer, and blocks while the
//     buffer is full. Two peers that both speak first do not deadlock.
//   - What was written before Close or CloseWrite is readable until it is read;
//     io.EOF follows.
//   - Read and Write at a connection that was closed here fail with
//     net.ErrClosed, Write towards a peer that closed with syscall.EPIPE, both
//     after Cut with syscall.ECONNRESET, and past a deadline with
//     os.ErrDeadlineExceeded. All come in a *net.OpError.
//
// One difference is kinder than TCP: closing with unread octets does not reset
// the connection, so what the closing side wrote still arrives.
package memnet

import (
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// firstBuf is the first size of a buffer, which grows as far as it is used.
const firstBuf = 4 << 10

// half is one direction of a connection: a bounded buffer between a writing and
// a reading end. Octets enter and leave under mu; nobody waits with mu held but
// on the conditions.
type half struct {
	mu       sync.Mutex
	readable sync.Cond // octets came, or the state changed
	writable sync.Cond // room came, a Write ended, or the state changed

	// A ring: count octets from start on. limit bounds len(buf).
	buf          []byte
	start, count int
	limit        int

	writing  bool  // a Write is under way, which others must not cut into
	writeEnd error // why writes fail here: EPIPE after CloseWrite, net.ErrClosed
	readEnd  error // why reads fail here: net.ErrClosed
	reset    bool
	frozen   bool

	readLimit, writeLimit deadline

	bytesIn, bytesOut, writes, reads uint64
}

func newHalf(limit int) *half {
	h := &half{limit: limit}
	h.readable.L, h.writable.L = &h.mu, &h.mu
	return h
}

// write appends as much of p as has room, and waits until that are at least octets.
func (h *half) write(p []byte, least int) (n int, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for h.writing {
		if err := h.writeErr(); err != nil {
			return 0, err
		}
		if least == 0 {
			return 0, nil
		}
		h.writable.Wait()
	}
	h.writing = true
	defer func() {
		h.writing = false
		h.writable.Broadcast()
	}()
	h.writes++
	for {
		if err := h.writeErr(); err != nil {
			return n, err
		}
		n += h.put(p[n:])
		if n >= least {
			return n, nil
		}
		h.writable.Wait()
	}
}

// writeErr says why nothing can be written. A frozen network hides that the
// peer has gone.
func (h *half) writeErr() error {
	switch {
	case h.writeEnd != nil:
		return h.writeEnd
	case h.writeLimit.expired:
		return os.ErrDeadlineExceeded
	case h.reset:
		return syscall.ECONNRESET
	case h.readEnd != nil && !h.frozen:
		return syscall.EPIPE
	}
	return nil
}

// put copies what has room and returns how much that is.
func (h *half) put(p []byte) (n int) {
	p = p[:min(len(p), h.limit-h.count)]
	if len(p) == 0 {
		return 0
	}
	h.reserve(len(p))
	end := (h.start + h.count) % len(h.buf)
	n = copy(h.buf[end:], p)
	copy(h.buf, p[n:]) // the rest, if the ring's end came first
	h.count += len(p)
	h.bytesIn += uint64(len(p))
	h.readable.Broadcast()
	return len(p)
}

// reserve grows the ring until it has room for n more octets.
func (h *half) reserve(n int) {
	size := len(h.buf)
	if h.count+n <= size {
		return
	}
	size = max(size, firstBuf)
	for size < h.count+n {
		size *= 2
	}
	buf := make([]byte, min(size, h.limit))
	c := copy(buf, h.buf[h.start:min(h.start+h.count, len(h.buf))])
	copy(buf[c:], h.buf[:h.count-c])
	h.buf, h.start = buf, 0
}

// read takes up to len(p) octets, and waits for the first one.
func (h *half) read(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.reads++
	for {
		switch {
		case h.readEnd != nil:
			return 0, h.readEnd
		case h.readLimit.expired:
			return 0, os.ErrDeadlineExceeded
		case h.reset:
			return 0, syscall.ECONNRESET
		case len(p) == 0:
			return 0, nil
		case h.count > 0 && !h.frozen:
			return h.take(p), nil
		case h.writeEnd != nil && !h.frozen:
			return 0, io.EOF
		}
		h.readable.Wait()
	}
}

// take copies octets out of the ring; there is at least one.
func (h *half) take(p []byte) (n int) {
	for n < len(p) && h.count > 0 {
		c := copy(p[n:], h.buf[h.start:min(h.start+h.count, len(h.buf))])
		n += c
		h.count -= c
		h.start = (h.start + c) % len(h.buf)
	}
	if h.count == 0 {
		h.start = 0 // the next octets come in one piece
	}
	h.bytesOut += uint64(n)
	h.writable.Broadcast()
	return n
}

// set changes the state under the lock and wakes everybody to look at it.
func (h *half) set(change func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	change()
	h.readable.Broadcast()
	h.writable.Broadcast()
}

// endWrite ends the writing side. The octets in the buffer stay readable. An end
// with net.ErrClosed is final.
func (h *half) endWrite(err error) {
	h.set(func() {
		if h.writeEnd != net.ErrClosed {
			h.writeEnd = err
		}
		if err == net.ErrClosed {
			h.writeLimit.stop()
		}
	})
}

// endRead ends the reading side. Nobody can read what is in the buffer. It
// returns false if that had happened before.
func (h *half) endRead() (first bool) {
	h.set(func() {
		first = h.readEnd == nil
		h.readEnd = net.ErrClosed
		h.drop()
		h.readLimit.stop()
	})
	return first
}

// cut drops what is in the buffer and fails both sides.
func (h *half) cut() {
	h.set(func() {
		h.reset = true
		h.drop()
	})
}

// drop forgets the octets in the buffer.
func (h *half) drop() { h.buf, h.start, h.count = nil, 0, 0 }

// deadline is a point in time after which the operations of one side fail. The
// half's mu guards it.
type deadline struct {
	at      time.Time // zero means none
	expired bool
	timer   *time.Timer // nil until the first deadline
}

// setReadLimit sets the deadline of reads.
func (h *half) setReadLimit(at time.Time) error {
	return h.setDeadline(&h.readLimit, &h.readEnd, at)
}

// setWriteLimit sets the deadline of writes.
func (h *half) setWriteLimit(at time.Time) error {
	return h.setDeadline(&h.writeLimit, &h.writeEnd, at)
}

// setDeadline sets d, which is that of the side that end tells the end of. A
// closed side takes no deadline, so that no timer outlives Close.
func (h *half) setDeadline(d *deadline, end *error, at time.Time) (err error) {
	h.set(func() {
		if *end == net.ErrClosed {
			err = net.ErrClosed
			return
		}
		d.stop()
		d.at, d.expired = at, !at.IsZero() && !time.Now().Before(at)
		if at.IsZero() || d.expired {
			return
		}
		if d.timer == nil {
			d.timer = time.AfterFunc(time.Until(at), func() { h.expire(d) })
			return
		}
		d.timer.Reset(time.Until(at))
	})
	return err
}

// expire runs when d's timer fires, perhaps for a deadline that was replaced in
// the meantime.
func (h *half) expire(d *deadline) {
	h.set(func() {
		if d.at.IsZero() || d.expired {
			return
		}
		if wait := time.Until(d.at); wait > 0 {
			d.timer.Reset(wait)
			return
		}
		d.expired = true
	})
}

// stop ends the timer; nothing waits for it afterwards.
func (d *deadline) stop() {
	d.at = time.Time{}
	if d.timer != nil {
		d.timer.Stop()
	}
}
