// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package h2

import (
	"github.com/manifold-grpc/manifold/internal/h2/flow"
	"github.com/manifold-grpc/manifold/internal/h2/frame"
	"github.com/manifold-grpc/manifold/internal/h2/hpack"
)

// A Stream is one stream of one connection. The owner provides its memory, sets
// Owner, and hands it over through [Events.NewStream] or [Conn.Open]; it
// belongs to one connection for ever. Its methods may be called from any goroutine and never block.
type Stream struct {
	// Owner is the owner's own; it does not change once handed over.
	Owner any

	// Growth is a budget that the growth of the stream's receive window counts against, beside that of its own
	// connection: of whoever can let the octets lie. nil: none. It does not change once handed over.
	Growth *flow.Budget

	conn *Conn
	id   uint32

	// Owned by the read loop.
	gotHeaders bool // a final header block came
	toHead     bool // what comes answers a HEAD request; set by Open

	// Guarded by conn.mu.
	removed   bool // no longer in the table; nothing is sent or received
	answered  bool // a header block was sent on it
	recvEnded bool
	sendEnded bool
	endQueued bool // END_STREAM follows the queue
	queued    bool // it had octets queued: credit for them may be under way
	stopRecv  bool // RST_STREAM NO_ERROR follows END_STREAM
	isReady   bool // it is in the ready list

	// Owned by the read loop.
	bodyLeft int64 // of content-length; -1: not given
	passed   int   // octets that passed at once and are not granted yet

	// Guarded by conn.mu.
	tableNext *Stream // in its slot of the table
	ready     readyLink
	recv      flow.RecvWindow
	send      flow.SendWindow
	mark      int64 // conn.appended when the stream was opened
	queue     queue
	trailers  *[]hpack.Field // they follow the queue; nil: none do
}

// ID returns the stream's identifier; 0 before it is opened.
func (s *Stream) ID() uint32 { return s.id }

// Conn returns the stream's connection; nil before it is opened.
func (s *Stream) Conn() *Conn { return s.conn }

// SendHeaders sends a header block: a response, or, with end set, trailers,
// which wait behind queued octets. Nothing is sent on a stream that is over or whose
// end was sent. fields is not kept.
func (s *Stream) SendHeaders(b *Batch, fields []hpack.Field, end bool) {
	c := s.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	s.sendHeaders(b, fields, nil, end)
}

// SendList is SendHeaders with a list that is sent often.
func (s *Stream) SendList(b *Batch, list *hpack.List, end bool) {
	c := s.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	s.sendHeaders(b, list.Fields, list, end)
}

// SendLast is SendHeaders with end set, and StopReceiving: the end of a response that needs no more of
// the request.
func (s *Stream) SendLast(b *Batch, fields []hpack.Field) { s.sendLast(b, fields, nil) }

// SendLastList is SendLast with a list that is sent often.
func (s *Stream) SendLastList(b *Batch, list *hpack.List) { s.sendLast(b, list.Fields, list) }

func (s *Stream) sendLast(b *Batch, fields []hpack.Field, list *hpack.List) {
	c := s.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	s.sendHeaders(b, fields, list, true)
	s.stopReceiving(b)
}

// sendHeaders is SendHeaders. conn.mu is held.
func (s *Stream) sendHeaders(b *Batch, fields []hpack.Field, list *hpack.List, end bool) {
	c := s.conn
	if s.sendOver() {
		return
	}
	s.answered = true
	if s.queue.n > 0 {
		if len(fields) > 0 {
			s.trailers = keepFields(fields)
		}
		s.endQueued = end
		return
	}
	c.appendHeaders(s.id, fields, list, end)
	b.touch(c)
	if end {
		c.endSend(b, s)
	}
}

// Send sends octets, and the end of the stream with end set. Those that the
// receiver has no room for are copied and wait; passed counts those that need no further
// memory, which on a stream that is over are all. The error is [ErrBudget]: nothing was
// queued and the stream cannot go on.
func (s *Stream) Send(b *Batch, p []byte, end bool) (passed int, err error) {
	c := s.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	return s.sendData(b, p, end)
}

// SendMessage is SendList, Send and SendLastList, for a response that is complete. After an error the end is not sent.
func (s *Stream) SendMessage(b *Batch, head *hpack.List, p []byte, last *hpack.List) (passed int, err error) {
	c := s.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	if !s.sendOver() && c.appendMessage(s, head, p, last, true) {
		s.answered = true
		b.touch(c)
		c.endSend(b, s)
		s.stopReceiving(b)
		return len(p), nil
	}
	s.sendHeaders(b, head.Fields, head, false)
	if passed, err = s.sendData(b, p, false); err == nil {
		s.sendHeaders(b, last.Fields, last, true)
		s.stopReceiving(b)
	}
	return passed, err
}

// sendData is Send. conn.mu is held.
func (s *Stream) sendData(b *Batch, p []byte, end bool) (passed int, err error) {
	c := s.conn
	if s.sendOver() {
		return len(p), nil
	}
	if c.passes(s, len(p)) {
		c.appendData(s, p, end)
		b.touch(c)
		if end {
			c.endSend(b, s)
		}
		return len(p), nil
	}
	if len(p) == 0 && s.queue.n > 0 {
		s.endQueued = end
		return 0, nil
	}
	if s.queue.n == 0 && len(c.out) < c.cfg.HighWater {
		passed = c.portion(s, len(p))
	}
	rest := p[passed:]
	if passed > 0 || len(p) == 0 && end {
		c.appendData(s, p[:passed], end && len(rest) == 0)
		b.touch(c)
	}
	switch {
	case len(rest) > 0:
		if !c.cfg.Budget.Reserve(int64(len(rest))) {
			return passed, ErrBudget
		}
		c.noteQueued(len(rest))
		s.queue.push(rest)
		s.queued = true
		s.endQueued = end
		c.makeReady(s)
		c.pump(b) // in vain as a rule: what is held back must not wait in the ready list
	case end:
		c.endSend(b, s)
	}
	return passed, nil
}

// sendOver reports whether nothing may be sent any more. conn.mu is held.
func (s *Stream) sendOver() bool { return s.removed || s.sendEnded || s.endQueued }

// Reset ends the stream in both directions with RST_STREAM; what is queued is
// dropped. It does nothing on a stream that is over.
func (s *Stream) Reset(b *Batch, code frame.Code) {
	c := s.conn
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if s.removed {
		return
	}
	c.resetLocked(b, s, code)
}

// Queued returns the octets that wait for the receiver.
func (s *Stream) Queued() int {
	c := s.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	return s.queue.n
}

// StopReceiving has the stream end with RST_STREAM NO_ERROR once the end of what we
// send is out, unless the peer ends its side before: a complete response needs no more
// of the request (RFC 9113 section 8.1).
func (s *Stream) StopReceiving(b *Batch) {
	c := s.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	s.stopReceiving(b)
}

// stopReceiving is StopReceiving. conn.mu is held.
func (s *Stream) stopReceiving(b *Batch) {
	switch {
	case s.removed || s.recvEnded:
	case s.sendEnded:
		s.conn.resetLocked(b, s, frame.NoError)
	default:
		s.stopRecv = true
	}
}

// Consumed grants the peer n octets again, which [Events.Data] did not count as passed.
func (s *Stream) Consumed(b *Batch, n int) {
	c := s.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	c.grant(b, s, n)
}
