// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package h2

import "sync"

// A chunk holds queued octets data[r:w].
type chunk struct {
	data  []byte
	r, w  int
	class int
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
	c.r, c.w = 0, 0
	poison(c.data)
	chunkPools[c.class].Put(c)
}

// A queue is the octets of one stream that wait for its receiver. The zero
// value is an empty queue.
type queue struct {
	chunks []*chunk
	n      int
}

// push copies p to the end.
func (q *queue) push(p []byte) {
	q.n += len(p)
	if k := len(q.chunks); k > 0 {
		last := q.chunks[k-1]
		m := copy(last.data[last.w:], p)
		last.w += m
		p = p[m:]
	}
	for len(p) > 0 {
		// As large as what waits already: few chunks for much data.
		c := newChunk(max(len(p), min(q.n, chunkSizes[len(chunkSizes)-1])))
		c.w = copy(c.data, p)
		p = p[c.w:]
		q.chunks = append(q.chunks, c)
	}
}

// front returns the first octets that lie together, at most limit of them.
func (q *queue) front(limit int) []byte {
	c := q.chunks[0]
	return c.data[c.r:min(c.w, c.r+limit)]
}

// drop removes the first n octets, which front returned.
func (q *queue) drop(n int) {
	q.n -= n
	c := q.chunks[0]
	if c.r += n; c.r < c.w {
		return
	}
	c.free()
	q.chunks[0] = nil
	if q.chunks = q.chunks[1:]; len(q.chunks) == 0 {
		q.chunks = nil
	}
}

// reset empties the queue and returns how many octets it held.
func (q *queue) reset() int {
	n := q.n
	for _, c := range q.chunks {
		c.free()
	}
	*q = queue{}
	return n
}
