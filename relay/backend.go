// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package relay

import (
	"fmt"
	"sync/atomic"
	"time"
)

// A Backend is a set of endpoints of which any can serve a call. Its fields must not change once
// calls are forwarded to it.
type Backend struct {
	// Name is for messages and metrics.
	Name string

	// Endpoints is where calls go. The backend does not own them: whoever made them closes them.
	Endpoints []*Endpoint

	// Pick chooses the endpoint for each call, and for each further attempt. nil means round robin.
	Pick PickFunc

	// Choose takes the place of Endpoints and Pick for who keeps a set of endpoints that changes: it returns
	// the endpoint for the next attempt of a call, whatever its state, or why there is none. A [*Refusal] says
	// what the caller gets; another error is answered with UNAVAILABLE. As for Pick: it may be called
	// from many goroutines at once, must not block, and may use only the getters of the call.
	Choose func(c *Call) (*Endpoint, error)

	// ChooseMirror is Choose for mirrors (see [Call.Mirror]), which are not told of by AttemptEnded: it returns nil if no endpoint is
	// ready. Where Choose is set and ChooseMirror is not, mirrors are dropped.
	ChooseMirror func(c *Call) *Endpoint

	// MirrorEnded is told of what became of each mirror, by one of the Mirror constants; it may come after the end of
	// its call, and of the server. It is called as AttemptEnded is. nil: nobody.
	MirrorEnded func(result string)

	// Retry decides whether a call is tried again after an attempt that failed before anything of its response
	// was passed on, and after what pause. It is asked only if all of the request so far is kept: up to 32 KiB.
	// It is called as AttemptEnded is, and before. nil: nothing is tried again but what the upstream
	// provably did nothing about, which needs no policy (gRFC A6, "Transparent Retries").
	Retry func(c *Call, a FailedAttempt) (pause time.Duration, again bool)

	// AttemptEnded is told of the end of each attempt, one for each endpoint that was chosen; it comes before
	// the next choice for the same call, and after the call for targets that may finish ([FanOut.LetFinish]). It is called with locks of the relay held: it must neither
	// block nor call the relay, save for the getters of the call. nil: nobody.
	AttemptEnded func(c *Call, a AttemptStats)

	next atomic.Uint64
}

// A PickFunc chooses one of a backend's endpoints for a call, or nil if none will do. candidates are
// those that are ready or, if none is, those that are being connected or else silent; it has at least one element and
// must not be kept or changed. It may be called from many goroutines at once, must not block, and may use
// only the getters of the call.
type PickFunc func(c *Call, candidates []*Endpoint) *Endpoint

// pick chooses an endpoint.
func (b *Backend) pick(c *Call) (*Endpoint, error) {
	if b.Choose != nil {
		return b.Choose(c)
	}
	if b.Pick == nil {
		return b.roundRobin()
	}
	for _, want := range [...]State{Ready, Connecting, Silent} {
		var array [16]*Endpoint
		candidates := array[:0]
		for _, e := range b.Endpoints {
			if e.State() == want {
				candidates = append(candidates, e)
			}
		}
		if len(candidates) == 0 {
			continue
		}
		if e := b.Pick(c, candidates); e != nil {
			return e, nil
		}
		return nil, fmt.Errorf("backend %s: no endpoint fits the call", b.Name)
	}
	return nil, b.unavailable()
}

// roundRobin takes the next ready endpoint in turn, or the next that is being connected or silent.
func (b *Backend) roundRobin() (*Endpoint, error) {
	n := uint64(len(b.Endpoints))
	if n == 0 {
		return nil, b.unavailable()
	}
	start := b.next.Add(1) - 1
	var second *Endpoint
	for i := range n {
		e := b.Endpoints[(start+i)%n]
		switch e.State() {
		case Ready:
			return e, nil
		case Connecting, Silent:
			if second == nil {
				second = e
			}
		}
	}
	if second == nil {
		return nil, b.unavailable()
	}
	return second, nil
}

// unavailable says why no endpoint can be had.
func (b *Backend) unavailable() error {
	if len(b.Endpoints) == 0 {
		return fmt.Errorf("backend %s has no endpoint", b.Name)
	}
	var last error
	for _, e := range b.Endpoints {
		if err := e.Err(); err != nil {
			last = err
		}
	}
	if last == nil {
		return fmt.Errorf("backend %s: no endpoint is available", b.Name)
	}
	return fmt.Errorf("backend %s: no endpoint is available, last error: %w", b.Name, last)
}
