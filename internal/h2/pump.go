// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package h2

import "slices"

// readyList is the streams that have octets queued and window to send them, in
// the order in which they get their turn.
type readyList struct {
	list []*Stream
}

func (r *readyList) push(s *Stream) {
	s.inReady = true
	r.list = append(r.list, s)
}

func (r *readyList) pop() *Stream {
	if len(r.list) == 0 {
		r.list = nil
		return nil
	}
	s := r.list[0]
	r.list[0] = nil
	r.list = r.list[1:]
	s.inReady = false
	return s
}

func (r *readyList) remove(s *Stream) {
	s.inReady = false
	if i := slices.Index(r.list, s); i >= 0 {
		r.list = slices.Delete(r.list, i, i+1)
	}
}

// makeReady gives s its turn if it can use one. mu is held.
func (c *Conn) makeReady(s *Stream) {
	if s.queue.n > 0 && s.send.Available() > 0 && !s.inReady && !s.removed {
		c.ready.push(s)
	}
}

// pump moves queued octets into the write buffer, a frame of each stream in
// turn, while the connection's window and the high-water mark allow. mu is held.
func (c *Conn) pump(b *Batch) {
	for c.send.Available() > 0 && len(c.out) < c.cfg.HighWater && !c.closed {
		s := c.ready.pop()
		if s == nil {
			return
		}
		c.pumpStream(b, s)
	}
}

// pumpStream sends one frame of what s has queued. mu is held.
func (c *Conn) pumpStream(b *Batch, s *Stream) {
	limit := min(c.room(s), dataFrameLen)
	if limit == 0 {
		return // a SETTINGS frame took the window back; WINDOW_UPDATE gives the next turn
	}
	p := s.queue.front(limit)
	n := len(p)
	last := n == s.queue.n
	c.appendData(s, p, last && s.endQueued && s.trailers == nil)
	s.queue.drop(n)
	c.cfg.Budget.Release(int64(n))
	b.credits = append(b.credits, credit{s, n})
	b.touch(c)
	if !last {
		c.makeReady(s)
		return
	}
	if s.trailers != nil {
		c.appendHeaders(s.id, s.trailers, s.endQueued)
		s.trailers = nil
	}
	if s.endQueued {
		c.endSend(b, s)
	}
}
