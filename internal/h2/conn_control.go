// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package h2

import (
	"github.com/manifold-grpc/manifold/internal/h2/frame"
)

// maxSettingsLen bounds a SETTINGS frame to 100 parameters: each new window goes over all streams, and
// a frame has room for 2730 of them.
const maxSettingsLen = 600

func (c *Conn) onSettings(h frame.Header, p []byte) *frame.Error {
	if h.Flags.Has(frame.FlagAck) {
		return c.onSettingsAck()
	}
	if h.Length > maxSettingsLen {
		return &frame.Error{Code: frame.EnhanceYourCalm, Reason: "settings_many", Detail: "SETTINGS frame with more parameters than there are"}
	}
	first := !c.gotSettings
	c.gotSettings = true
	for s := range frame.Settings(p) {
		ferr := s.Check()
		if ferr == nil {
			ferr = c.apply(s)
		}
		if ferr != nil {
			return ferr
		}
	}
	c.applied(first)
	if first {
		c.events.Ready(c, &c.batch)
	} else if ferr := c.glitch("settings"); ferr != nil {
		return ferr
	}
	return c.settleControl()
}

// applied acknowledges the peer's SETTINGS, and does what they make room for.
func (c *Conn) applied(first bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.peer.ready = true
	if first && !c.peer.seen {
		// Section 6.5.2: initially there is no limit.
		c.peer.maxStreams = maxStreamID
	}
	c.put(frame.AppendSettingsAck(c.buffer()))
	c.control++
	c.batch.touch(c)
	c.pump(&c.batch)
	if c.openable() > 0 {
		c.tellFree(&c.batch)
	}
}

// onSettingsAck takes the peer's word that it knows our SETTINGS.
func (c *Conn) onSettingsAck() *frame.Error {
	if !c.acked {
		// Section 4.3.1: the size of the table takes effect now.
		c.acked = true
		c.dec.SetMaxTableSize(c.cfg.HeaderTableSize)
	}
	return c.glitch(settingsAck)
}

// apply obeys one setting of the peer.
func (c *Conn) apply(s frame.Setting) *frame.Error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch s.ID {
	case frame.SettingHeaderTableSize:
		c.enc.SetMaxTableSize(s.Value)
	case frame.SettingMaxConcurrentStreams:
		c.peer.maxStreams, c.peer.seen = s.Value, true
	case frame.SettingMaxFrameSize:
		c.peer.maxFrame = int(s.Value)
	case frame.SettingInitialWindowSize:
		return c.applyWindow(s.Value)
	case frame.SettingEnablePush:
		if c.cfg.Client && s.Value != 0 {
			// Section 6.5.2: a server must not send ENABLE_PUSH 1.
			return &frame.Error{Code: frame.ProtocolError, Reason: "setting_enable_push", Detail: "SETTINGS_ENABLE_PUSH 1 of a server"}
		}
	}
	return nil
}

// applyWindow moves every stream's window by the difference (section 6.9.2): below
// zero at times. mu is held.
func (c *Conn) applyWindow(v uint32) *frame.Error {
	delta := int64(v) - int64(c.peer.window)
	c.peer.window = v
	for s := range c.streams.all() {
		if ferr := s.send.Adjust(delta); ferr != nil {
			return ferr
		}
		c.makeReady(s)
	}
	return nil
}

func (c *Conn) onPing(h frame.Header, p []byte) *frame.Error {
	v := frame.Ping(p)
	if h.Flags.Has(frame.FlagAck) {
		c.onPong(v)
		return c.glitch("ping_ack") // ours are few
	}
	c.mu.Lock()
	idle := c.active == 0
	c.put(frame.AppendPing(c.buffer(), true, v))
	c.control++
	if !c.mayWait() {
		c.batch.touch(c)
	}
	c.mu.Unlock()
	if ferr := c.strike(idle); ferr != nil {
		return ferr
	}
	if ferr := c.glitch(ping); ferr != nil {
		return ferr
	}
	return c.settleControl()
}

// settleControl has the answers to the peer written before too many wait, and
// ends the connection where they cannot be: the peer asks, and does not read.
func (c *Conn) settleControl() *frame.Error {
	c.mu.Lock()
	n := c.control
	c.mu.Unlock()
	if n < c.cfg.MaxControlFrames/2 {
		return nil
	}
	c.flush(&c.batch)
	c.mu.Lock()
	n = c.control
	c.mu.Unlock()
	if n < c.cfg.MaxControlFrames {
		return nil
	}
	return &frame.Error{Code: frame.EnhanceYourCalm, Reason: "control_flood", Detail: "too many answers wait for the peer to read them"}
}

func (c *Conn) onReset(h frame.Header, p []byte) *frame.Error {
	code := frame.RST(p)
	c.mu.Lock()
	if c.idle(h.StreamID) {
		c.mu.Unlock()
		return &frame.Error{Code: frame.ProtocolError, Reason: "frame_on_idle_stream", Detail: "RST_STREAM frame on a stream that was never opened"}
	}
	s := c.streams.get(h.StreamID)
	premature := false
	if s != nil {
		premature = !s.answered
		c.remove(&c.batch, s)
	} else {
		c.forgive()
	}
	c.mu.Unlock()
	if s == nil {
		return c.glitch("reset_of_closed_stream")
	}
	c.events.End(s, &c.batch, End{Code: code, Unprocessed: c.cfg.Client && code == frame.RefusedStream})
	return c.countReset(premature, "reset_flood")
}

func (c *Conn) onGoAway(p []byte) *frame.Error {
	last, code, _ := frame.GoAway(p)
	if !c.cfg.Client {
		// The client opens nothing for us to lose; it will close the connection.
		return c.glitch("goaway")
	}
	c.mu.Lock()
	c.gone = true
	out := c.removeAbove(last)
	c.mu.Unlock()
	for _, s := range out {
		c.events.End(s, &c.batch, End{Code: frame.RefusedStream, Unprocessed: true, Err: ErrGoAway})
	}
	c.events.GoAway(c, &c.batch, code)
	return c.glitch("goaway")
}

// onPriority ignores what RFC 9113 deprecates, save for its rules.
func (c *Conn) onPriority(h frame.Header, p []byte) *frame.Error {
	if _, ferr := frame.PriorityPayload(h.StreamID, p); ferr != nil {
		return ferr
	}
	return c.glitch("priority")
}
