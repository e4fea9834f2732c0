// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package h2

import (
	"cmp"
	"slices"

	"github.com/manifold-grpc/manifold/internal/h2/flow"
	"github.com/manifold-grpc/manifold/internal/h2/frame"
	"github.com/manifold-grpc/manifold/internal/h2/hpack"
)

// maxStreamID is the last identifier that a client may use.
const maxStreamID = 1<<31 - 1

// pseudoFields is how many pseudo-header fields a request can have: the first of its fields.
const pseudoFields = 4

// Open opens s with a request. The error is [ErrFull] or [ErrGone], and then s may be
// handed to another connection. fields is not kept. Client only.
func (c *Conn) Open(b *Batch, s *Stream, fields []hpack.Field, end bool) error {
	return c.open(b, s, fields, nil, end)
}

// OpenList is Open with a list that is sent often.
func (c *Conn) OpenList(b *Batch, s *Stream, list *hpack.List, end bool) error {
	return c.open(b, s, list.Fields, list, end)
}

// OpenMessage is OpenList and Send of p, where all of that can be done at once; sent is whether it was. Otherwise it is OpenList alone.
func (c *Conn) OpenMessage(b *Batch, s *Stream, list *hpack.List, p []byte, end bool) (sent bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.admit(s, list.Fields); err != nil {
		return false, err
	}
	b.touch(c)
	if !c.appendMessage(s, list, p, nil, end) {
		c.appendHeaders(s.id, list.Fields, list, false)
		return false, nil
	}
	if end {
		c.endSend(b, s)
	}
	return true, nil
}

func (c *Conn) open(b *Batch, s *Stream, fields []hpack.Field, list *hpack.List, end bool) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.admit(s, fields); err != nil {
		return err
	}
	c.appendHeaders(s.id, fields, list, end)
	b.touch(c)
	if end {
		c.endSend(b, s)
	}
	return nil
}

// admit gives s the next identifier. mu is held until its header block is appended.
func (c *Conn) admit(s *Stream, fields []hpack.Field) error {
	if c.gone || c.closed || c.nextID > maxStreamID {
		return ErrGone
	}
	if c.openable() == 0 {
		return ErrFull
	}
	c.register(s, c.nextID)
	c.nextID += 2
	s.toHead = toHead(fields)
	s.mark = c.appended
	return nil
}

// toHead reports whether a request's method is HEAD.
func toHead(fields []hpack.Field) bool {
	for i := range min(len(fields), pseudoFields) {
		if fields[i].Name == ":method" {
			return fields[i].Value == "HEAD"
		}
	}
	return false
}

// register puts s into the table. mu is held.
func (c *Conn) register(s *Stream, id uint32) {
	s.conn, s.id = c, id
	s.bodyLeft = -1
	s.recv.Init(c.cfg.StreamWindow, c.cfg.MaxStreamWindow, c.growth, s.Growth)
	s.send = flow.NewSendWindow(c.peer.window)
	c.streams.put(s)
	c.active++
}

// remove takes s out of the table and drops what it queued. mu is held.
func (c *Conn) remove(b *Batch, s *Stream) {
	if s.removed {
		return
	}
	s.removed = true
	c.streams.del(s)
	c.active--
	s.recv.Close()
	if s.queue.n > 0 {
		n := s.queue.reset()
		c.cfg.Budget.Release(int64(n))
		c.noteQueued(-n)
		b.credits = append(b.credits, credit{s, n})
	}
	freeFields(s.trailers)
	s.trailers = nil
	if !s.queued {
		c.released = append(c.released, s)
	}
	c.ready.remove(s)
	c.tellFree(b)
	if c.active == 0 {
		c.emptied = b.Now()
		if c.drain.final {
			c.farewell(b)
		}
	}
}

// tellFree tells whoever asked that a stream may be opened. mu is held.
func (c *Conn) tellFree(b *Batch) {
	if c.notify {
		c.notify = false
		b.free = append(b.free, c)
	}
}

