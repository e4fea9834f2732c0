// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package upstream

import "time"

// gone notes a failure in a row, and ejects the member after enough of them.
func (b *Backend) gone(m *member) {
	n := m.row.Add(1)
	if n < b.consecutive.Load() {
		return
	}
	m.row.Store(0)
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.rules.eject(time.Now(), &m.subject, b.subjects()) {
		b.ejected(m, EjectConsecutive)
		b.refresh()
		b.wake()
	}
}

// subjects returns all members as the rules see them. mu is held.
func (b *Backend) subjects() []*subject {
	all := make([]*subject, len(b.members))
	for i, m := range b.members {
		all[i] = &m.subject
	}

	return all
}

// ejected tells of an ejection. mu is held.
func (b *Backend) ejected(m *member, cause string) {
	b.deps.Log.Warn("endpoint ejected", "backend", b.name, "endpoint", m.name, "cause", cause, "until", m.until)
	if h := b.deps.Hooks.Ejected; h != nil {
		h(b.name, m.name, cause, m.until)
	}
}

// wake has the watch look at the time anew.
func (b *Backend) wake() { poke(b.woken) }

// watch sweeps once an interval and ends ejections, until the backend ends.
func (b *Backend) watch() {
	b.mu.Lock()
	next := time.Now().Add(b.rules.interval)
	b.mu.Unlock()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-b.life.Done():
			return
		case <-b.woken:
		case <-timer.C:
		}
		b.mu.Lock()
		now := time.Now()
		if b.readmit(now) {
			b.refresh()
		}
		next = earlier(next, now.Add(b.rules.interval)) // it may have become shorter
		if !now.Before(next) {
			b.sweep(now)
			next = now.Add(b.rules.interval)
		}
		timer.Reset(b.due(next).Sub(now))
		b.mu.Unlock()
	}
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}

	return a
}

// due returns when there is something to do: at next, or when an ejection ends. mu is held.
func (b *Backend) due(next time.Time) time.Time {
	for _, m := range b.members {
		if m.ejected() {
			next = earlier(next, m.until)
		}
	}

	return next
}

// readmit ends ejections that are over. mu is held.
func (b *Backend) readmit(now time.Time) (any bool) {
	for _, m := range b.members {
		if b.rules.readmit(now, &m.subject) {
			any = true
			b.deps.Log.Info("endpoint gets calls again", "backend", b.name, "endpoint", m.name)
			if h := b.deps.Hooks.Readmitted; h != nil {
				h(b.name, m.name)
			}
		}
	}

	return any
}

// sweep applies the rules on rates. mu is held.
func (b *Backend) sweep(now time.Time) {
	for _, m := range b.members {
		s, f := m.successes.Load(), m.failures.Load()
		m.subject.successes, m.subject.failures = s-m.sweptSuccesses, f-m.sweptFailures
		m.sweptSuccesses, m.sweptFailures = s, f
	}
	some := false
	b.rules.sweep(now, b.subjects(), func(i int, cause string) {
		some = true
		b.ejected(b.members[i], cause)
	})
	if some {
		b.refresh()
	}
}
