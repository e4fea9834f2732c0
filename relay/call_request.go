// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package relay

import (
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/manifold-grpc/manifold/internal/h2"
	"github.com/manifold-grpc/manifold/internal/h2/frame"
	"github.com/manifold-grpc/manifold/internal/h2/hpack"
)

// requestData moves octets of the request to the upstream, or keeps them while
// there is none. It returns how many need no more memory. mu is held.
func (c *Call) requestData(b *h2.Batch, p []byte, end bool) (passed int) {
	if c.stage == stageDone {
		return len(p)
	}
	c.moved(b)
	if n := c.reqCount.feed(p, c.maxMsg); n > 0 {
		c.tooLarge(b, n)
		return len(p)
	}
	if c.mirror != nil {
		c.mirror.feed(b, p, end)
	}
	return c.pass(b, p, end)
}

// pass is requestData for octets that were counted. mu is held.
func (c *Call) pass(b *h2.Batch, p []byte, end bool) (passed int) {
	if c.stage == stageDone {
		return len(p)
	}
	c.reqEnd = c.reqEnd || end
	if c.fan != nil {
		return c.fan.requestData(b, p, end)
	}
	if c.stage != stageOpen {
		c.replay.keep(p) // the client's window bounds it
		c.unpassed += len(p)
		return 0
	}
	if !c.responded {
		c.replay.keepSome(p, int(c.reqCount.left))
	}
	passed, err := c.up.Send(b, p, end)
	if err != nil {
		c.overBudget(b)
		return len(p)
	}
	return passed
}

// tooLarge ends the call for a message of n octets. mu is held.
func (c *Call) tooLarge(b *h2.Batch, n uint32) {
	c.dropUpstream(b, frame.Cancel)
	c.fail(b, failure(codes.ResourceExhausted, ReasonMessageTooLarge,
		fmt.Sprintf("request message of %d octets, at most %d allowed", n, c.maxMsg)), ReasonMessageTooLarge)
}

// requestRun is requestData for several frames. mu is held.
func (c *Call) requestRun(b *h2.Batch, r h2.Run) (passed int) {
	if c.stage != stageOpen || c.mirror != nil || c.fan != nil {
		for p := range r.All() {
			passed += c.requestData(b, p, false)
		}
		return passed
	}
	c.moved(b)
	for p := range r.All() {
		if n := c.reqCount.feed(p, c.maxMsg); n > 0 {
			c.tooLarge(b, n)
			return r.Len()
		}
		if !c.responded {
			c.replay.keepSome(p, int(c.reqCount.left))
		}
	}
	passed, err := c.up.SendRun(b, r)
	if err != nil {
		c.overBudget(b)
		return r.Len()
	}
	return passed
}

// connect picks an endpoint and opens a stream to it, now or when one can be. mu is held.
func (c *Call) connect(b *h2.Batch) {
	if r := seek(c, b, c.decision.backend, c); r != nil {
		c.fail(b, failure(r.Code, r.Reason, r.Message), r.Reason)
	}
}

var _ seeker = (*Call)(nil)

func (c *Call) lock() *sync.Mutex { return &c.mu }

func (c *Call) goTo(e *Endpoint) *Refusal {
	c.ep = e
	return nil
}

func (c *Call) queued() {
	c.stage = stageWaiting
	c.mayReuse = false // who takes it from the queue may come late
}

func (c *Call) waitsFor(e *Endpoint) bool { return c.stage == stageWaiting && c.ep == e }

func (c *Call) reroute(b *h2.Batch) {
	reason, opened := ReasonConnect, c.stage == stageOpen
	if opened {
		reason = ReasonUnprocessed
	}
	c.stage = stageRouting
	c.leave(opened, codes.Unavailable, reason)
	c.connect(b)
}

// open opens the call's stream on uc and sends what is kept of the request. mu is held.
func (c *Call) open(uc *upConn, b *h2.Batch) error {
	a := &c.first
	if c.attempts > 0 {
		a = new(attempt)
	}
	a.call, a.Owner, a.Growth = c, a, c.dc.h2.Growth()
	end := c.reqEnd && len(c.replay.p) == 0
	if h := c.srv.Hooks.AttemptOpening; h != nil {
		h(c, c.attempts)
	}
	if err := c.openLead(uc, b, a, end); err != nil {
		return err
	}
	if c.attempts > 0 {
		c.reopened = max(1, time.Since(c.start))
	}
	c.attempts++
	c.up = a
	c.stage = stageOpen
	if len(c.replay.p) > 0 {
		c.sendKept(b)
	}
	return nil
}

