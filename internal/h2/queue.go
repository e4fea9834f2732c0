// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package h2

import (
	"sync"

	"github.com/manifold-grpc/manifold/internal/h2/hpack"
)

// A chunk holds queued octets data[r:w].
type chunk struct {
	data  []byte
	r, w  int
	class int
	next  *chunk
}

// chunkSizes are the sizes of chunks: small ones so that many streams with a
// few waiting octets stay cheap.
var chunkSizes = [...]int{512, 4 << 10, 16 << 10}

var chunkPools [len(chunkSizes)]sync.Pool

func newChunk(n int) *chunk {
	class := 0
	for class < len(chunkSizes)-1 && n > chunkSizes[class] {
		class++
	}
	if c, ok := chunkPools[class].Get().(*chunk); ok {
		return c
	}
	return &chunk{data: make([]byte, chunkSizes[class]), class: class}
}

func (c *chunk) free() {
	c.r, c.w, c.next = 0, 0, nil
	poison(c.data)
	chunkPools[c.class].Put(c)
}

// A queue is the octets of one stream that wait for its receiver. The zero
// value is an empty queue.
type queue struct {
	first, last *chunk
	n           int
}

// push copies p to the end.
func (q *queue) push(p []byte) {
	if last := q.last; last != nil {
		m := copy(last.data[last.w:], p)
		last.w += m
		q.n += m
		p = p[m:]
	}
	for len(p) > 0 {
		// As large as what waits already: few chunks for much data.
		c := newChunk(max(len(p), min(q.n, chunkSizes[len(chunkSizes)-1])))
		c.w = copy(c.data, p)
		q.n += c.w
		p = p[c.w:]
		if q.last == nil {
			q.first = c
		} else {
			q.last.next = c
		}
		q.last = c
	}
}

// front returns the first octets that lie together, at most limit of them.
func (q *queue) front(limit int) []byte {
	c := q.first
	return c.data[c.r:min(c.w, c.r+limit)]
}

// drop removes the first n octets, which front returned.
func (q *queue) drop(n int) {
	q.n -= n
	c := q.first
	if c.r += n; c.r < c.w {
		return
	}
	if q.first = c.next; q.first == nil {
		q.last = nil
	}
	c.free()
}

// reset empties the queue and returns how many octets it held.
func (q *queue) reset() int {
	n := q.n
	for c := q.first; c != nil; {
		next := c.next
		c.free()
		c = next
	}
	*q = queue{}
	return n
}

// keptFields holds memory for trailers that wait behind octets, as those of large responses do.
var keptFields = sync.Pool{New: func() any { return new([]hpack.Field) }}

// keepFields returns a copy of fields, for freeFields.
func keepFields(fields []hpack.Field) *[]hpack.Field {
	kept := keptFields.Get().(*[]hpack.Field)
	*kept = append((*kept)[:0], fields...)
	return kept
}

// freeFields gives back what keepFields returned, if that is not nil.
func freeFields(kept *[]hpack.Field) {
	if kept != nil && cap(*kept) <= maxPooledFields {
		clear(*kept)
		keptFields.Put(kept)
	}
}
