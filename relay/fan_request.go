// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package relay

import (
	"fmt"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/manifold-grpc/manifold/internal/h2"
)

// requestData moves octets of the request to all targets. It returns how many more the client may send.
func (f *fanCall) requestData(b *h2.Batch, p []byte, end bool) int {
	c := f.c
	switch {
	case f.unopened > 0:
		f.keep(b, p) // the targets without a stream need it; the grants bound it
	case len(c.replay.p) > maxReplay:
		f.forget()
	default:
		c.replay.keepSome(p, int(c.reqCount.left))
	}
	if !f.running() {
		return len(p)
	}
	for i := range f.targets {
		if t := &f.targets[i]; t.stage == targetOpen {
			t.send(b, p, end)
		}
		if !f.running() {
			return len(p)
		}
	}
	if f.dropLaggards(b); !f.running() {
		return len(p)
	}
	return f.grant()
}

// keep appends octets to the replay buffer. What of it is more than any call may keep is reserved in the server's budget: without
// room there, targets that have no stream yet have failed, and nothing is kept.
func (f *fanCall) keep(b *h2.Batch, p []byte) {
	c := f.c
	more := max(len(c.replay.p)+len(p)-maxReplay, 0) - f.replayed
	if more <= 0 || c.srv.budget.Reserve(int64(more)) {
		f.replayed += max(more, 0)
		c.replay.keep(p)
		return
	}
	f.forget()
	f.started = len(f.targets) // who comes later could not have all of the request
	for i := 0; i < len(f.targets) && f.running(); i++ {
		if t := &f.targets[i]; t.stage < targetOpen {
			t.fail(b, phaseConnect, codes.ResourceExhausted, ReasonBufferBudget, "requests that wait for a connection exceed the memory for slow endpoints")
		}
	}
}

// forget drops the replay buffer for good: no target is tried again.
func (f *fanCall) forget() {
	f.c.replay.over = true
	f.c.replay.drop()
	f.c.srv.budget.Release(int64(f.replayed))
	f.replayed = 0
}

// dropLaggards ends the targets that are too far behind the fastest, where slow ones are not waited for.
func (f *fanCall) dropLaggards(b *h2.Batch) {
	if !f.cfg.Limits.DropSlow {
		return
	}
	limit := f.queueLimit()
	lead := f.lead()
	for i := 0; i < len(f.targets) && f.running(); i++ {
		t := &f.targets[i]
		behind := lead - t.sent
		if behind <= limit || t.stage > targetOpen {
			continue
		}
		phase := phaseSend
		if t.stage != targetOpen {
			phase = phaseConnect
		}
		t.fail(b, phase, codes.ResourceExhausted, ReasonSlowTarget,
			fmt.Sprintf("%d bytes of the request behind the fastest target, at most %d allowed (QueuedBytes)", behind, limit))
	}
}

// lead returns how many octets of the request have left for the fastest target.
func (f *fanCall) lead() int64 {
	lead := int64(0)
	for i := range f.targets {
		if t := &f.targets[i]; t.stage == targetOpen {
			lead = max(lead, t.sent)
		}
	}
	return lead
}

// send sends octets of the request to the target.
func (t *fanTarget) send(b *h2.Batch, p []byte, end bool) {
	passed, err := t.up.Send(b, p, end)
	t.sent += int64(passed)
	waiting := t.f.c.reqCount.bytes - t.sent
	limit := t.f.queueLimit()
	switch {
	case err != nil:
		t.fail(b, phaseSend, codes.ResourceExhausted, ReasonBufferBudget, "requests that wait exceed the memory for slow endpoints")
	case waiting <= limit, t.f.cfg.Limits.DropSlow:
	case t.stalled.IsZero():
		now := time.Now()
		t.stalled = now
		t.f.arm(now)
	}
}

func (f *fanCall) queueLimit() int64 { return int64(or(f.cfg.Limits.QueuedBytes, defaultQueuedBytes)) }

// grant returns how many octets the client may send in addition: as many as the queue of the slowest target has
// room for, or that of the fastest where slow ones are dropped.
func (f *fanCall) grant() int {
	upTo := f.c.reqCount.bytes
	if f.granted == upTo {
		return 0
	}
	limit := f.queueLimit()
	if f.cfg.Limits.DropSlow {
		upTo = min(upTo, f.lead()+limit)
	} else {
		for i := range f.targets {
			if t := &f.targets[i]; t.stage <= targetOpen {
				upTo = min(upTo, t.sent+limit)
			}
		}
	}
	more := upTo - f.granted
	if more <= 0 {
		return 0
	}
	f.granted = upTo
	return int(more)
}

// grantNow tells the client of what grant finds.
func (f *fanCall) grantNow(b *h2.Batch) {
	if more := f.grant(); more > 0 {
		f.c.down.Consumed(b, more)
	}
}

// credit is told that request octets left for which the target had no room.
func (t *fanTarget) credit(a *attempt, b *h2.Batch, n int) {
	c := a.call
	c.mu.Lock()
	defer c.mu.Unlock()
	if !t.current(a) {
		return
	}
	limit := t.f.queueLimit()
	slowest := t.sent+limit <= t.f.granted
	t.sent += int64(n)
	if !t.stalled.IsZero() {
		t.stalled = time.Now()
		if c.reqCount.bytes-t.sent <= limit {
			t.stalled = time.Time{}
		}
	}
	if t.f.cfg.Limits.DropSlow {
		t.f.dropLaggards(b)
		slowest = t.f.running()
	}
	if slowest {
		t.f.grantNow(b)
	}
}
