// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package relay

import (
	"strconv"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/manifold-grpc/manifold/internal/h2"
	"github.com/manifold-grpc/manifold/internal/h2/frame"
)

// AttemptStats is what became of one attempt of a call.
type AttemptStats struct {
	// Endpoint is where it went.
	Endpoint *Endpoint
	// Opened is whether a stream was opened; otherwise the call waited for one, and nothing was sent.
	Opened bool
	// Code is the status of the attempt.
	Code codes.Code
	// Reason is empty for a status of the upstream's, else one of the Reason constants:
	// [ReasonUnprocessed] for an attempt that the upstream provably did nothing about and that is made again.
	Reason string
}

// A Refusal is an error of [Backend.Choose] that says what the caller gets.
type Refusal struct {
	Code codes.Code
	// Reason is for the ErrorInfo detail and metrics, as the Reason constants are.
	Reason  string
	Message string
	// Unresolved says that a name led to no address, which is the phase RESOLVE of a one-to-many call's target.
	Unresolved bool
}

var _ error = (*Refusal)(nil)

func (r *Refusal) Error() string { return r.Message }

// leave notes that the attempt, which waited or was opened, has ended. mu is held.
func (c *Call) leave(opened bool, code codes.Code, reason string) {
	c.ep.inFlight.Add(-1)
	if h := c.srv.Hooks.AttemptRetried; h != nil && opened && c.stage != stageDone {
		h(c, AttemptStats{Endpoint: c.ep, Opened: true, Code: code, Reason: reason}, c.attemptStart())
	}
	c.attemptEnded(opened, code, reason)
}

// attemptStart returns when the current attempt was opened; the first one counts from the call's start. mu is held.
func (c *Call) attemptStart() time.Time {
	if c.reopened == 0 {
		return c.start
	}
	return c.start.Add(c.reopened)
}

// attemptEnded tells of the end of the attempt at c.ep. mu is held.
func (c *Call) attemptEnded(opened bool, code codes.Code, reason string) {
	if h := c.decision.backend.AttemptEnded; h != nil {
		h(c, AttemptStats{Endpoint: c.ep, Opened: opened, Code: code, Reason: reason})
	}
	c.ep = nil
}

// A FailedAttempt is what [Backend.Retry] decides by.
type FailedAttempt struct {
	AttemptStats
	// Retries is how often the call was tried again by Retry's word.
	Retries int
	// Pushback is what the upstream says of when to try again (gRFC A6, grpc-retry-pushback-ms):
	// 0 nothing, negative not at all.
	Pushback time.Duration
}

// retry has the call tried again after an attempt that failed, if the backend's policy has it so. mu is held.
func (c *Call) retry(b *h2.Batch, code codes.Code, reason, pushback string) bool {
	if c.stage != stageOpen || c.responded || c.replay.over || c.ep == nil {
		return false
	}
	decide := c.decision.backend.Retry
	if decide == nil {
		return false
	}
	pause, again := decide(c, FailedAttempt{
		AttemptStats: AttemptStats{Endpoint: c.ep, Opened: true, Code: code, Reason: reason},
		Retries:      int(c.retries), Pushback: parsePushback(pushback),
	})
	if !again || c.timeout > 0 && time.Since(c.start)+pause >= c.timeout {
		return false
	}
	c.up.Reset(b, frame.Cancel) // if it has not ended
	c.leave(true, code, reason)
	c.retries++
	c.mayReuse = false // a timer may come late
	if pause <= 0 {
		c.stage = stageRouting
		c.connect(b)
		return true
	}
	c.stage = stagePausing
	c.pausing = time.AfterFunc(pause, c.resume)
	return true
}

// resume makes the next attempt after a pause.
func (c *Call) resume() {
	var b h2.Batch
	c.mu.Lock()
	if c.stage == stagePausing {
		c.stage = stageRouting
		c.connect(&b)
	}
	c.mu.Unlock()
	b.Flush()
}

// parsePushback reads grpc-retry-pushback-ms. What cannot be read means not at all, as gRFC A6 has it.
func parsePushback(s string) time.Duration {
	if s == "" {
		return 0
	}
	ms, err := strconv.ParseInt(s, 10, 32)
	if err != nil || ms < 0 {
		return -1
	}
	return max(time.Duration(ms)*time.Millisecond, 1)
}

// previousAttempts is the header that tells an upstream how often a call was tried before (gRFC A6).
const previousAttempts = "grpc-previous-rpc-attempts"

// countAttempts adds the call's retries to what a caller that retries itself says. mu is held.
func (c *Call) countAttempts(text string) string {
	n, _ := strconv.Atoi(text) // nonsense counts as none
	return strconv.Itoa(max(n, 0) + int(c.retries))
}
