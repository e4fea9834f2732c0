// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package relay

import (
	"google.golang.org/grpc/codes"

	"github.com/manifold-grpc/manifold/internal/h2"
)

// maxPicks bounds how often a seeker is offered to an endpoint that closes at that moment.
const maxPicks = 5

// seek has s find an endpoint of the backend that opens a stream for it, or has it wait for one: nil. Else it returns why
// there is none. c is what the backend's functions see. The lock of s's call is held.
func seek(s seeker, b *h2.Batch, backend *Backend, c *Call) *Refusal {
	for range maxPicks {
		ep, err := backend.pick(c)
		if err != nil {
			return refusalOf(err)
		}
		if r := s.goTo(ep); r != nil {
			return giveUp(s, r)
		}
		switch ep.submit(s, b) {
		case submitOpened, submitQueued:
			return nil
		case submitFull:
			return giveUp(s, &Refusal{Code: codes.Unavailable, Reason: ReasonQueueFull,
				Message: "backend " + backend.Name + ": endpoint " + ep.addr + ": too many calls wait for a stream"})
		}
		giveUp(s, &Refusal{Code: codes.Unavailable, Reason: ReasonConnect}) // closed, or failed just now: another one
	}
	return &Refusal{Code: codes.Unavailable, Reason: ReasonConnect, Message: "backend " + backend.Name + ": endpoints come and go"}
}

// refusalOf returns what an error of Backend.pick means for the caller.
func refusalOf(err error) *Refusal {
	if r, ok := err.(*Refusal); ok { // never wrapped: it is the whole answer
		return r
	}
	return &Refusal{Code: codes.Unavailable, Reason: ReasonNoEndpoint, Message: err.Error()}
}

// giveUp ends s's attempt at the endpoint that it goes to, for the reason r.
func giveUp(s seeker, r *Refusal) *Refusal {
	s.attemptEnded(false, r.Code, r.Reason)
	s.goTo(nil)
	return r
}