// removeAbove removes the streams whose identifiers are above last, and returns
// them in their order. mu is held; read loop only.
func (c *Conn) removeAbove(last uint32) []*Stream {
	var out []*Stream
	for s := range c.streams.all() {
		if s.id > last {
			out = append(out, s)
		}
	}
	slices.SortFunc(out, func(a, b *Stream) int { return cmp.Compare(a.id, b.id) })
	for _, s := range out {
		c.remove(&c.batch, s)
	}
	return out
}

// endSend notes that END_STREAM is in the write buffer. mu is held.
func (c *Conn) endSend(b *Batch, s *Stream) {
	s.sendEnded = true
	switch {
	case s.recvEnded:
		c.remove(b, s)
	case s.stopRecv:
		c.resetLocked(b, s, frame.NoError)
	}
}

// endRecv notes that END_STREAM arrived. mu is held.
func (c *Conn) endRecv(b *Batch, s *Stream) {
	s.recvEnded = true
	if s.sendEnded {
		c.remove(b, s)
	}
}

// crossing is how many frames of a server may cross a reset of ours: a header block, RST_STREAM, WINDOW_UPDATE.
const crossing = 4

// forgive makes up for the glitch that a frame on a stream that is over is about to count as, where it may have crossed a
// reset of ours. On a connection to an upstream the resets are one client's doing, and others' calls are on it
// too: nobody may have it cut off. mu is held; read loop only.
func (c *Conn) forgive() {
	if c.crossed > 0 {
		c.crossed--
		c.abuse.patience++
	}
}

// resetLocked sends RST_STREAM and removes s. mu is held.
func (c *Conn) resetLocked(b *Batch, s *Stream, code frame.Code) {
	c.noteReset(s.id)
	if c.cfg.Client {
		c.crossed += crossing
	}
	c.put(frame.AppendRST(c.buffer(), s.id, code))
	c.control++
	b.touch(c)
	c.remove(b, s)
}

// idle reports whether id was never opened. mu is held.
func (c *Conn) idle(id uint32) bool {
	if c.cfg.Client {
		return id&1 == 0 || id >= c.nextID
	}
	return id&1 == 0 || id > c.lastPeer
}

// stray judges a frame for a stream that is not in the table, or is half-closed by the peer.
// mu is held.
func (c *Conn) stray(h frame.Header) *frame.Error {
	switch {
	case c.idle(h.StreamID):
		// RFC 9113 section 5.1, idle: "Receiving any frame other than HEADERS or PRIORITY
		// ... MUST be treated as a connection error of type PROTOCOL_ERROR."
		return &frame.Error{Code: frame.ProtocolError, Reason: "frame_on_idle_stream",
			Detail: h.Type.String() + " frame on a stream that was never opened"}
	case c.drain.final && h.StreamID > c.drain.last:
		return nil // section 6.8: ignored
	case c.streams.get(h.StreamID) == nil && (c.cfg.Client || c.resets.has(h.StreamID)):
		// The peer may not know yet that we reset the stream (section 5.1, closed).
		return nil
	}
	return &frame.Error{Code: frame.StreamClosed, StreamID: h.StreamID, Reason: "frame_on_closed_stream",
		Detail: h.Type.String() + " frame after the end of the stream"}
}

// idRing remembers the last identifiers put into it.
type idRing struct {
	ids  []uint32
	next int
}

const ringSize = 256

func (r *idRing) add(id uint32) {
	if len(r.ids) < ringSize {
		r.ids = append(r.ids, id)
		return
	}
	r.ids[r.next] = id
	r.next = (r.next + 1) % ringSize
}

func (r *idRing) has(id uint32) bool { return r != nil && slices.Contains(r.ids, id) }

// noteReset remembers a stream that we reset. mu is held.
func (c *Conn) noteReset(id uint32) {
	if c.resets == nil {
		c.resets = new(idRing)
	}
	c.resets.add(id)
}
