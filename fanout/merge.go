// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package fanout

import (
	"cmp"
	"encoding/binary"
	"math"
)

// DefaultMergeWindow is how many values of all sources together a [Merge] holds.
const DefaultMergeWindow = 1024

// NumberKey returns a key for [Merge] that sorts as the number does.
func NumberKey(n int64) string {
	return string(binary.BigEndian.AppendUint64(nil, uint64(n)^1<<63))
}

// Merge joins the values of several sources, each in the order of its keys, into one
// order. It holds a value until every source that has not ended has a later one, but no more than its window:
// when that is full, the least value goes out although a silent source may still
// bring a lesser one.
//
// As long as the window suffices, the result depends on the sources' values alone and
// not on the order in which they arrive; equal keys come in the order of the sources.
// The values of one source always keep their order, even if its keys do not.
//
// Make one with [NewMerge]. It is for one goroutine at a time.
type Merge[K cmp.Ordered, V any] struct {
	sources  []mergeSource[K, V]
	window   int
	maxBytes int
	held     int // values in all sources
	bytes    int // of them
	waiting  int // sources that have not ended and hold nothing

	last     K    // the greatest key that has gone out
	released bool // last is set
	late     int
}

type mergeSource[K cmp.Ordered, V any] struct {
	values []merged[K, V]
	ended  bool
}

type merged[K cmp.Ordered, V any] struct {
	key   K
	size  int
	value V
}

// NewMerge returns a merge of n sources that holds at most window values, of maxBytes together; 0
// means [DefaultMergeWindow], and no bound.
func NewMerge[K cmp.Ordered, V any](n, window, maxBytes int) *Merge[K, V] {
	if window <= 0 {
		window = DefaultMergeWindow
	}
	if maxBytes <= 0 {
		maxBytes = math.MaxInt
	}
	return &Merge[K, V]{sources: make([]mergeSource[K, V], n), window: window, maxBytes: maxBytes, waiting: n}
}

// Push takes the next value of a source, which must not have ended, of size bytes, and returns the values that can go out now.
func (m *Merge[K, V]) Push(source int, key K, size int, value V) []V {
	s := &m.sources[source]
	if len(s.values) == 0 {
		m.waiting--
	}
	s.values = append(s.values, merged[K, V]{key, size, value})
	m.held++
	m.bytes += size
	return m.release()
}

// End says that a source has no more values, and returns those that can go out now. To
// end a source again changes nothing.
func (m *Merge[K, V]) End(source int) []V {
	s := &m.sources[source]
	if !s.ended && len(s.values) == 0 {
		m.waiting--
	}
	s.ended = true
	return m.release()
}

// Late returns how many values went out after one with a greater key: because a source's
// own keys were not in order, or because the window was too small for its delay.
func (m *Merge[K, V]) Late() int { return m.late }

// Held returns how many values the merge holds.
func (m *Merge[K, V]) Held() int { return m.held }

// Drain removes all values that the merge holds and returns them in their order.
func (m *Merge[K, V]) Drain() []V {
	var out []V
	for m.held > 0 {
		out = append(out, m.take())
	}
	return out
}

func (m *Merge[K, V]) release() []V {
	var out []V
	for m.held > 0 && (m.waiting == 0 || m.held > m.window || m.bytes > m.maxBytes) {
		out = append(out, m.take())
	}
	return out
}

// take removes the value with the least key.
func (m *Merge[K, V]) take() V {
	least := -1
	for i := range m.sources {
		if len(m.sources[i].values) > 0 && (least < 0 || cmp.Less(m.sources[i].values[0].key, m.sources[least].values[0].key)) {
			least = i
		}
	}
	s := &m.sources[least]
	first := s.values[0]
	s.values[0] = merged[K, V]{} // or the array would hold on to it
	s.values = s.values[1:]
	m.held--
	m.bytes -= first.size
	if len(s.values) == 0 {
		s.values = nil
		if !s.ended {
			m.waiting++
		}
	}
	if m.released && cmp.Less(first.key, m.last) {
		m.late++
	} else {
		m.last, m.released = first.key, true
	}
	return first.value
}
