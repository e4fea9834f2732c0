// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package h2

import (
	"runtime"
	"time"
)

// A Batch collects what must happen once the input at hand is worked through:
// connections to flush, credits and free places to tell of. The goroutine of
// [Conn.Serve] carries one; any other goroutine makes its own (the zero value
// is ready) and must call Flush when it has done its calls. Not for concurrent
// use.
type Batch struct {
	dirty   []*Conn
	credits []credit
	free    []*Conn // may hold one twice
	wakes   []Waker
	now     time.Time
	of      uint64 // the Conn.number of whose read loop carries it; 0: nobody's
	shared  bool   // something dirty gets octets from several connections
}

// Now returns when the input at hand arrived or, of a Batch that no connection's input
// came with, the time of the first call: one reading of the clock serves for all that a batch brings.
func (b *Batch) Now() time.Time {
	if b.now.IsZero() {
		b.now = time.Now()
	}
	return b.now
}

// A Waker wants to be told when the input at hand is worked through, see [Batch.Wake].
type Waker interface{ Wake() }

// Wake has w told once when the batch is flushed: who waits for several things that may come with the same input is
// woken once for all of them. Called twice for a w it wakes it twice.
func (b *Batch) Wake(w Waker) { b.wakes = append(b.wakes, w) }

type credit struct {
	s *Stream
	n int
}

// touch notes that c has something to write. c.mu is held.
func (b *Batch) touch(c *Conn) {
	if b.of != c.feeder && b.of != 0 && b.of != c.number {
		if c.feeder != 0 {
			c.feeders = feedersTurns
		}
		c.feeder = b.of
	}
	if !c.dirty {
		c.dirty = true
		b.dirty = append(b.dirty, c)
		if c.feeders > 0 {
			c.feeders--
			b.shared = true
		}
	}
}

// feedersTurns is the number of writes for which a connection is taken for one that several others feed, after it was seen.
const feedersTurns = 16

// gather lets the other connections that have input run before what theirs and ours is for is written: one write takes all
// of it. That halves the writes where many clients with few calls each share an upstream's connection.
// Where only one connection feeds another it does nothing, and neither where no stream is left for others to feed, as after
// the answer to a call that came alone: there is nobody to wait for.
func (b *Batch) gather() {
	if b.shared {
		b.shared = false
		if b.mayGrow() {
			runtime.Gosched()
		}
	}
}

// mayGrow reports whether others may have something to write where b has.
func (b *Batch) mayGrow() bool {
	for _, c := range b.dirty {
		c.mu.Lock()
		active := c.active
		c.mu.Unlock()
		if active > 0 {
			return true
		}
	}
	return false
}

// FlushSoon is Flush, but what is dirty is written by goroutines of the connections' own, after those that can run now: for
// who sends one piece after another, which then leave together. No lock may be held.
func (b *Batch) FlushSoon() {
	soon := b.dirty
	b.dirty = nil // flushSoon may add to it
	for i, c := range soon {
		soon[i] = nil
		c.flushSoon(b)
	}
	if b.dirty == nil {
		b.dirty = soon[:0]
	}
	b.Flush()
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
		case len(b.wakes) > 0:
			k := len(b.wakes) - 1
			w := b.wakes[k]
			b.wakes[k] = nil
			b.wakes = b.wakes[:k]
			w.Wake()
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
