// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"sync/atomic"

	"google.golang.org/grpc/codes"
)

// Backend counts what happens to a backend besides calls. Its methods are what the hooks of the backend call; they are safe for
// concurrent use and do not block.
type Backend struct {
	name       string
	generation uint64 // guarded by the registry's mu

	healthy, unhealthy   atomic.Uint64
	readmitted           atomic.Uint64
	resolved, unresolved atomic.Uint64
	ejections            tally // by cause
	dropped              tally // by reason
	mirrors              tally // by result
	retried, exhausted   [numCodes]atomic.Uint64
}

// Backend returns the counters of a backend.
func (r *Registry) Backend(name string) *Backend {
	r.mu.Lock()
	defer r.mu.Unlock()
	b := r.backends[name]
	if b == nil {
		b = &Backend{name: name}
		if r.backends == nil {
			r.backends = map[string]*Backend{}
		}
		r.backends[name] = b
	}
	b.generation = r.generation

	return b
}

// Health counts a change of an endpoint's health.
func (b *Backend) Health(healthy bool) {
	if healthy {
		b.healthy.Add(1)
	} else {
		b.unhealthy.Add(1)
	}
}

// Ejected counts an ejection.
func (b *Backend) Ejected(cause string) { b.ejections.add(cause) }

// Readmitted counts the end of an ejection.
func (b *Backend) Readmitted() { b.readmitted.Add(1) }

// Resolved counts a lookup of the backend's target.
func (b *Backend) Resolved(err error) {
	if err == nil {
		b.resolved.Add(1)
	} else {
		b.unresolved.Add(1)
	}
}

// Dropped counts a call that a limit turned away.
func (b *Backend) Dropped(reason string) { b.dropped.add(reason) }

// Mirrored counts a copy of a call that was sent to the backend, or was to be, by what became of it.
func (b *Backend) Mirrored(result string) { b.mirrors.add(result) }

// Retried counts an attempt that another one follows.
func (b *Backend) Retried(code codes.Code) { b.retried[index(code)].Add(1) }

// Exhausted counts an attempt that none follows as the budget of retries is spent.
func (b *Backend) Exhausted(code codes.Code) { b.exhausted[index(code)].Add(1) }

// upstream sends the counters of a backend.
func (e exposition) upstream(b *Backend) {
	e.counter(healthChanges, float64(b.healthy.Load()), b.name, "healthy")
	e.counter(healthChanges, float64(b.unhealthy.Load()), b.name, "unhealthy")
	e.counter(readmissions, float64(b.readmitted.Load()), b.name)
	e.counter(resolutions, float64(b.resolved.Load()), b.name, "ok")
	e.counter(resolutions, float64(b.unresolved.Load()), b.name, "failed")
	for cause, n := range b.ejections.counts() {
		e.counter(ejections, float64(n), b.name, cause)
	}
	for reason, n := range b.dropped.counts() {
		e.counter(upstreamRejected, float64(n), b.name, reason)
	}
	for result, n := range b.mirrors.counts() {
		e.counter(mirrors, float64(n), b.name, result)
	}
	for code := range numCodes {
		if n := b.retried[code].Load(); n > 0 {
			e.counter(retries, float64(n), b.name, codeNames[code])
		}
		if n := b.exhausted[code].Load(); n > 0 {
			e.counter(retriesExhausted, float64(n), b.name, codeNames[code])
		}
	}
}
