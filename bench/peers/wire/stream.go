// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"errors"

	"golang.org/x/net/http2/hpack"

	"github.com/manifold-grpc/manifold/internal/h2/frame"
)

// Stream is one stream of a connection. It belongs to Serve's goroutine as the
// connection does, and is used again for another stream after its end.
type Stream struct {
	// User is the side's own.
	User any

	c  *Conn
	id uint32

	rx       receiver
	blocks   int  // header blocks that came
	received int  // octets that were not granted again
	rxEnded  bool // the peer's half is over
	txEnded  bool // END_STREAM was sent

	// What is to be sent: left messages of size octets, of which the first off
	// octets of the first are gone; then the end, with trailers unless nil.
	window   int64
	blocked  bool // it is in c.blocked
	left     int
	size     int
	off      int
	head     Head
	end      bool
	trailers *Template
}

func (c *Conn) newStream(id uint32) *Stream {
	s := &Stream{}
	if n := len(c.free); n > 0 {
		s, c.free = c.free[n-1], c.free[:n-1]
	}
	*s = Stream{User: s.User, c: c, id: id, window: c.initial}
	c.streams[id] = s
	return s
}

// Open opens a stream with a request's header block: that of a template and, if
// extra has a name, one more field. Client only. User of the stream is nil, or what
// it was for a stream before it.
func (c *Conn) Open(t *Template, extra hpack.HeaderField) *Stream {
	s := c.newStream(c.nextID)
	c.nextID += 2
	c.writeBlock(s, t, extra, false)
	return s
}

// Blocks is the number of header blocks that came on the stream.
func (s *Stream) Blocks() int { return s.blocks }

// Headers sends a response's header block.
func (s *Stream) Headers(t *Template) { s.c.writeBlock(s, t, hpack.HeaderField{}, false) }

// Send sends count messages of size octets with heads as h, but for Seq, which
// counts up. Those of the last Send must have left.
func (s *Stream) Send(h Head, size, count int) error {
	if s.left > 0 {
		return errors.New("messages of two Sends at once")
	}
	s.head, s.size, s.left, s.off = h, size, count, 0
	s.pump()
	return nil
}

// SendLast is Send with the end of the stream after it.
func (s *Stream) SendLast(h Head, size, count int) error {
	s.end = true
	return s.Send(h, size, count)
}

// Finish ends this half with trailers, after what was sent before.
func (s *Stream) Finish(trailers *Template) {
	s.end, s.trailers = true, trailers
	s.pump()
}

// pump sends what the windows let pass.
func (s *Stream) pump() {
	for s.left > 0 {
		if !s.piece() {
			if !s.blocked {
				s.blocked = true
				s.c.blocked = append(s.c.blocked, s)
			}
			return
		}
		if len(s.c.out) >= mostJoined {
			_ = s.c.flush() // its error stays, and Serve meets it
		}
	}
	if s.end && s.trailers != nil {
		s.c.writeBlock(s, s.trailers, hpack.HeaderField{}, true)
		s.sentEnd()
	}
}

// piece sends one DATA frame, unless the windows are too narrow.
func (s *Stream) piece() bool {
	c, length := s.c, prefixLen+s.size
	n := int(min(int64(length-s.off), frame.MinMaxFrameSize, s.window, c.window))
	if n <= 0 || s.off == 0 && n < prefixLen+headLen {
		return false
	}
	var flags frame.Flags
	last := s.left == 1 && s.off+n == length
	if last && s.end && s.trailers == nil {
		flags = frame.FlagEndStream
	}
	c.out = frame.AppendHeader(c.out, n, frame.TypeData, flags, s.id)
	c.out = appendMessage(c.out, s.head, s.size, s.off, s.off+n)
	s.window -= int64(n)
	c.window -= int64(n)
	if s.off += n; s.off == length {
		s.off = 0
		s.left--
		s.head.Seq++
	}
	if flags != 0 {
		s.sentEnd()
	}
	return true
}

// unblock has the streams that waited for windows try again.
func (c *Conn) unblock() {
	if len(c.blocked) == 0 {
		return
	}
	waiting := c.blocked
	c.blocked = c.spare[:0]
	for _, s := range waiting {
		s.blocked = false
		s.pump()
	}
	c.spare = waiting
}

// credit grants the peer n octets again, in pieces of half the window.
func (s *Stream) credit(n int) {
	if s.received += n; s.received >= streamWindow/2 {
		s.c.out = frame.AppendWindowUpdate(s.c.out, s.id, uint32(s.received))
		s.received = 0
	}
}

// ended takes note of the end of the peer's half.
func (c *Conn) ended(s *Stream) error {
	if s.rx.have > 0 {
		return errors.New("stream ends within a message")
	}
	s.rxEnded = true
	if err := c.side.End(s); err != nil {
		return err
	}
	c.remove(s)
	return nil
}

// sentEnd takes note of the end of this half.
func (s *Stream) sentEnd() {
	s.txEnded = true
	s.c.remove(s)
}

// abandon forgets s, which the peer has reset.
func (c *Conn) abandon(s *Stream) {
	s.left, s.end, s.rxEnded = 0, false, true
	s.sentEnd()
}

// remove forgets s if both halves are over.
func (c *Conn) remove(s *Stream) {
	if !s.rxEnded || !s.txEnded || c.streams[s.id] != s {
		return
	}
	delete(c.streams, s.id)
	if s.blocked {
		return // c.blocked still knows it
	}
	c.free = append(c.free, s)
}
