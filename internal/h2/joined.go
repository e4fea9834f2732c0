// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package h2

import (
	"sync"

	"github.com/manifold-grpc/manifold/internal/h2/frame"
)

// Joined is what follows a stream's first header block in the input at once: octets, and perhaps the end. A unary call's
// request is that, and so is its response, and who deals with all of it together takes each lock once, not for each frame.
type Joined struct {
	// Data is a DATA frame's octets, at least one, valid during the call; End says that nothing follows.
	Data []byte
	End  bool

	// Trailers follow Data if Known is not nil. Only those that came before are here.
	Trailers Head

	// Taken is what an owner sets that has dealt with all of it, and Passed what [Events.Data] would have returned.
	// Else all of it is told after the header block, as if it had not been here.
	Taken  bool
	Passed int
}

// joinedPool holds what a connection needs for that while it works through input.
var joinedPool = sync.Pool{New: func() any { return new(Joined) }}

// join takes the DATA frame that follows the first header block of s, with trailers that follow that. It returns nil if
// there is none. An error is of that frame, and is to be dealt with after the header block. mu is held.
func (c *Conn) join(s *Stream) (*Joined, *frame.Error) {
	rest := c.in.bytes()[c.ahead:]
	h, n := frameAt(rest)
	if n <= frame.HeaderLen || h.StreamID != s.id || h.Type != frame.TypeData || h.Flags.Has(frame.FlagPadded) {
		return nil, nil
	}
	c.ahead += n
	c.work += joinedWork
	end := h.Flags.Has(frame.FlagEndStream)
	if ferr := c.chargeData(h.Length); ferr != nil {
		return nil, ferr
	}
	if ferr := s.takeData(h.Length, n-frame.HeaderLen, end); ferr != nil {
		return nil, ferr
	}
	if c.joined == nil {
		c.joined = joinedPool.Get().(*Joined)
	}
	j := c.joined
	*j = Joined{Data: rest[frame.HeaderLen:n:n], End: end}
	if c.cfg.Client && !end {
		c.joinTrailers(s, j, rest[n:])
	}
	return j, nil
}

// joinTrailers adds trailers that came before to j, if rest begins with them. mu is held.
func (c *Conn) joinTrailers(s *Stream, j *Joined, rest []byte) {
	h, n := frameAt(rest)
	if n == 0 || h.StreamID != s.id || h.Type != frame.TypeHeaders || h.Flags != frame.FlagEndHeaders|frame.FlagEndStream || s.bodyLeft > 0 {
		return
	}
	k := known(c.dec.Known(rest[frame.HeaderLen:n]))
	if !k.is(knownTrailers) {
		return // they are to be decoded or checked: after Data is told
	}
	c.ahead += n
	c.endRecv(&c.batch, s)
	j.Trailers = Head{Fields: k.List.Fields, Known: k, EndStream: true, Over: s.removed}
}

// tellJoined tells what the owner has not taken, and grants what passed.
func (c *Conn) tellJoined(s *Stream, j *Joined) {
	c.earn(1)
	if !j.Taken {
		j.Passed = c.events.Data(s, &c.batch, j.Data, j.End)
	}
	s.passed += j.Passed
	c.grantPassed(s)
	if !j.Taken && j.Trailers.Known != nil {
		c.events.Headers(s, &c.batch, j.Trailers)
	}
	*j = Joined{}
}

// forgetJoined gives back what join used.
func (c *Conn) forgetJoined() {
	if c.joined != nil {
		joinedPool.Put(c.joined)
		c.joined = nil
	}
}
