// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package h2

import (
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/manifold-grpc/manifold/internal/h2/frame"
	"github.com/manifold-grpc/manifold/internal/h2/hpack"
)

const (
	// dataFrameLen is the longest DATA frame sent: what every receiver takes, and short
	// enough for streams to alternate.
	dataFrameLen = frame.MinMaxFrameSize
	// writeLen bounds one write that blocks until all is written, so that progress shows.
	writeLen = 64 << 10
	// keepOut is the capacity up to which a write buffer is used again.
	keepOut = 512 << 10
)

// An outBuffer is a write buffer on its way through the pool.
type outBuffer struct{ p []byte }

// outPool holds write buffers: an idle connection has none.
var outPool = sync.Pool{New: func() any { return &outBuffer{make([]byte, 0, 4<<10)} }}

// put makes out, which extends the write buffer, the write buffer. mu is held.
func (c *Conn) put(out []byte) {
	c.appended += int64(len(out) - len(c.out))
	c.out = out
}

// buffer returns the write buffer to append to. mu is held.
func (c *Conn) buffer() []byte {
	if c.out == nil {
		c.outBuf = outPool.Get().(*outBuffer)
		c.out = c.outBuf.p[:0]
	}
	return c.out
}

// room returns how many octets of DATA the peer's windows let s send. mu is held.
func (c *Conn) room(s *Stream) int {
	return int(min(s.send.Available(), c.send.Available()))
}

// appendData puts p, which the windows let pass, into the write buffer as DATA frames.
// mu is held.
func (c *Conn) appendData(s *Stream, p []byte, end bool) {
	c.tookWindow(s, len(p), end)
	out := c.buffer()
	for {
		n := min(len(p), dataFrameLen)
		var f frame.Flags
		if end && n == len(p) {
			f = frame.FlagEndStream
		}
		out = appendFrame(out, frame.TypeData, f, s.id, p[:n])
		if p = p[n:]; len(p) == 0 {
			break
		}
	}
	c.put(out)
}

// appendHeaders puts a header block into the write buffer: of list, or of fields if that is nil. Encoding happens
// at the moment of appending: the table of the peer's decoder follows the order of blocks
// on the wire. mu is held.
func (c *Conn) appendHeaders(id uint32, fields []hpack.Field, list *hpack.List, end bool) {
	c.dataSent++
	var f frame.Flags
	if end {
		f = frame.FlagEndStream
	}
	old := c.buffer()
	if list != nil {
		if p := c.enc.Remembered(list); p != nil { // it is short
			c.put(appendFrame(old, frame.TypeHeaders, f|frame.FlagEndHeaders, id, p))
			return
		}
	}
	out := append(old, emptyHeader[:]...)
	if list != nil {
		out = c.enc.AppendList(out, list)
	} else {
		out = c.enc.Append(out, fields)
	}
	n := len(out) - len(old) - frame.HeaderLen
	if n > c.peer.maxFrame {
		block := append([]byte(nil), out[len(out)-n:]...)
		c.put(c.appendContinued(old, id, block, f))
		return
	}
	frame.PutHeader(out[len(old):], n, frame.TypeHeaders, f|frame.FlagEndHeaders, id)
	c.put(out)
}

// passes reports whether n octets of DATA, at least one and few, can go into the write buffer as they are. mu is held.
func (c *Conn) passes(s *Stream, n int) bool {
	return n > 0 && n < sliverLen && s.queue.n == 0 && len(c.out) < c.cfg.HighWater && c.room(s) >= n
}

