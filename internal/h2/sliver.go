// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package h2

import (
	"cmp"
	"slices"

	"github.com/manifold-grpc/manifold/internal/h2/flow"
)

// A receiver that grants each DATA frame by itself, as it takes it, makes the frames sent to
// it ever smaller: what a message's end leaves of a window becomes a frame of its own, and is granted
// as such for ever. So a sender waits for more of the window, as TCP does (RFC 1122 section 4.2.3.4).

const (
	// sliverLen is the length below which a DATA frame that a window cut short is a sliver.
	sliverLen = 4 << 10
	// maxSlivers are sent, beyond what longer frames make up for, before any is held back: most receivers
	// grant half of a window or more at a time, and some only when all of it is used.
	maxSlivers = 4
	// sliverWorth is the length below which a sliver earns its receiver no WINDOW_UPDATE frames: who
	// grants octet after octet is not to be served for ever (compare CVE-2019-9511).
	sliverWorth = 64
)

// sliverCount is how a connection's receiver behaves.
type sliverCount struct {
	n       int  // slivers sent, less the longer frames; at most twice maxSlivers
	held    bool // a stream was held back since the last Tick, and is not in the ready list
	release bool // nothing is held back: time is up
}

// portion returns how many of n octets of s the windows let pass now. What is held back goes with the next
// WINDOW_UPDATE that makes the window large enough, or with the next Tick. mu is held.
func (c *Conn) portion(s *Stream, n int) int {
	room := c.room(s)
	k := &c.slivers
	switch {
	case room >= min(n, sliverLen):
		if k.n > 0 && n >= sliverLen {
			k.n--
		}
		return min(n, room)
	case room == 0:
		return 0
	case c.holdsBack(&s.send, n):
		k.held = true
		c.stir()
		return 0
	case c.holdsBack(&c.send, n):
		return 0
	}
	k.n = min(k.n+1, 2*maxSlivers)
	return room
}

// holdsBack reports whether w has only a sliver for n octets that had better wait. mu is held.
func (c *Conn) holdsBack(w *flow.SendWindow, n int) bool {
	return c.slivers.n >= maxSlivers && int(w.Available()) < min(n, sliverLen) && w.MostlyOut() && !c.slivers.release
}

// releaseSlivers sends what was held back: a receiver may have its reasons not to grant more. mu is held.
func (c *Conn) releaseSlivers(b *Batch) {
	k := &c.slivers
	if !k.held && c.ready.first == nil {
		return
	}
	if k.held {
		k.held = false
		c.readyAll()
	}
	k.release = true
	c.pump(b)
	k.release = false
}

// readyAll gives every stream that can use it a turn, in their order. mu is held.
func (c *Conn) readyAll() {
	var waiting []*Stream
	for s := range c.streams.all() {
		if s.queue.n > 0 {
			waiting = append(waiting, s)
		}
	}
	slices.SortFunc(waiting, func(a, b *Stream) int { return cmp.Compare(a.id, b.id) })
	for _, s := range waiting {
		c.makeReady(s)
	}
}