// openLead is openOn, with what leads the request in the same step, if there is something and it can be. mu is held.
func (c *Call) openLead(uc *upConn, b *h2.Batch, a *attempt, end bool) error {
	j := c.lead
	if j == nil {
		return c.openOn(uc, b, a, end)
	}
	l := c.list(uc, b.Now(), 0)
	if l == nil {
		return c.openFields(uc, b, a, end)
	}
	sent, err := uc.h2.OpenMessage(b, &a.Stream, l, j.Data, j.End)
	if sent {
		c.lead, c.reqEnd = nil, j.End
		j.Passed = len(j.Data)
	}
	return err
}

// openOn opens a's stream on uc with the request's fields. mu is held.
func (c *Call) openOn(uc *upConn, b *h2.Batch, a *attempt, end bool) error {
	place := 0
	if a.target != nil {
		place = a.target.index
	}
	if l := c.list(uc, b.Now(), place); l != nil {
		return uc.h2.OpenList(b, &a.Stream, l, end)
	}
	return c.openFields(uc, b, a, end)
}

// openFields is openOn for fields that are no list. Their array is none of the stack, which it would have
// double for each connection.
func (c *Call) openFields(uc *upConn, b *h2.Batch, a *attempt, end bool) error {
	array := sentFields.Get().(*[24]hpack.Field)
	err := uc.h2.Open(b, &a.Stream, c.upstreamFields(array[:0], uc, b.Now()), end)
	clear(array[:]) // of what callers sent
	sentFields.Put(array)
	return err
}

// sentFields holds arrays for fields while a stream is opened.
var sentFields = sync.Pool{New: func() any { return new([24]hpack.Field) }}

// sendKept sends the replay buffer. mu is held.
func (c *Call) sendKept(b *h2.Batch) {
	n := len(c.replay.p)
	before := n - c.unpassed // granted to the client by an earlier attempt
	c.unpassed = 0
	passed, err := c.up.Send(b, c.replay.p, c.reqEnd)
	if err != nil {
		c.overBudget(b)
		return
	}
	c.up.skip = max(0, before-passed)
	if passed > before {
		c.down.Consumed(b, passed-before)
	}
	c.replay.keepSome(nil, int(c.reqCount.left))
}

// upstreamFields appends the request's fields as they are sent to uc. mu is held.
func (c *Call) upstreamFields(dst []hpack.Field, uc *upConn, now time.Time) []hpack.Field {
	dst = c.adjustedFields(dst, uc, now)
	return c.forwardFields(dst) // not from in there: an idle connection keeps the stack of its deepest call
}

// adjustedFields is upstreamFields without what tells of the client.
func (c *Call) adjustedFields(dst []hpack.Field, uc *upConn, now time.Time) []hpack.Field {
	authority, counted := false, c.retries == 0
	for _, f := range c.req {
		switch f.Name {
		case ":scheme":
			f.Value = uc.scheme
		case ":authority":
			authority = true
			f.Value = or(uc.ep.cfg.Authority, or(f.Value, c.host)) // where it is empty, host takes its place
		case "grpc-timeout":
			f.Value = c.timeLeft(f.Value, now)
		case previousAttempts:
			if c.retries > 0 {
				f.Value, counted = c.countAttempts(f.Value), true
			}
		}
		if !authority && len(f.Name) > 0 && f.Name[0] != ':' {
			authority = true
			if host := or(uc.ep.cfg.Authority, c.host); host != "" {
				dst = append(dst, hpack.Field{Name: ":authority", Value: host})
			}
		}
		dst = append(dst, f)
	}
	if !counted {
		dst = append(dst, hpack.Field{Name: previousAttempts, Value: c.countAttempts("")})
	}
	return append(dst, hpack.Field{Name: "te", Value: "trailers"})
}

// timeLeft returns the grpc-timeout less the time spent, or the caller's own text
// while that is next to nothing: rewriting it gains no one.
func (c *Call) timeLeft(text string, now time.Time) string {
	if c.timeoutAsIs(now) {
		return text
	}
	return formatTimeout(c.timeout - now.Sub(c.start))
}

// timeoutAsIs reports whether so little of the caller's time is spent that its own text may go on.
func (c *Call) timeoutAsIs(now time.Time) bool { return now.Sub(c.start) < c.timeout/1000 }

// dropUpstream takes the call from its endpoint: out of the queue, or off its stream. mu is held.
func (c *Call) dropUpstream(b *h2.Batch, code frame.Code) {
	switch c.stage {
	case stageWaiting:
		c.ep.forget(c)
	case stageOpen:
		if c.fan != nil {
			c.fan.cancelAll(b)
			return
		}
		c.up.Reset(b, code)
	}
}

// overBudget ends a call whose octets nobody reads fast enough. A status would have to wait behind them,
// so the stream is reset: gRPC maps the code to RESOURCE_EXHAUSTED. mu is held.
func (c *Call) overBudget(b *h2.Batch) {
	c.dropUpstream(b, frame.Cancel)
	c.down.Reset(b, frame.EnhanceYourCalm)
	c.finish(b, codes.ResourceExhausted, ReasonBufferBudget)
}