// appendMessage is appendHeaders with head, appendData and, if last is not nil, appendHeaders with last, at once: for messages that the
// windows let pass, between header blocks that the encoder remembers. Otherwise it does nothing and returns false. end is for the last frame. mu is held.
func (c *Conn) appendMessage(s *Stream, head *hpack.List, p []byte, last *hpack.List, end bool) bool {
	if !c.passes(s, len(p)) {
		return false
	}
	h, t := c.enc.Remembered(head), []byte(nil)
	if last != nil {
		if t = c.enc.Remembered(last); t == nil {
			return false
		}
	}
	if h == nil {
		return false
	}
	var middle, ended frame.Flags
	if end {
		ended = frame.FlagEndStream
	}
	n := 2*frame.HeaderLen + len(h) + len(p)
	if last == nil {
		middle = ended
	} else {
		n += frame.HeaderLen + len(t)
		c.dataSent++
	}
	old := c.buffer()
	out := slices.Grow(old, n)[:len(old)+n]
	at := putFrame(out[len(old):], frame.TypeHeaders, frame.FlagEndHeaders, s.id, h)
	at = putFrame(at, frame.TypeData, middle, s.id, p)
	if last != nil {
		putFrame(at, frame.TypeHeaders, frame.FlagEndHeaders|ended, s.id, t)
	}
	c.put(out)
	c.dataSent++
	c.tookWindow(s, len(p), end && last == nil)
	return true
}

// appendFrame appends a frame.
func appendFrame(dst []byte, t frame.Type, f frame.Flags, id uint32, p []byte) []byte {
	n, size := len(dst), frame.HeaderLen+len(p)
	dst = slices.Grow(dst, size)[:n+size]
	putFrame(dst[n:], t, f, id, p)
	return dst
}

// putFrame writes a frame over the start of dst, and returns what is left of it.
func putFrame(dst []byte, t frame.Type, f frame.Flags, id uint32, p []byte) (rest []byte) {
	frame.PutHeader(dst, len(p), t, f, id)
	dst = dst[frame.HeaderLen:]
	return dst[copy(dst, p):]
}

// tookWindow notes that n octets of DATA are in the write buffer. mu is held.
func (c *Conn) tookWindow(s *Stream, n int, end bool) {
	s.send.Take(uint32(n))
	c.send.Take(uint32(n))
	c.late.sent += n
	if n >= sliverWorth || end || c.room(s) > 0 {
		c.dataSent += 1 + n/windowUpdateWorth
	}
}

// emptyHeader is where a frame's header goes once its length is known.
var emptyHeader [frame.HeaderLen]byte

// appendContinued appends a block too long for one frame as HEADERS and CONTINUATION.
func (c *Conn) appendContinued(out []byte, id uint32, block []byte, f frame.Flags) []byte {
	t := frame.TypeHeaders
	for {
		n := min(len(block), c.peer.maxFrame)
		if n == len(block) {
			f |= frame.FlagEndHeaders
		}
		out = frame.AppendHeader(out, n, t, f, id)
		out = append(out, block[:n]...)
		if block = block[n:]; len(block) == 0 {
			return out
		}
		t, f = frame.TypeContinuation, 0
	}
}

// flush writes what is in the write buffer without blocking; what the socket
// does not accept is left to a goroutine of its own. No lock is held.
func (c *Conn) flush(b *Batch) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.dirty = false
	if !c.writing && len(c.out) > 0 && !c.broken {
		c.writing = true
		c.writers.Add(1)
		c.writeReady(b)
	}
	if c.drain.final && c.active == 0 && !c.opening && !c.writing && len(c.out) == 0 {
		c.finish()
	}
}

// flushSoon has what is in the write buffer written by a goroutine of its own. The connection stays dirty meanwhile: who appends to
// it leaves the writing to that goroutine. No lock is held.
func (c *Conn) flushSoon(b *Batch) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.broken || c.writing || len(c.out) == 0 {
		c.dirty = false // nobody writes any more; or who does sees to all of it; or there is nothing
		if c.drain.final {
			b.touch(c) // and whether that is all is for flush to see
		}
		return
	}
	c.writers.Add(1)
	go c.flushLater() // writes once, without blocking
}

