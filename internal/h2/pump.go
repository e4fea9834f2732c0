// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package h2

// readyList is the streams that have octets queued and window to send them, in
// the order in which they get their turn. They are linked through themselves, so that a turn costs
// no allocation and leaving early no search.
type readyList struct {
	first, last *Stream
}

// readyLink is a stream's place in a readyList.
type readyLink struct {
	prev, next *Stream
}

func (r *readyList) push(s *Stream) {
	s.isReady, s.ready = true, readyLink{prev: r.last}
	if r.last == nil {
		r.first = s
	} else {
		r.last.ready.next = s
	}
	r.last = s
}

// remove takes s out, if it is in.
func (r *readyList) remove(s *Stream) {
	if !s.isReady {
		return
	}
	l := s.ready
	if l.prev == nil {
		r.first = l.next
	} else {
		l.prev.ready.next = l.next
	}
	if l.next == nil {
		r.last = l.prev
	} else {
		l.next.ready.prev = l.prev
	}
	s.isReady, s.ready = false, readyLink{}
}

// makeReady gives s its turn if it can use one. mu is held.
func (c *Conn) makeReady(s *Stream) {
	if s.queue.n > 0 && s.send.Available() > 0 && !s.isReady && !s.removed {
		c.ready.push(s)
		c.stir()
	}
}

// pump moves queued octets into the write buffer, a frame of each stream in
// turn, while the connection's window and the high-water mark allow. mu is held.
func (c *Conn) pump(b *Batch) {
	for c.send.Available() > 0 && len(c.out) < c.cfg.HighWater && !c.closed {
		s := c.ready.first
		if s == nil || c.holdsBack(&c.send, s.queue.n) {
			return
		}
		c.ready.remove(s)
		c.pumpStream(b, s)
	}
}

// pumpStream sends one frame of what s has queued. mu is held.
func (c *Conn) pumpStream(b *Batch, s *Stream) {
	limit := min(c.portion(s, s.queue.n), dataFrameLen)
	if limit == 0 {
		return // held back, or a SETTINGS frame took the window back; WINDOW_UPDATE gives the next turn
	}
	p := s.queue.front(limit)
	n := len(p)
	last := n == s.queue.n
	c.appendData(s, p, last && s.endQueued && s.trailers == nil)
	s.queue.drop(n)
	c.cfg.Budget.Release(int64(n))
	c.noteQueued(-n)
	b.credits = append(b.credits, credit{s, n})
	b.touch(c)
	if !last {
		c.makeReady(s)
		return
	}
	if s.trailers != nil {
		c.appendHeaders(s.id, *s.trailers, nil, s.endQueued)
		freeFields(s.trailers)
		s.trailers = nil
	}
	if s.endQueued {
		c.endSend(b, s)
	}
}

// noteQueued notes that n octets more, or less, are queued. Those for a client leave less for the growth of windows
// by its doing, in either direction: the windows may be closed by then and the octets still lie here. On a
// connection to an upstream they are others' octets. mu is held.
func (c *Conn) noteQueued(n int) {
	if !c.cfg.Client {
		c.growth.Take(int64(n))
	}
}
