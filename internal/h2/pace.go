// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package h2

import (
	"runtime"
	"time"
)

// pace has a peer wait for what it makes us do that serves no one: each such thing has its price in time, and who owes more than
// paceCredit is not read until the rest of it is over. Others get the CPU meanwhile, and TCP holds the peer back.
// What is under way on its connection goes on. Owned by the read loop.
type pace struct {
	owed    time.Duration
	since   time.Time // owed is as of then
	refused int       // streams above the limit, up to freelyRefused
}

const (
	// paceCredit is what a peer may owe without waiting: a burst is no flood.
	paceCredit = 50 * time.Millisecond
	// paceStep is the longest wait after which it is looked whether the connection has been closed.
	paceStep = 10 * time.Millisecond

	// The prices: about twenty times what each costs in CPU, so that it is a twentieth of a core that a connection gets for them.
	priceRefused     = 20 * time.Microsecond // a stream above the limit
	priceAnswered    = 20 * time.Microsecond // a call that is answered as it comes
	priceTooLarge    = 25 * time.Microsecond // a header list above its limit
	priceTooLargeKiB = 25 * time.Microsecond // each KiB of its block

	// pricePersistent is that of a stream above the limit of a peer that has acknowledged it, or had freelyRefused streams refused.
	// RFC 9113 section 5.1.2: "Endpoints MUST NOT exceed the limit set by their peer." What it opens as soon as there is
	// room again is then no more than its streams every so often, in place of all that the backend can serve.
	pricePersistent = time.Millisecond
	freelyRefused   = 1000
)

// owe adds the price of something useless. A server pays none: others wait for it too.
func (c *Conn) owe(price time.Duration) {
	if c.cfg.Client {
		return
	}
	if c.pace.owed == 0 {
		c.pace.since = c.now
	}
	c.pace.owed += price
}

// oweRefused adds the price of a stream above the limit.
func (c *Conn) oweRefused() {
	if c.acked || c.pace.refused >= freelyRefused {
		c.owe(pricePersistent)
		return
	}
	c.pace.refused++
	c.owe(priceRefused)
}

// oweTooLarge adds the price of a header list above its limit, of a block of n octets.
func (c *Conn) oweTooLarge(n int) {
	c.owe(priceTooLarge + time.Duration(n)*priceTooLargeKiB/1024)
}

// Answered is told by the owner, inside of Events.Headers, that it answered the stream at once and by itself. A peer
// that has nothing but such streams to offer is read slowly.
func (c *Conn) Answered() { c.owe(priceAnswered) }

// due returns how long the peer has to wait as of now.
func (p *pace) due(now time.Time) time.Duration {
	p.owed -= min(p.owed, max(0, now.Sub(p.since)))
	p.since = now
	return max(0, p.owed-paceCredit)
}

// yield lets others run after a turn: at once if the peer owes little and there is no more input at hand, or
// after the time that it has to wait.
func (c *Conn) yield() {
	if c.pace.owed > 0 {
		for wait := c.pace.due(time.Now()); wait > 0 && !c.over(); wait = c.pace.due(time.Now()) {
			time.Sleep(min(wait, paceStep))
		}
	}
	if c.more {
		runtime.Gosched()
		c.now = time.Now()
		c.batch.now = c.now
	}
}

// over reports whether the connection was ended from outside of the read loop, or by its write side.
func (c *Conn) over() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err != nil || c.closed
}
