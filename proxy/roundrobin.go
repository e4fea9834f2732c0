// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/status"
)

// StateBackend is a [Backend] that knows the state of its channel.
type StateBackend interface {
	Backend

	// State returns the state at this moment. It must not block.
	State() connectivity.State
}

// RoundRobin directs each call to the next backend of a set, also when all calls come over one connection.
//
// A backend that is known to be down is passed over while another is up. For a [StateBackend], down is
// TransientFailure and Shutdown, and up is Ready and Idle, because a call wakes an idle channel. Connecting is in
// between: such a backend is passed over while another is up, so that no call waits for a peer that may never
// answer, and is preferred to one that is down. A backend of another kind counts as up. With all of them down, the
// next in turn gets the call and says what is wrong.
//
// A RoundRobin is safe for concurrent use. The zero value refuses each call with codes.Unavailable.
type RoundRobin struct {
	turns []turn        // immutable
	next  atomic.Uint64 // number of the next call; its remainder is the turn
}

// turn is one place in the order.
type turn struct {
	backends [1]Backend
	state    func() connectivity.State // nil: always up
}

var _ StreamDirector = (*RoundRobin)(nil).Direct

// NewRoundRobin returns a RoundRobin over the backends in the given order. A backend that is given twice gets twice the calls. It
// is an error to give none, or a nil one.
func NewRoundRobin(backends ...Backend) (*RoundRobin, error) {
	if len(backends) == 0 {
		return nil, errors.New("proxy: round robin needs a backend, got none")
	}

	r := &RoundRobin{turns: make([]turn, len(backends))}

	for i, b := range backends {
		if b == nil {
			return nil, fmt.Errorf("proxy: backend #%d of a round robin is nil", i)
		}

		r.turns[i].backends[0] = b
		if sb, ok := b.(StateBackend); ok {
			r.turns[i].state = sb.State
		}
	}

	return r, nil
}

// Direct is the [StreamDirector].
func (r *RoundRobin) Direct(context.Context, string) (Mode, []Backend, error) {
	if len(r.turns) == 0 {
		return One2One, nil, status.Error(codes.Unavailable, "proxy: round robin over no backends")
	}

	return One2One, r.pick().backends[:], nil
}

// pick chooses the turn of one call.
//
// The turns that it passes over are used up for all calls. If only this call skipped them, the backend behind a
// failed one would get that one's share on top of its own.
func (r *RoundRobin) pick() *turn {
	n := uint64(len(r.turns))
	first := r.next.Add(1) - 1

	var connecting *turn

	for i := range n {
		t := &r.turns[(first+i)%n]

		switch t.rank() {
		case up:
			if i > 0 {
				r.next.Add(i)
			}

			return t
		case halfUp:
			if connecting == nil {
				connecting = t
			}
		case down:
		}
	}

	if connecting != nil {
		return connecting
	}

	return &r.turns[first%n]
}

// rank is how good a choice a backend is.
type rank int

const (
	up rank = iota
	halfUp
	down
)

func (t *turn) rank() rank {
	if t.state == nil {
		return up
	}

	switch t.state() {
	case connectivity.Connecting:
		return halfUp
	case connectivity.TransientFailure, connectivity.Shutdown:
		return down
	default:
		return up
	}
}
