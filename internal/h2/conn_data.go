// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package h2

import (
	"time"

	"github.com/manifold-grpc/manifold/internal/h2/frame"
)

func (c *Conn) onData(h frame.Header, p []byte) *frame.Error {
	data, ferr := frame.Data(h, p)
	if ferr != nil {
		return ferr
	}
	end := h.Flags.Has(frame.FlagEndStream)
	c.mu.Lock()
	s, ferr := c.takeData(h, end)
	c.mu.Unlock()
	if ferr != nil || s == nil {
		return ferr
	}
	if ferr := s.checkBody(len(data), end); ferr != nil {
		return ferr
	}
	switch {
	case len(data) > 0:
		c.earn(1)
	case !end:
		if ferr := c.glitch("empty_data"); ferr != nil {
			return ferr
		}
		return nil
	}
	s.passed += int64(int(h.Length) - len(data)) // padding needs no memory
	s.passed += int64(c.events.Data(s, &c.batch, data, end))
	c.grantPassed(s)
	return nil
}

// takeData charges the windows for a DATA frame and returns its stream, or nil
// where the frame is to be ignored. mu is held.
func (c *Conn) takeData(h frame.Header, end bool) (*Stream, *frame.Error) {
	n := int64(h.Length)
	if n > c.recvWindow {
		// Section 6.9.1.
		return nil, &frame.Error{Code: frame.FlowControlError, Reason: "connection_window",
			Detail: "DATA beyond the window of the connection"}
	}
	c.recvWindow -= n
	c.connCredit += n
	if c.connCredit >= int64(c.cfg.ConnWindow)/4 {
		c.put(frame.AppendWindowUpdate(c.buffer(), 0, uint32(c.connCredit)))
		c.recvWindow += c.connCredit
		c.connCredit = 0
		c.batch.touch(c)
	}
	s := c.streams[h.StreamID]
	if s == nil || s.recvEnded {
		return nil, c.stray(h)
	}
	if n > s.recvWindow {
		return nil, &frame.Error{Code: frame.FlowControlError, StreamID: s.id, Reason: "stream_window",
			Detail: "DATA beyond the window of the stream"}
	}
	s.recvWindow -= n
	if end {
		c.endRecv(&c.batch, s)
	}
	return s, nil
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

// grantPassed gives the window of s back in portions of a quarter.
func (c *Conn) grantPassed(s *Stream) {
	if s.passed < int64(c.cfg.StreamWindow)/4 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if s.passed >= s.window/4 || s.recvWindow < s.window/4 {
		n := s.passed
		s.passed = 0
		c.grant(&c.batch, s, n)
		c.measureRTT()
	}
}

// grant lets the peer send n further octets on s, and more where its window
// keeps it waiting. mu is held.
func (c *Conn) grant(b *Batch, s *Stream, n int64) {
	if n == 0 || s.removed || s.recvEnded {
		return
	}
	n += c.growWindow(s, n)
	s.recvWindow += n
	c.put(frame.AppendWindowUpdate(c.buffer(), s.id, uint32(n)))
	b.touch(c)
}

// growWindow returns by how much the window of s grows: to the double, if the peer
// used a whole window within two round trips, while bounds and budget allow. mu is held.
func (c *Conn) growWindow(s *Stream, n int64) int64 {
	room := min(int64(c.cfg.MaxStreamWindow)-s.window, c.cfg.MaxGrowth-c.growth)
	if room <= 0 || c.rtt.value == 0 || !c.cfg.Budget.roomy() {
		return 0
	}
	if s.epochBytes += n; s.epochBytes < s.window {
		return 0
	}
	now := time.Now()
	took := now.Sub(s.epoch)
	s.epoch, s.epochBytes = now, 0
	if took > 2*c.rtt.value {
		return 0
	}
	more := min(s.window, room)
	s.window += more
	c.growth += more
	return more
}

func (c *Conn) onWindowUpdate(h frame.Header, p []byte) *frame.Error {
	n := int64(frame.WindowUpdate(p))
	if n == 0 {
		// Section 6.9: an increment of 0 is a PROTOCOL_ERROR of the stream, or of the connection.
		return &frame.Error{Code: frame.ProtocolError, StreamID: h.StreamID, Reason: "window_update_zero", Detail: "WINDOW_UPDATE of 0"}
	}
	c.mu.Lock()
	ferr := c.addWindow(h, n)
	c.mu.Unlock()
	if ferr != nil {
		return ferr
	}
	return c.glitch("window_update")
}

// addWindow adds n to the window that the frame names. mu is held.
func (c *Conn) addWindow(h frame.Header, n int64) *frame.Error {
	if h.StreamID == 0 {
		if c.sendWindow+n > frame.MaxWindow {
			return &frame.Error{Code: frame.FlowControlError, Reason: "connection_window_overflow", Detail: "WINDOW_UPDATE lifts the window of the connection over 2^31-1"}
		}
		c.sendWindow += n
		c.pump(&c.batch)
		return nil
	}
	s := c.streams[h.StreamID]
	if s == nil {
		if ferr := c.stray(h); ferr != nil && ferr.Connection() {
			return ferr
		}
		return nil // section 5.1, closed: may come for a short time
	}
	if s.sendWindow+n > frame.MaxWindow {
		return &frame.Error{Code: frame.FlowControlError, StreamID: s.id, Reason: "stream_window_overflow", Detail: "WINDOW_UPDATE lifts the window of the stream over 2^31-1"}
	}
	s.sendWindow += n
	c.makeReady(s)
	c.pump(&c.batch)
	return nil
}
