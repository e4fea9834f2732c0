// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package channel

import (
	"sync"

	"google.golang.org/grpc/mem"
)

// A smallPool is a [mem.BufferPool] of buffers for messages that are too small for grpc-go's, and large enough
// for a stream of them to keep the garbage collector busy.
type smallPool struct{ pool sync.Pool }

const (
	minSmall = 512     // what is not larger is not worth it, and would fill too little of a buffer
	maxSmall = 1 << 10 // what is larger comes from grpc-go's pool
	smallCap = 1152    // a size of the allocator's; a mem.Buffer over maxSmall or less is never given back
)

var small = &smallPool{sync.Pool{New: func() any {
	p := make([]byte, smallCap)
	return &p
}}}

// Get returns n octets, smallCap at most.
func (s *smallPool) Get(n int) *[]byte {
	p := s.pool.Get().(*[]byte)
	*p = (*p)[:n]
	return p
}

// Put takes them back.
func (s *smallPool) Put(p *[]byte) { s.pool.Put(p) }

// poolOf returns the pool for n octets. It is nil where they are not to be pooled, as [mem.NewBuffer] takes it.
func poolOf(n int) mem.BufferPool {
	switch {
	case n <= minSmall:
		return nil
	case n <= maxSmall:
		return small
	default:
		return mem.DefaultBufferPool()
	}
}