// flushLater writes what was appended by the time it runs.
func (c *Conn) flushLater() {
	defer c.writers.Done()
	runtime.Gosched()
	var b Batch
	c.flush(&b)
	b.Flush()
}

// writeReady writes what the socket takes now. Who finds the write buffer taken leaves
// what it appends to who took it, so this goes on until nothing is left. mu is held, and
// released meanwhile; writing is set.
func (c *Conn) writeReady(b *Batch) {
	for len(c.out) > 0 && !c.broken {
		buf := c.takeOut()
		p := buf.p
		c.mu.Unlock()
		n, err := c.t.tryWrite(p)
		c.mu.Lock()
		if err == nil && n < len(p) {
			c.blocked = time.Now()
			c.flushed += int64(n)
			go newDrainer(c, buf, n).run() // drainOut: ends when all is written or the connection is closed
			return
		}
		c.wrote(buf, n, err)
		c.pump(b)
	}
	c.stopWriting(b)
}

// stopWriting lets the next one write. mu is held.
func (c *Conn) stopWriting(b *Batch) {
	c.writing, c.blocked = false, time.Time{}
	if c.drain.final {
		b.touch(c) // for flush to see whether that was all
	}
	c.writers.Done()
}

// takeOut takes the write buffer for writing it. mu is held.
func (c *Conn) takeOut() *outBuffer {
	buf := c.outBuf
	buf.p = c.out
	c.out, c.outBuf = nil, nil
	c.control, c.late.armed = 0, false
	return buf
}

// wrote notes that the last n octets of the buffer were written, or why not,
// and gives it back. mu is held.
func (c *Conn) wrote(buf *outBuffer, n int, err error) {
	c.flushed += int64(n)
	if err != nil {
		if c.err == nil {
			c.err = err
		}
		c.gone, c.closed, c.broken = true, true, true
		c.out, c.outBuf = nil, nil
		c.t.nc.Close() //nolint:errcheck // broken already; the read loop ends by it
	}
	if cap(buf.p) <= keepOut {
		poison(buf.p[:cap(buf.p)])
		outPool.Put(buf)
	}
}

// A drainer is what a goroutine of drainOut works with. It is used again: large messages have one start with every
// few writes, and each would allocate its arguments and its Batch.
type drainer struct {
	c    *Conn
	buf  *outBuffer
	from int
	b    Batch
	run  func() // drain
}

var drainers = sync.Pool{New: func() any { return new(drainer) }}

func newDrainer(c *Conn, buf *outBuffer, from int) *drainer {
	d := drainers.Get().(*drainer)
	if d.run == nil {
		d.run = d.drain
	}
	d.c, d.buf, d.from = c, buf, from
	return d
}

func (d *drainer) drain() {
	d.c.drainOut(&d.b, d.buf, d.from)
	d.c, d.buf, d.b.now, d.b.shared = nil, nil, time.Time{}, false
	drainers.Put(d)
}

// drainOut writes the rest of buf and all that comes meanwhile, blocking. b is empty, and so it is again in the end.
func (c *Conn) drainOut(b *Batch, buf *outBuffer, from int) {
	for {
		err := c.writeAll(buf.p[from:])
		c.mu.Lock()
		c.wrote(buf, 0, err)
		c.pump(b)
		if len(c.out) == 0 || c.broken {
			break
		}
		buf, from = c.takeOut(), 0
		c.mu.Unlock()
		b.Flush()
		b.now = time.Time{} // the write may have taken long
	}
	c.writers.Add(1) // until what it tells is told
	defer c.writers.Done()
	c.stopWriting(b)
	c.mu.Unlock()
	b.Flush()
}

// writeAll writes p, blocking.
func (c *Conn) writeAll(p []byte) error {
	for len(p) > 0 {
		n, err := c.t.writeSome(p)
		c.mu.Lock()
		c.flushed += int64(n)
		c.blocked = time.Now()
		c.mu.Unlock()
		if err != nil {
			return err
		}
		p = p[n:]
	}
	return nil
}
