// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package h2

import (
	"errors"
	"sync"
	"time"

	"github.com/manifold-grpc/manifold/internal/h2/frame"
)

// errDrained ends a connection whose drain is complete.
var errDrained = errors.New("http2: drained")

// drainState is how far a drain is (RFC 9113 section 6.8).
type drainState struct {
	started bool // GOAWAY with the highest identifier, and a PING, are out
	final   bool // GOAWAY with the last one that we take is out; a client: no stream is to be opened
	said    bool // client: its GOAWAY is out
	last    uint32
	since   time.Time
	reason  error // what becomes of streams left after the grace; nil: no grace
}

// keepalive is our own PINGs to see whether the peer lives.
type keepalive struct {
	sent  time.Time // zero: none on its way
	last  time.Time // when the last was sent
	mark  int64     // Conn.appended after it
	heard bool      // HEADERS or DATA came since
	extra bool      // one was sent within KeepaliveRest since then
}

// rtt measures the round-trip time by PINGs while DATA comes in.
type rtt struct {
	value time.Duration // 0: unknown
	sent  time.Time     // zero: none on its way
	last  time.Time
}

// What our PINGs carry.
var (
	pingRTT   = [8]byte{'r', 't', 't'}
	pingDrain = [8]byte{'d', 'r', 'a', 'i', 'n'}
	pingAlive = [8]byte{'a', 'l', 'i', 'v', 'e'}
)

const (
	// rttInterval is the least time between two measurements.
	rttInterval = time.Second
	// drainPingTimeout bounds the wait for the answer to the PING of a drain.
	drainPingTimeout = time.Second
)

// measureRTT sends a PING along with a window update, now and then. mu is held; read loop only.
func (c *Conn) measureRTT() {
	r := &c.rtt
	if !r.sent.IsZero() || r.value != 0 && c.now.Sub(r.last) < rttInterval {
		return
	}
	r.sent = time.Now()
	c.put(frame.AppendPing(c.buffer(), false, pingRTT))
	c.batch.touch(c)
}

// onPong handles the answer to a PING of ours.
func (c *Conn) onPong(v [8]byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case v == pingRTT && !c.rtt.sent.IsZero():
		c.rtt.value = max(c.now.Sub(c.rtt.sent), time.Microsecond)
		c.rtt.last, c.rtt.sent = c.now, time.Time{}
	case v == pingDrain && c.drain.started:
		c.goAwayFinal(&c.batch)
	}
}

// Drain has the peer open no further streams, and ends the connection when the
// last one is over: GOAWAY in two steps, a round trip apart, so that no stream on its way is
// lost. Repeated calls do nothing. On a client's connection it only stops [Conn.Open].
func (c *Conn) Drain(b *Batch) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return
	}
	if c.cfg.Client {
		c.drainClient(b)
		return
	}
	c.drainServer(b)
}

// drainClient has the connection end with its last stream. mu is held.
func (c *Conn) drainClient(b *Batch) {
	c.gone, c.drain.final = true, true
	if c.active == 0 {
		c.farewell(b)
	}
}

// farewell says what is left to say when a drained connection has no stream any more, and has flush end
// it. RFC 9113 section 6.8: "Endpoints SHOULD always send a GOAWAY frame before closing a connection".
// mu is held.
func (c *Conn) farewell(b *Batch) {
	if c.cfg.Client && !c.drain.said && !c.closed {
		c.drain.said = true
		c.put(frame.AppendGoAway(c.buffer(), 0, frame.NoError, nil))
	}
	b.touch(c)
}

// drainServer takes the first step. mu is held.
func (c *Conn) drainServer(b *Batch) {
	if c.drain.started {
		return
	}
	c.drain.started = true
	c.stir()
	c.drain.since = time.Now()
	out := frame.AppendGoAway(c.buffer(), maxStreamID, frame.NoError, nil)
	c.put(frame.AppendPing(out, false, pingDrain))
	b.touch(c)
}

// goAwayFinal takes the second step. mu is held.
func (c *Conn) goAwayFinal(b *Batch) {
	if c.drain.final {
		return
	}
	c.drain.final = true
	c.drain.last = c.lastPeer
	c.put(frame.AppendGoAway(c.buffer(), c.lastPeer, frame.NoError, nil))
	b.touch(c)
}

// lastTaken returns what a GOAWAY names as the last stream. RFC 9113 section 6.8: "Endpoints MUST NOT
// increase the value they send in the last stream identifier". mu is held.
func (c *Conn) lastTaken() uint32 {
	if c.drain.final && !c.cfg.Client {
		return c.drain.last
	}
	return c.lastPeer
}

// finish ends a drained connection: nothing is open and all is written. The peer
// sees the end after our last frame. mu is held.
func (c *Conn) finish() {
	if c.closed {
		return
	}
	c.closed, c.gone = true, true
	if c.err == nil {
		c.err = errDrained
	}
	// The read loop ends by it and closes the socket.
	c.t.nc.SetReadDeadline(time.Unix(1, 0)) //nolint:errcheck // closed already, then
}

// Tick has the connection look at the clock. Its owner calls it about once
// a second; timeouts have that resolution.
func (c *Conn) Tick(now time.Time) {
	if now.Sub(c.start) < time.Duration(c.quiet.Load()) {
		return
	}
	if err := c.overdue(now); err != nil {
		c.kill(err)
		return
	}
	b := tickBatches.Get().(*Batch)
	b.now, b.shared = now, false
	c.mu.Lock()
	if !c.closed {
		c.tickDrain(b, now)
		c.tickKeepalive(b, now)
		c.releaseSlivers(b)
		c.quiet.Store(int64(c.quietUntil(now)))
	}
	c.mu.Unlock()
	b.Flush()
	tickBatches.Put(b)
}

