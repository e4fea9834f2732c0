// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package h2

import (
	"time"

	"github.com/manifold-grpc/manifold/internal/h2/frame"
)

// abuse counts what a peer does that costs us and serves no one. Owned by the
// read loop, but for pingStrikes, which a new stream forgives.
type abuse struct {
	patience    int // useless frames that are still forgiven
	refilled    time.Time
	period      time.Time // start of the period in which resets are counted
	resets      int
	premature   int
	opened      int // streams that the peer opened in the period
	pingStrikes int
	lastPing    time.Time
}

func (a *abuse) init(cfg *Config, now time.Time) {
	a.patience = cfg.Patience
	a.refilled, a.period = now, now
}

// earn credits the peer for useful frames.
func (c *Conn) earn(n int) {
	if c.abuse.patience < c.cfg.Patience {
		c.abuse.patience += n
	}
}

// patiencePerSecond is earned by time: what an honest peer may spend for ever.
const patiencePerSecond = 20

// windowUpdateWorth is the number of octets of DATA for which a peer may send two WINDOW_UPDATE frames, beside
// two for each frame. Some send one for the stream and one for the connection with every 4 KiB that
// their user reads, however long our frames are.
const windowUpdateWorth = 2 << 10

// Kinds of glitches that honest peers have all the time: gRPC's clients measure the network by PINGs.
const (
	windowUpdate = "window_update"
	ping         = "ping"
	settingsAck  = "settings_ack"
)

// ordinary reports whether a kind of glitch is one only in masses.
func ordinary(kind string) bool { return kind == windowUpdate || kind == ping || kind == settingsAck }

// glitch counts a frame that is allowed but useless in masses: empty ones,
// SETTINGS, PING, PRIORITY, WINDOW_UPDATE beyond what our frames and their octets are worth, refused
// streams. The peer that spends all of its patience is cut off.
func (c *Conn) glitch(reason string) *frame.Error {
	a := &c.abuse
	if c.cfg.OnGlitch != nil && !ordinary(reason) {
		c.cfg.OnGlitch(reason)
	}
	if a.patience--; a.patience >= 0 {
		return nil
	}
	c.mu.Lock()
	earned := 2 * c.dataSent
	c.dataSent = 0
	c.mu.Unlock()
	earned += int(c.now.Sub(a.refilled).Seconds() * patiencePerSecond)
	a.refilled = c.now
	if a.patience = min(a.patience+earned, c.cfg.Patience); a.patience >= 0 {
		return nil
	}
	return &frame.Error{Code: frame.EnhanceYourCalm, Reason: reason + "_flood", Detail: "too many frames of no use"}
}

// countReset counts a stream that the peer reset, or had us reset by breaking
// a rule (CVE-2023-44487, CVE-2025-8671).
func (c *Conn) countReset(premature bool, reason string) *frame.Error {
	if c.cfg.Client {
		return nil
	}
	a := &c.abuse
	if c.now.Sub(a.period) > c.cfg.ResetPeriod {
		a.period, a.opened, a.resets, a.premature = c.now, 0, 0, 0
	}
	a.resets++
	if premature {
		a.premature++
	}
	// Of all streams, not of the resets alone: who gives up one call of five is no attacker, however
	// many calls that makes.
	if a.resets <= c.cfg.MaxResets || 2*a.premature <= max(a.opened, a.resets) {
		return nil
	}
	return &frame.Error{Code: frame.EnhanceYourCalm, Reason: "reset_flood", Detail: "too many streams reset before they were answered, the last by " + reason}
}

// suspect reports whether the peer resets so much that its new streams are refused: half of what ends
// the connection. What it had open before and what it opened meanwhile are then no more
// than MaxConcurrentStreams and half of MaxResets, whenever it resets them.
func (c *Conn) suspect() bool {
	a := &c.abuse
	return a.premature >= (c.cfg.MaxResets+1)/2 && 2*a.premature > max(a.opened, a.resets) && c.now.Sub(a.period) <= c.cfg.ResetPeriod
}

// strike counts PINGs of an idle client that come too early.
func (c *Conn) strike(idle bool) *frame.Error {
	a := &c.abuse
	if c.cfg.Client {
		return nil
	}
	// A tenth less: who keeps the interval exactly comes early by a network's jitter every other time.
	early := c.now.Sub(a.lastPing) < c.cfg.MinPingInterval-c.cfg.MinPingInterval/10
	a.lastPing = c.now
	if !idle || !early {
		return nil
	}
	if a.pingStrikes++; a.pingStrikes <= pingStrikes {
		return nil
	}
	// The reason is the debug data by which gRPC clients know to slow down (gRFC A8).
	return &frame.Error{Code: frame.EnhanceYourCalm, Reason: "too_many_pings", Detail: "PINGs without open streams come too often"}
}
