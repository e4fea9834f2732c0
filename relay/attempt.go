// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package relay

import (
	"google.golang.org/grpc/codes"

	"github.com/manifold-grpc/manifold/internal/h2"
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
}

var _ error = (*Refusal)(nil)

func (r *Refusal) Error() string { return r.Message }

// refuse answers a call that no endpoint was found for. mu is held.
func (c *Call) refuse(b *h2.Batch, err error) {
	code, reason := codes.Unavailable, ReasonNoEndpoint
	if r, ok := err.(*Refusal); ok { // never wrapped: it is the whole answer
		code, reason = r.Code, r.Reason
	}
	c.fail(b, failure(code, reason, err.Error()), reason)
}

// leave notes that the attempt, which waited or was opened, has ended. mu is held.
func (c *Call) leave(opened bool, code codes.Code, reason string) {
	c.ep.inFlight.Add(-1)
	c.attemptEnded(opened, code, reason)
}

// attemptEnded tells of the end of the attempt at c.ep. mu is held.
func (c *Call) attemptEnded(opened bool, code codes.Code, reason string) {
	if h := c.decision.backend.AttemptEnded; h != nil {
		h(c, AttemptStats{Endpoint: c.ep, Opened: opened, Code: code, Reason: reason})
	}
	c.ep = nil
}