var tickBatches = sync.Pool{New: func() any { return new(Batch) }}

// quietUntil returns until when, counted from the start, nothing is due by the clock, if nothing is stirred
// until then; what begins to run out by then runs longer than that. 0: who knows. A server with thousands of
// idle connections has them looked at every few seconds so. mu is held.
func (c *Conn) quietUntil(now time.Time) time.Duration {
	if c.cfg.Client || !c.peer.ready || c.partial.Load() != 0 || !c.blocked.IsZero() || !c.keepalive.sent.IsZero() ||
		c.drain.started || c.slivers.held || c.ready.first != nil {
		return 0
	}
	left := min(c.cfg.SettingsTimeout, c.cfg.WriteTimeout)
	if d := c.cfg.IdleTimeout; d > 0 {
		if c.active == 0 {
			d -= now.Sub(c.emptied)
		}
		left = min(left, d)
	}
	if c.cfg.MaxAge > 0 {
		left = min(left, c.age-now.Sub(c.start))
	}
	if d := c.cfg.KeepaliveTime; d > 0 {
		left = min(left, d-now.Sub(time.Unix(0, c.lastRead.Load())))
	}
	return now.Sub(c.start) + left
}

// stir has the next Tick look at the connection: something may be due that was not under way at the last. mu is held.
func (c *Conn) stir() {
	if c.quiet.Load() != 0 {
		c.quiet.Store(0)
	}
}

// Unanswered returns for how long a keepalive PING has been without any octet from the peer after it; 0 if none
// is on its way.
func (c *Conn) Unanswered(now time.Time) time.Duration {
	c.mu.Lock()
	sent := c.keepalive.sent
	c.mu.Unlock()
	if sent.IsZero() || !time.Unix(0, c.lastRead.Load()).Before(sent) {
		return 0
	}
	return now.Sub(sent)
}

// overdue returns why the connection must end now, or nil.
func (c *Conn) overdue(now time.Time) error {
	lastRead := time.Unix(0, c.lastRead.Load())
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.closed:
		return nil
	case !c.peer.ready && now.Sub(c.start) > c.cfg.SettingsTimeout:
		return ErrSettings
	case c.partialFor(now) > c.cfg.SettingsTimeout:
		return ErrPartial
	case !c.blocked.IsZero() && now.Sub(c.blocked) > c.cfg.WriteTimeout:
		return ErrStalled
	case !c.keepalive.sent.IsZero() && lastRead.Before(c.keepalive.sent) &&
		now.Sub(c.keepalive.sent) > c.cfg.KeepaliveTimeout:
		return ErrKeepalive
	case c.drain.reason != nil && now.Sub(c.drain.since) > c.cfg.MaxAgeGrace:
		return c.drain.reason
	}
	return nil
}

// partialFor returns how long a header block or a frame's first octets have been incomplete.
func (c *Conn) partialFor(now time.Time) time.Duration {
	if since := c.partial.Load(); since != 0 {
		return now.Sub(time.Unix(0, since))
	}
	return 0
}

// tickDrain starts and continues drains. mu is held.
func (c *Conn) tickDrain(b *Batch, now time.Time) {
	if c.cfg.Client {
		if c.cfg.IdleTimeout > 0 && c.active == 0 && now.Sub(c.emptied) > c.cfg.IdleTimeout {
			c.drainClient(b)
		}
		return
	}
	switch {
	case c.drain.started:
		if now.Sub(c.drain.since) > drainPingTimeout {
			c.goAwayFinal(b)
		}
	case c.cfg.IdleTimeout > 0 && c.active == 0 && now.Sub(c.emptied) > c.cfg.IdleTimeout:
		c.drainServer(b)
	case c.cfg.MaxAge > 0 && now.Sub(c.start) > c.age:
		c.drainServer(b)
		if c.cfg.MaxAgeGrace > 0 {
			c.drain.reason = ErrAge
		}
	}
}

// tickKeepalive sends a PING to a silent peer. mu is held.
func (c *Conn) tickKeepalive(b *Batch, now time.Time) {
	if c.cfg.KeepaliveTime <= 0 || c.active == 0 && c.cfg.Client {
		return
	}
	k := &c.keepalive
	lastRead := time.Unix(0, c.lastRead.Load())
	if !lastRead.Before(k.sent) {
		k.sent = time.Time{}
	}
	if !k.sent.IsZero() || now.Sub(lastRead) <= c.cfg.KeepaliveTime || !c.mayPing(now) {
		return
	}
	c.put(frame.AppendPing(c.buffer(), false, pingAlive))
	k.sent, k.last, k.mark, k.heard = now, now, c.appended, false
	b.touch(c)
}

// mayPing keeps our PINGs within what gRPC servers allow (gRFC A8): one after each HEADERS or DATA frame of
// theirs, then one in KeepaliveRest. Of the two that they forgive we use one, where something
// went out since the last: a connection with new calls must not stay unwatched. mu is held.
func (c *Conn) mayPing(now time.Time) bool {
	k := &c.keepalive
	switch {
	case k.heard:
		k.extra = false
	case now.Sub(k.last) >= c.cfg.KeepaliveRest:
	case !k.extra && c.appended > k.mark:
		k.extra = true
	default:
		return false
	}
	return true
}
