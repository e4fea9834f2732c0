// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package h2

import (
	"github.com/manifold-grpc/manifold/internal/h2/frame"
)

func (c *Conn) onData(h frame.Header, p []byte) *frame.Error {
	data, ferr := frame.Data(h, p)
	if ferr != nil {
		return ferr
	}
	end := h.Flags.Has(frame.FlagEndStream)
	var r Run
	c.mu.Lock()
	s, ferr := c.takeData(h, len(data), end)
	if s != nil && c.runs != nil && mayRun(h) && c.runsOn(h.StreamID) {
		r = c.takeRun(s)
	}
	c.mu.Unlock()
	if r.frames > 1 {
		c.tellRun(s, r)
		return nil
	}
	switch {
	case ferr != nil:
		return ferr
	case len(data) > 0:
		c.earn(1)
	case !end || s == nil:
		ferr = c.glitch("empty_data")
	}
	if s == nil {
		return ferr
	}
	s.passed += int(h.Length) - len(data) // padding needs no memory
	if len(data) > 0 || end {
		s.passed += c.events.Data(s, &c.batch, data, end)
	}
	c.grantPassed(s)
	return ferr
}

// takeData charges the windows for a DATA frame with n octets beside its padding, and returns its
// stream, or nil where the frame is to be ignored. mu is held.
func (c *Conn) takeData(h frame.Header, n int, end bool) (*Stream, *frame.Error) {
	if ferr := c.chargeData(h.Length); ferr != nil {
		return nil, ferr
	}
	s := c.streams.get(h.StreamID)
	if s == nil || s.recvEnded {
		return nil, c.stray(h)
	}
	if ferr := s.takeData(h.Length, n, end); ferr != nil {
		return nil, ferr
	}
	return s, nil
}

// chargeData charges the connection's window for a DATA frame. mu is held.
func (c *Conn) chargeData(length uint32) *frame.Error {
	if ferr := c.recv.Receive(0, length); ferr != nil {
		return ferr
	}
	// The connection's window is granted on receipt: the streams' windows bound what is held.
	if more := c.recv.Consume(length, 0, 0); more > 0 {
		c.put(frame.AppendWindowUpdate(c.buffer(), 0, more))
		c.batch.touch(c)
	}
	return nil
}

// takeData charges the window of s, which is in the table, for a DATA frame with n octets beside its padding. conn.mu is held.
func (s *Stream) takeData(length uint32, n int, end bool) *frame.Error {
	if ferr := s.recv.Receive(s.id, length); ferr != nil {
		return ferr
	}
	// Before the end may take s out of the table: an error must find it there.
	if ferr := s.checkBody(n, end); ferr != nil {
		return ferr
	}
	c := s.conn
	c.keepalive.heard = true
	if end {
		c.endRecv(&c.batch, s)
	}
	return nil
}

// checkBody holds DATA against what the headers promised.
func (s *Stream) checkBody(n int, end bool) *frame.Error {
	if !s.gotHeaders {
		return malformed(s.id, "data_before_headers", "DATA before the header block")
	}
	if s.bodyLeft < 0 {
		return nil
	}
	s.bodyLeft -= int64(n)
	if s.bodyLeft < 0 || end && s.bodyLeft > 0 {
		return lengthError(s.id)
	}
	return nil
}

// grantPassed gives the window of s back in portions: the lock is not taken for each frame.
func (c *Conn) grantPassed(s *Stream) {
	if s.passed < int(c.cfg.StreamWindow)/4 {
		return
	}
	n := s.passed
	s.passed = 0
	c.mu.Lock()
	defer c.mu.Unlock()
	c.grant(&c.batch, s, n)
	if !s.removed && !s.recvEnded {
		c.measureRTT()
	}
}

// grant lets the peer send n further octets on s, and more where its window is what
// keeps it waiting. It reports whether it told the peer so. mu is held.
func (c *Conn) grant(b *Batch, s *Stream, n int) bool {
	if s.removed || s.recvEnded {
		return false
	}
	rtt := c.rtt.value
	if !c.cfg.Budget.Roomy() {
		rtt = 0 // what more is granted may end in queues
	}
	more := s.recv.Consume(uint32(n), b.Now().Sub(c.start), rtt)
	if more > 0 {
		c.put(frame.AppendWindowUpdate(c.buffer(), s.id, more))
		b.touch(c)
	}
	return more > 0
}

func (c *Conn) onWindowUpdate(h frame.Header, p []byte) *frame.Error {
	c.mu.Lock()
	ferr := c.addWindow(h, frame.WindowUpdate(p))
	c.mu.Unlock()
	if ferr != nil {
		return ferr
	}
	return c.glitch(windowUpdate)
}

// addWindow adds n to the window that the frame names. mu is held.
func (c *Conn) addWindow(h frame.Header, n uint32) *frame.Error {
	if h.StreamID == 0 {
		if ferr := c.send.Add(0, n); ferr != nil {
			return ferr
		}
		c.pump(&c.batch)
		return nil
	}
	s := c.streams.get(h.StreamID)
	if s == nil {
		if c.idle(h.StreamID) {
			return c.stray(h)
		}
		c.forgive()
		return nil // section 5.1, closed: may come for a short time
	}
	if ferr := s.send.Add(s.id, n); ferr != nil {
		return ferr
	}
	c.makeReady(s)
	c.pump(&c.batch)
	return nil
}
