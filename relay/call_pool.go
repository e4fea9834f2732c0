// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package relay

import (
	"sync"

	"github.com/manifold-grpc/manifold/internal/h2/hpack"
)

// fieldArray and fewFields hold the fields of a request that did not come before as it is: fewFields those
// of a call without metadata, which the first of every connection may be.
type (
	fieldArray [16]hpack.Field
	fewFields  [8]hpack.Field
)

var (
	fieldPool = sync.Pool{New: func() any { return new(fieldArray) }}
	fewPool   = sync.Pool{New: func() any { return new(fewFields) }}
)

// ownArray returns the memory for about n fields of the request's own, empty.
func (c *Call) ownArray(n int) []hpack.Field {
	switch {
	case c.own != nil:
	case n <= len(fewFields{}):
		if c.few == nil {
			c.few = fewPool.Get().(*fewFields)
		}
		return c.few[:0]
	default:
		c.own = fieldPool.Get().(*fieldArray)
	}
	return c.own[:0]
}

// freeFields gives that memory back.
func (c *Call) freeFields() {
	if c.own != nil {
		clear(c.own[:])
		fieldPool.Put(c.own)
	}
	if c.few != nil {
		clear(c.few[:])
		fewPool.Put(c.few)
	}
}

// newCall returns the memory of a call, perhaps with that of others linked to it. It is 1.1 KiB, and there may be hundreds of thousands a second: who
// has many calls at once takes and gives them back together. Each server has its
// own: a call's timer stays with its memory, and timers of tests with a clock of their own must not get into others.
func (s *Server) newCall() *Call {
	if c, ok := s.calls.Get().(*Call); ok {
		return c
	}
	return new(Call)
}

// callStreams is the number of streams that an ordinary call has.
const callStreams = 2

// letGo is told when a connection has let go of one of the call's streams, and reports whether its memory can be used again. After
// the second of an ordinary call nothing refers to it: it had one attempt, decided
// inside of Route, that never waited; no context or late timer of it is about. A call that was
// refused before it was offered to an endpoint has only the client's stream.
func (c *Call) letGo() (reuse bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.released++
	streams, fan := callStreams, c.fan
	refused := fan == nil && c.attempts == 0 && c.ep == nil
	switch {
	case fan != nil:
		streams = 1 + fan.opened
	case refused:
		streams = 1
	}
	return int(c.released) == streams && c.mayReuse && (c.attempts == 1 || refused || fan != nil) && c.stage == stageDone
}

// empty returns the memory of a call that letGo said can be used again, for the next.
func (c *Call) empty() *Call {
	if c.fan != nil {
		c.fan.recycle()
	}
	c.freeFields()
	t := c.deadline // stopped, or the call might not be used again
	if t == nil {
		t = c.stopped
	}
	*c = Call{stopped: t}
	return c
}
