// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"math"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/mem"
)

// requestQueue holds the requests that one target of a fan-out has yet to take. The request pump pushes, the
// target's sender takes, and either end may be the faster one.
//
// It holds references to buffers, not copies: the same message in five queues is one message in memory.
type requestQueue struct {
	maxMessages, maxBytes int           // immutable
	stallAfter            time.Duration // immutable; at most 0: never; noWait: at once
	sent                  *atomic.Int64 // immutable; counts the messages that the sender has got rid of
	delivered             *atomic.Int64 // immutable; see fanTarget

	mu       sync.Mutex
	ready    sync.Cond          // of mu; the sender waits for a request, for complete or for dead
	room     sync.Cond          // of mu; the pump waits for room or for dead
	items    []mem.BufferSlice  // guarded by mu; each with references of its own
	spare    []mem.BufferSlice  // guarded by mu; an empty slice whose array items may take over
	one      [1]mem.BufferSlice // the first array of items: most calls have one request
	bytes    int                // guarded by mu; of items
	complete bool               // guarded by mu; no request will come any more
	dead     bool               // guarded by mu; nobody will take any more
}

func (q *requestQueue) init(l FanoutLimits, sent, delivered *atomic.Int64) {
	q.maxMessages, q.maxBytes, q.stallAfter = l.QueuedMessages, l.QueuedBytes, l.StallTimeout
	q.sent, q.delivered = sent, delivered
	q.ready.L, q.room.L = &q.mu, &q.mu
	q.items = q.one[:0]
}

// noWait is a time after which a full queue has stalled without a wait.
const noWait time.Duration = math.MinInt64

// push adds a message with references of its own. While the queue is full it waits, and reports false when the sender
// got rid of nothing for the stall timeout. A dead queue takes everything and keeps nothing.
func (q *requestQueue) push(data mem.BufferSlice) bool {
	n := data.Len()

	q.mu.Lock()
	defer q.mu.Unlock()

	if q.full() && !q.waitForRoom() {
		return false
	}

	if q.dead {
		return true
	}

	data.Ref()
	q.items = append(q.items, data)
	q.bytes += n

	if len(q.items) == 1 {
		q.ready.Signal()
	}

	return true
}

// full reports whether the pump has to wait. A queue with room for anything takes a message of any size, or large ones
// would never pass. mu is held.
func (q *requestQueue) full() bool {
	return !q.dead && (len(q.items) >= q.maxMessages || q.bytes >= q.maxBytes)
}

// waitForRoom waits until the queue is not full and returns true, or until the target has stalled and returns false. mu is held.
//
// A target has stalled when for the stall timeout it took no request and delivered no answer. While an answer waits for
// the caller to read, it is the caller who is slow.
func (q *requestQueue) waitForRoom() bool {
	if q.stallAfter == noWait {
		return false
	}

	stalled := false

	if q.stallAfter > 0 {
		var timer *time.Timer

		sent, delivered := q.sent.Load(), q.delivered.Load()
		timer = time.AfterFunc(q.stallAfter, func() {
			q.mu.Lock()
			defer q.mu.Unlock()

			s, d := q.sent.Load(), q.delivered.Load()
			if s == sent && d == delivered && d%2 == 0 {
				stalled = true
				q.room.Signal()

				return
			}

			sent, delivered = s, d
			timer.Reset(q.stallAfter)
		})

		defer timer.Stop()
	}

	for q.full() && !stalled {
		q.room.Wait()
	}

	return !q.full()
}

// finish says that no request will come any more: the sender half-closes once it has taken the rest.
func (q *requestQueue) finish() {
	q.mu.Lock()
	q.complete = true
	q.ready.Signal()
	q.mu.Unlock()
}

// take waits for messages and returns all there are, which are the caller's then. It returns none
// when no more will come, with true if the reason is that the requests are complete.
// The slice is valid until the next take.
func (q *requestQueue) take() (batch []mem.BufferSlice, complete bool) {
	q.mu.Lock()
	defer q.mu.Unlock()

	for len(q.items) == 0 && !q.complete && !q.dead {
		q.ready.Wait()
	}

	if q.dead {
		return nil, false
	}

	if len(q.items) == 0 {
		return nil, true
	}

	batch, q.items = q.items, q.spare[:0]
	q.spare, q.bytes = batch, 0
	q.room.Signal()

	return batch, false
}

// takeWhole returns the one message of a call whose requests are complete, without waiting: at most one message of up
// to limit octets, then the end. It reports false for every other call, whose requests need a sender.
func (q *requestQueue) takeWhole(limit int) (batch []mem.BufferSlice, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()

	if !q.complete || q.dead || len(q.items) > 1 || q.bytes > limit {
		return nil, false
	}

	batch, q.items, q.bytes = q.items, nil, 0

	return batch, true
}

// whole reports whether the queue holds the one message of a call whose requests are complete.
func (q *requestQueue) whole() bool {
	q.mu.Lock()
	defer q.mu.Unlock()

	return q.complete && !q.dead && len(q.items) == 1
}

// kill frees what is queued, and all that is pushed later. It wakes both ends.
func (q *requestQueue) kill() {
	q.mu.Lock()
	defer q.mu.Unlock()

	q.dead = true

	for _, data := range q.items {
		data.Free()
	}

	q.items, q.bytes = nil, 0
	q.ready.Signal()
	q.room.Signal()
}
