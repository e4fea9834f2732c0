// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package h2

import "time"

// A Batch collects what must happen once the input at hand is worked through:
// connections to flush, credits and free places to tell of. The goroutine of
// [Conn.Serve] carries one; any other goroutine makes its own (the zero value
// is ready) and must call Flush when it has done its calls. Not for concurrent
// use.
type Batch struct {
	dirty   []*Conn
	credits []credit
	free    []*Conn // may hold one twice
	now     time.Time
}

// Now returns when the input at hand arrived or, of a Batch that no connection's input
// came with, the time of the first call: one reading of the clock serves for all that a batch brings.
func (b *Batch) Now() time.Time {
	if b.now.IsZero() {
		b.now = time.Now()
	}
	return b.now
}

type credit struct {
	s *Stream
	n int
}

// touch notes that c has something to write. c.mu is held.
func (b *Batch) touch(c *Conn) {
	if !c.dirty {
		c.dirty = true
		b.dirty = append(b.dirty, c)
	}
}

// Flush writes what is dirty and tells what is to tell, until nothing is left.
// No lock may be held.
func (b *Batch) Flush() {
	for {
		switch {
		case len(b.credits) > 0:
			k := len(b.credits) - 1
			x := b.credits[k]
			b.credits[k] = credit{}
			b.credits = b.credits[:k]
			x.s.conn.events.Credit(x.s, b, x.n)
		case len(b.free) > 0:
			k := len(b.free) - 1
			c := b.free[k]
			b.free[k] = nil
			b.free = b.free[:k]
			c.events.Free(c, b)
		case len(b.dirty) > 0:
			k := len(b.dirty) - 1
			c := b.dirty[k]
			b.dirty[k] = nil
			b.dirty = b.dirty[:k]
			c.flush(b)
		default:
			return
		}
	}
}
