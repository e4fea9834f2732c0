// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"fmt"

	"google.golang.org/grpc/codes"

	"github.com/manifold-grpc/manifold/relay"
)

// A rank is how fit a member is for calls. They go to members of the first rank that has any.
type rank int

const (
	// good: connected, healthy and not ejected.
	good rank = iota
	// coming: being connected, or connected and not checked yet.
	coming
	// doubtful: ejected, or silent. When nothing else is there, it may be wrong to doubt all of them.
	doubtful
	// unfit: not connected, or it says itself that it does not serve, at which it is taken by its word; or of
	// weight 0.
	unfit
)

// rank returns the rank of m. mu is held.
func (b *Backend) rank(m *member) rank {
	switch {
	case m.weight() == 0 || m.health == NotServing:
		return unfit
	case m.state == relay.Silent || m.state == relay.Ready && m.ejected():
		return doubtful
	case m.ejected():
		return unfit
	case m.state == relay.Connecting, m.state == relay.Ready && b.checks && m.health == Unchecked:
		return coming
	case m.state == relay.Ready:
		return good
	}

	return unfit
}

// refresh makes the view anew, and tells who waits for a change. mu is held.
func (b *Backend) refresh() {
	best := unfit
	for _, m := range b.members {
		best = min(best, b.rank(m))
	}
	var members []*member
	for _, m := range b.members {
		m.chosen = best != unfit && b.rank(m) == best
		if m.chosen {
			members = append(members, m)
		}
	}
	b.view.Store(newView(b.balance, b.hashKey, members, b.ring))
	close(b.changed)
	b.changed = make(chan struct{})
	if h := b.deps.Hooks.Changed; h != nil {
		h(b.name)
	}
}

// settled reports whether each member is known to be fit or not. mu is held.
func (b *Backend) settled() bool {
	for _, m := range b.members {
		if b.rank(m) == coming {
			return false
		}
	}

	return b.resolution == nil || b.resolution.came
}

// ReasonBreaker is the reason of a call that a circuit breaker turned away.
const ReasonBreaker = "CIRCUIT_BREAKER"

// choose is relay.Backend's.
func (b *Backend) choose(c *relay.Call) (*relay.Endpoint, error) {
	v := b.view.Load()
	if len(v.members) == 0 {
		return nil, b.unavailable()
	}
	if err := b.admit(); err != nil {
		return nil, err
	}
	m := v.pick(c, &b.turn)
	m.calls.Add(1)

	return m.ep, nil
}

// chooseMirror is relay.Backend's. Mirrors count for neither the circuit breaker nor ejection.
func (b *Backend) chooseMirror(c *relay.Call) *relay.Endpoint {
	v := b.view.Load()
	if len(v.members) == 0 {
		return nil
	}
	if ep := v.pick(c, &b.turn).ep; ep.State() == relay.Ready {
		return ep
	}

	return nil
}

// mirrorEnded is relay.Backend's.
func (b *Backend) mirrorEnded(result string) {
	if h := b.deps.Hooks.Mirrored; h != nil {
		h(b.name, result)
	}
}

// admit counts a call, or turns it away.
func (b *Backend) admit() error {
	n, most := b.inFlight.Add(1), b.maxRequests.Load()
	if most == 0 || n <= most {
		return nil
	}
	b.inFlight.Add(-1)
	if h := b.deps.Hooks.Dropped; h != nil {
		h(b.name, ReasonBreaker)
	}

	return &relay.Refusal{
		Code: codes.Unavailable, Reason: ReasonBreaker,
		Message: fmt.Sprintf("backend %s: %d calls are at it, the most that are allowed", b.name, most),
	}
}

// unavailable says why no endpoint can be had.
func (b *Backend) unavailable() error {
	b.mu.Lock()
	members, resolving := b.members, b.resolution
	sick, why := 0, ""
	for _, m := range members {
		if m.health == NotServing {
			sick, why = sick+1, m.name+": "+m.why
		}
	}
	b.mu.Unlock()
	if len(members) == 0 {
		refusal := &relay.Refusal{Code: codes.Unavailable, Reason: relay.ReasonNoEndpoint, Message: fmt.Sprintf("backend %s has no endpoint", b.name)}
		if resolving != nil {
			refusal.Unresolved = true
			if err := resolving.failure(); err != nil {
				refusal.Message += ": " + err.Error()
			}
		}
		return refusal
	}
	if sick > 0 {
		return fmt.Errorf("backend %s: no endpoint is healthy, %d of %d say so, last %s", b.name, sick, len(members), why)
	}
	for _, m := range members {
		if err := m.ep.Err(); err != nil {
			return fmt.Errorf("backend %s: no endpoint is available, last error: %w", b.name, err)
		}
	}

	return fmt.Errorf("backend %s: no endpoint is available", b.name)
}
