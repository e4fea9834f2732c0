// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package relay

import (
	"sync"
	"time"
)

// Defaults of Hooks.
const (
	progressAfter = 10 * time.Second
	progressEvery = 5 * time.Minute
)

// callList is the calls of a connection that have not ended. It is kept only where
// somebody wants to hear of their progress.
type callList struct {
	mu sync.Mutex
	// Guarded by mu, and so are the links of the calls.
	first *Call
}

// link is a call's place in the list.
type link struct {
	prev, next *Call
	listed     bool
	due        time.Time // of the next report
}

// add puts a call into the list.
func (l *callList) add(c *Call, due time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	c.link = link{next: l.first, listed: true, due: due}
	if l.first != nil {
		l.first.link.prev = c
	}
	l.first = c
}

// remove takes a call out of the list. c.mu is held, hence nobody reports c meanwhile.
func (l *callList) remove(c *Call) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !c.link.listed {
		return
	}
	if c.link.prev != nil {
		c.link.prev.link.next = c.link.next
	} else {
		l.first = c.link.next
	}
	if c.link.next != nil {
		c.link.next.link.prev = c.link.prev
	}
	c.link = link{}
}

// report tells the hook of the calls that are due at now.
func (l *callList) report(now time.Time, h *Hooks) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for c := l.first; c != nil; c = c.link.next {
		// Locks are taken in the other order elsewhere, so a call that is busy has to wait for the next round.
		if now.Before(c.link.due) || !c.mu.TryLock() {
			continue
		}
		if c.stage != stageRouting { // else the Route function may be at it
			c.link.due = now.Add(or(h.ProgressEvery, progressEvery))
			h.CallProgress(c, c.stats(now))
		}
		c.mu.Unlock()
	}
}

// follow has the progress of a call reported, if anybody wants to hear of it.
func (c *Call) follow() {
	if h := &c.srv.Hooks; h.CallProgress != nil {
		c.dc.calls.add(c, c.start.Add(or(h.ProgressAfter, progressAfter)))
	}
}

// unfollow ends that. mu is held.
func (c *Call) unfollow() {
	if c.srv.Hooks.CallProgress != nil {
		c.dc.calls.remove(c)
	}
}
