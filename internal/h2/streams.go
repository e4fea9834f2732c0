// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package h2

import (
	"iter"
	"math/bits"
	"math/rand/v2"
)

// A streamTable is the open streams of a connection by their identifiers: a hash table
// whose chains run through the streams themselves. A map costs several times as much for what
// each frame needs, and an idle one more memory. The zero value is empty.
type streamTable struct {
	slots []*Stream // a power of two of them, or none
	n     int
}

// firstSlots is the size of a table when its first stream comes.
const firstSlots = 8

// slotFactor spreads identifiers over slots. It is odd, so that identifiers that follow each other do not
// collide, and random, so that no peer can choose identifiers that do.
var slotFactor = rand.Uint32() | 1<<31 | 1

func (t *streamTable) slot(id uint32) **Stream {
	shift := 32 - bits.TrailingZeros(uint(len(t.slots)))
	return &t.slots[(id>>1)*slotFactor>>shift]
}

func (t *streamTable) len() int { return t.n }

// get returns the stream, or nil.
func (t *streamTable) get(id uint32) *Stream {
	if t.n == 0 {
		return nil
	}
	s := *t.slot(id)
	for s != nil && s.id != id {
		s = s.tableNext
	}
	return s
}

// put adds a stream that is not in the table.
func (t *streamTable) put(s *Stream) {
	if t.n >= len(t.slots) {
		t.grow()
	}
	t.n++
	at := t.slot(s.id)
	s.tableNext, *at = *at, s
}

// del removes a stream that is in the table.
func (t *streamTable) del(s *Stream) {
	at := t.slot(s.id)
	for *at != s {
		at = &(*at).tableNext
	}
	*at, s.tableNext = s.tableNext, nil
	t.n--
}

// grow doubles the table.
func (t *streamTable) grow() {
	old := *t
	t.slots = make([]*Stream, max(firstSlots, 2*len(old.slots)))
	for s := range old.all() {
		at := t.slot(s.id)
		s.tableNext, *at = *at, s
	}
}

// all goes over the streams in no order. The current one may be removed meanwhile.
func (t *streamTable) all() iter.Seq[*Stream] {
	return func(yield func(*Stream) bool) {
		for _, s := range t.slots {
			for s != nil {
				next := s.tableNext
				if !yield(s) {
					return
				}
				s = next
			}
		}
	}
}
