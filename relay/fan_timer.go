// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package relay

import (
	"fmt"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/manifold-grpc/manifold/internal/h2"
)

// All times of a fanned-out call share the one timer that any call has for its deadline. It is set to
// what comes first, and looks at everything when it fires: no activity has to move it.

// setTimer has expire look at the call after d. mu is held.
func (c *Call) setTimer(d time.Duration) {
	switch {
	case c.deadline == nil:
		c.newTimer(d)
	case !c.deadline.Reset(d):
		c.mayReuse = false // an expire of before may still come
	}
}

// arm sets the timer, unless it is set to something earlier.
func (f *fanCall) arm(now time.Time) {
	c := f.c
	if f.armed.IsZero() && c.timeout > 0 && c.deadline != nil {
		f.armed = c.start.Add(c.timeout)
	}
	next := f.next()
	if next.IsZero() || !f.armed.IsZero() && !next.Before(f.armed) {
		return
	}
	f.armed = next
	c.setTimer(next.Sub(now))
}

// next returns when something is due; zero: never.
func (f *fanCall) next() time.Time {
	var next time.Time
	sooner := func(t time.Time) {
		if !t.IsZero() && (next.IsZero() || t.Before(next)) {
			next = t
		}
	}
	if f.c.timeout > 0 {
		sooner(f.c.start.Add(f.c.timeout))
	}
	if !f.reserved {
		sooner(f.reserve)
	}
	if f.started < len(f.targets) {
		sooner(f.hedge)
	}
	sooner(f.settle)
	for i := range f.targets {
		if due, _ := f.targets[i].due(); due > 0 {
			sooner(f.targets[i].since.Add(due))
		}
	}
	return next
}

// due returns the time since the target's turn at which one of its own timers fires, and which; 0: none does.
func (t *fanTarget) due() (at time.Duration, what string) {
	if t.since.IsZero() {
		return 0, ""
	}
	cfg := t.f.cfg
	sooner := func(since time.Time, d time.Duration, name string) {
		if since.IsZero() || d <= 0 {
			return
		}
		if d += since.Sub(t.since); at == 0 || d < at {
			at, what = d, name
		}
	}
	switch {
	case t.stage == targetIdle || t.stage == targetQueued:
		sooner(t.since, or(cfg.ConnectTimeout, defaultConnectTimeout), timerConnect)
	case t.stage != targetOpen:
		return 0, "" // it waits for the client
	case t.in.messages == 0:
		sooner(t.active, cfg.IdleTimeout, timerIdle)
		sooner(t.stalled, or(cfg.Limits.StallTimeout, defaultStallTimeout), timerStall)
	}
	sooner(t.since, cfg.TotalTimeout, timerTotal)
	return at, what
}

const (
	timerConnect = "no connection with room for a stream within"
	timerIdle    = "nothing came for"
	timerStall   = "no request was taken for"
	timerTotal   = "no end within"
)

// atDeadline does what is due, and reports whether that is the caller's deadline.
func (f *fanCall) atDeadline(b *h2.Batch) bool {
	now := time.Now()
	if f.c.timeout > 0 && now.Sub(f.c.start) >= f.c.timeout {
		return true
	}
	passed := func(t time.Time) bool { return !t.IsZero() && !now.Before(t) }
	switch {
	case passed(f.settle):
		f.conclude(b)
	case !f.reserved && passed(f.reserve):
		f.reserved = true
		f.failAll(b)
	default:
		f.failDue(b, now)
		if f.running() && f.started < len(f.targets) && passed(f.hedge) {
			f.hedge = now.Add(or(f.cfg.HedgeDelay, defaultHedgeDelay))
			f.startNext(b)
		}
	}
	if f.running() {
		f.armed = now.Add(-1) // it has fired: set it again whatever comes
		f.rearm(now)
	}
	return false
}

// rearm sets the timer after it has fired.
func (f *fanCall) rearm(now time.Time) {
	if next := f.next(); !next.IsZero() {
		f.armed = next
		f.c.setTimer(max(next.Sub(now), 0))
	} else {
		f.armed = time.Time{}
	}
}

// failAll ends all targets that still run, for the rest of the caller's time is reserved.
func (f *fanCall) failAll(b *h2.Batch) {
	f.started = len(f.targets) // too late for those that have not had their turn
	for i := 0; i < len(f.targets) && f.running(); i++ {
		t := &f.targets[i]
		if t.stage == targetDraining {
			continue // it waits for the client
		}
		phase := phaseReceive
		if t.stage != targetOpen {
			phase = phaseConnect
		}
		t.fail(b, phase, codes.DeadlineExceeded, ReasonDeadline, "no end before the time reserved ahead of the caller's deadline")
	}
}

// failDue ends the targets of which a timer has fired.
func (f *fanCall) failDue(b *h2.Batch, now time.Time) {
	for i := 0; i < len(f.targets) && f.running(); i++ {
		t := &f.targets[i]
		at, what := t.due()
		if at == 0 || now.Sub(t.since) < at {
			continue
		}
		switch what {
		case timerConnect:
			t.fail(b, phaseConnect, codes.DeadlineExceeded, ReasonTargetTimeout,
				fmt.Sprintf("%s %v", what, or(f.cfg.ConnectTimeout, defaultConnectTimeout)))
		case timerStall:
			t.fail(b, phaseSend, codes.ResourceExhausted, ReasonStalled,
				fmt.Sprintf("%s %v while the others waited", what, or(f.cfg.Limits.StallTimeout, defaultStallTimeout)))
		case timerIdle:
			t.fail(b, phaseReceive, codes.DeadlineExceeded, ReasonTargetTimeout, fmt.Sprintf("%s %v", what, f.cfg.IdleTimeout))
		default:
			t.fail(b, phaseReceive, codes.DeadlineExceeded, ReasonTargetTimeout, fmt.Sprintf("%s %v", what, f.cfg.TotalTimeout))
		}
	}
}
