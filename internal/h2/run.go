// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package h2

import (
	"iter"

	"github.com/manifold-grpc/manifold/internal/h2/frame"
)

// A Run is DATA frames of one stream that came together, with frames of other streams between them or not. None of them is
// empty, padded or the last. Who passes them on together takes each lock once, and joins them.
type Run struct {
	raw            []byte // from the first frame to the last, what is between them included; valid during the call
	id             uint32
	frames, octets int
}

// RunEvents are [Events] of an owner that takes DATA frames together, and does something after each turn.
type RunEvents interface {
	Events

	// Run is Data for several frames.
	Run(s *Stream, b *Batch, r Run) (passed int)

	// Turned is told after each turn of the input at hand, what it led to being written and told, as the last of its events: what
	// was held for further calls can be given back.
	Turned()
}

// Len returns the number of octets in all frames.
func (r Run) Len() int { return r.octets }

// All returns the octets of each frame; they are valid during the call.
func (r Run) All() iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		for p := r.raw; len(p) > 0; {
			h := frame.ParseHeader(p)
			n := frame.HeaderLen + int(h.Length)
			if h.StreamID == r.id && !yield(p[frame.HeaderLen:n:n]) {
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

// taken is the type that a frame gets in the read buffer which was dealt with before its turn. A peer may send some of that type, which means nothing
// (RFC 9113, section 4.1): what of it is taken for one of ours is passed over as well, and must not become part of a run.
const taken frame.Type = 0xff

// Who has several streams to send sends a piece of each in turn, as gRPC's servers do: the next frame of a stream comes after one of
// each of the others.
const (
	// maxReach is how many frames of other streams are looked past for the next one of a run.
	maxReach = 16
	// maxVain is how often that may be in vain, in a row, before it is done at every vainTurns-th run only.
	maxVain   = 8
	vainTurns = 64
)

// runsOn reports whether a run is to be looked for: always behind a frame of the stream, seldom where that was in vain.
func (c *Conn) runsOn(id uint32) bool {
	if c.reach() > 0 {
		return true
	}
	if p := c.in.bytes()[c.ahead:]; len(p) >= frame.HeaderLen && frame.ParseHeader(p).StreamID == id {
		return true
	}
	c.vain++
	return false
}

// takeRun takes the DATA frames of s that come after the current one, which was taken, as far as a turn goes. Those of other streams
// between them stay for their turn, and so does one of s that breaks a rule, with all behind it. mu is held.
func (c *Conn) takeRun(s *Stream) Run {
	p := c.in.bytes()
	r := Run{p[:c.ahead], s.id, 1, c.ahead - frame.HeaderLen}
	reach, apart := c.reach(), false
	for at, others := c.ahead, 0; c.work < maxTurn; {
		h, n := frameAt(p[at:])
		if n == 0 || !mayRun(h) && (h.Type != taken || c.taken == 0) {
			break
		}
		if h.StreamID != s.id {
			if others++; others > reach {
				break
			}
			at += n
			continue
		}
		if h.Type == taken { // the peer's: no run of s has looked behind one that it did not take
			break
		}
		if !s.mayTake(h.Length) {
			break
		}
		c.takeData(h, int(h.Length), false) //nolint:errcheck // mayTake has looked
		c.work += turnWork(h)
		if at == c.ahead {
			c.ahead += n
		} else {
			p[at+frame.TypeOffset] = byte(taken)
			c.taken++
			apart = true
		}
		at += n
		others = 0
		r.raw, r.frames, r.octets = p[:at], r.frames+1, r.octets+int(h.Length)
	}
	if c.vain++; apart {
		c.vain = 0
	}
	return r
}

// reach returns how many frames of other streams the next run may look past.
func (c *Conn) reach() int {
	if c.vain < maxVain || c.vain%vainTurns == 0 {
		return maxReach
	}
	return 0
}

// frameAt returns the header of the frame that p begins with, and its length with that; 0 if it is incomplete or at fault by itself.
func frameAt(p []byte) (h frame.Header, n int) {
	if len(p) < frame.HeaderLen {
		return h, 0
	}
	h = frame.ParseHeader(p)
	if n = frame.HeaderLen + int(h.Length); len(p) < n || h.Check(frame.MinMaxFrameSize) != nil {
		return h, 0
	}
	return h, n
}

// mayTake reports whether a DATA frame of n octets breaks no rule. conn.mu is held.
func (s *Stream) mayTake(n uint32) bool {
	return n <= s.conn.recv.Available() && n <= s.recv.Available() && (s.bodyLeft < 0 || int64(n) <= s.bodyLeft)
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
	return s.queue.n == 0 && c.slivers.n == 0 && len(c.out)+r.Len() <= c.cfg.HighWater && c.room(s) > r.Len()
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
	for p := range r.All() {
		for len(p) > 0 {
			if room == 0 {
				room = min(left, dataFrameLen)
				out = frame.AppendHeader(out, room, frame.TypeData, 0, s.id)
			}
			n := min(room, len(p))
			out = append(out, p[:n]...)
			p, room, left = p[n:], room-n, left-n
		}
	}
	c.put(out)
}
