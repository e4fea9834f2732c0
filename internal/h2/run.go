// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package h2

import (
	"iter"

	"github.com/manifold-grpc/manifold/internal/h2/frame"
)

// A Run is DATA frames of one stream that follow each other in the input, as those of a stream of messages do. None of them is
// empty, padded or the last. Who passes them on together takes each lock once, and joins them.
type Run struct {
	raw    []byte // the frames; valid during the call
	frames int
}

// RunEvents are [Events] of an owner that takes DATA frames together.
type RunEvents interface {
	Events

	// Run is Data for several frames.
	Run(s *Stream, b *Batch, r Run) (passed int)
}

// Len returns the number of octets in all frames.
func (r Run) Len() int { return len(r.raw) - r.frames*frame.HeaderLen }

// All returns the octets of each frame; they are valid during the call.
func (r Run) All() iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		for p := r.raw; len(p) > 0; {
			n := frame.HeaderLen + int(frame.ParseHeader(p).Length)
			if !yield(p[frame.HeaderLen:n:n]) {
				return
			}
			p = p[n:]
		}
	}
}

// mayRun reports whether a DATA frame may be part of a run.
func mayRun(h frame.Header) bool {
	return h.Type == frame.TypeData && h.Flags == 0 && h.Length > 0
}

// takeRun takes the DATA frames that follow the current one on s, which was taken, as far as a turn goes. An error is of
// the frame after the run, and is to be dealt with after that. mu is held.
func (c *Conn) takeRun(s *Stream) (r Run, ferr *frame.Error) {
	r = Run{c.in.bytes()[:c.ahead], 1}
	for c.work < maxTurn {
		h, p, ok := c.following(s.id)
		if !ok || !mayRun(h) {
			break
		}
		c.ahead += frame.HeaderLen + len(p)
		c.work += turnWork(h)
		if _, ferr = c.takeData(h, len(p), false); ferr != nil {
			break
		}
		r = Run{c.in.bytes()[:c.ahead], r.frames + 1}
	}
	return r, ferr
}

// tellRun tells of a run, and grants what passed.
func (c *Conn) tellRun(s *Stream, r Run) {
	c.earn(r.frames)
	s.passed += c.runs.Run(s, &c.batch, r)
	c.grantPassed(s)
}

// SendRun is Send for each frame of r.
func (s *Stream) SendRun(b *Batch, r Run) (passed int, err error) {
	c := s.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	if s.sendOver() {
		return r.Len(), nil
	}
	if c.fits(s, r) {
		c.appendRun(s, r)
		b.touch(c)
		return r.Len(), nil
	}
	for p := range r.All() {
		n, err := s.sendData(b, p, false)
		passed += n
		if err != nil {
			return passed, err
		}
	}
	return passed, nil
}

// fits reports whether all of r can go at once, and windows are left then. mu is held.
func (c *Conn) fits(s *Stream, r Run) bool {
	return s.queue.n == 0 && c.slivers.n == 0 && len(c.out)+len(r.raw) <= c.cfg.HighWater && c.room(s) > r.Len()
}

// appendRun is appendData for all of r, in as few frames as it takes: what bounds there were between DATA frames means nothing
// (RFC 9113, section 6.1), and a frame costs its receiver more than the octets of a small message. mu is held.
func (c *Conn) appendRun(s *Stream, r Run) {
	left := r.Len()
	s.send.Take(uint32(left))
	c.send.Take(uint32(left))
	c.late.sent += left
	c.dataSent += r.frames + left/windowUpdateWorth
	out, room := c.buffer(), 0 // in the frame under way
	for raw := r.raw; len(raw) > 0; {
		next := frame.HeaderLen + int(frame.ParseHeader(raw).Length)
		for p := raw[frame.HeaderLen:next]; len(p) > 0; {
			if room == 0 {
				room = min(left, dataFrameLen)
				out = frame.AppendHeader(out, room, frame.TypeData, 0, s.id)
			}
			n := min(room, len(p))
			out = append(out, p[:n]...)
			p, room, left = p[n:], room-n, left-n
		}
		raw = raw[next:]
	}
	c.put(out)
}
