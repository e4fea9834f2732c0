// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package relay

import (
	"fmt"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/manifold-grpc/manifold/internal/h2"
	"github.com/manifold-grpc/manifold/internal/h2/frame"
)

// SetIdleTimeout has the call end with DEADLINE_EXCEEDED when for d nothing of it moves: no octet of a message arrives or is taken, in
// either direction, and no response begins. Waiting for a connection, and for the next attempt, is idle too. The code is one that
// clients do not retry by themselves, as the upstream may have done its work. A d that is not above 0 changes
// nothing, and calls to many targets have [FanOut.IdleTimeout] instead.
//
// What moves is noted at the batch's reading of the clock, and the call's one timer looks at that when it
// fires: messages cost nothing more.
func (c *Call) SetIdleTimeout(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if d <= 0 || c.stage == stageDone {
		return
	}
	c.idle, c.active = d, time.Since(c.start)
	c.startTimer()
}

// moved notes that something of the call moves. mu is held.
func (c *Call) moved(b *h2.Batch) {
	if c.idle > 0 {
		c.active = b.Now().Sub(c.start)
	}
}

// startTimer sets the timer to what is due first. If it has fired, expire waits for mu, and sees to what
// has changed. mu is held.
func (c *Call) startTimer() {
	switch {
	case c.deadline == nil:
		c.newTimer(c.untilDue(time.Now()))
	case c.deadline.Stop():
		c.deadline.Reset(c.untilDue(time.Now()))
	}
}

// untilDue returns the time until the call's deadline, or until it has been idle for too long; there is one of both. mu is held.
func (c *Call) untilDue(now time.Time) time.Duration {
	due := c.timeout - now.Sub(c.start)
	if c.idle == 0 {
		return due
	}
	if idle := c.idle + c.active - now.Sub(c.start); c.timeout == 0 || idle < due {
		due = idle
	}
	return due
}

// checkIdle is told that the timer of a call with an idle timeout has fired. It returns false if the
// call is at its deadline. mu is held.
func (c *Call) checkIdle(b *h2.Batch) bool {
	now := time.Now()
	if c.timeout > 0 && now.Sub(c.start) >= c.timeout {
		return false
	}
	if now.Sub(c.start) < c.active+c.idle {
		c.setTimer(c.untilDue(now))
		return true
	}
	c.dropUpstream(b, frame.Cancel)
	c.fail(b, failure(codes.DeadlineExceeded, ReasonIdle, fmt.Sprintf("nothing moved for %v, the idle timeout", c.idle)), ReasonIdle)
	return true
}
