// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package h2

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"testing"
)

// A queue gives back what was put in, whatever the pieces.
func TestQueue(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(1, 2))
	var q queue
	var model []byte
	pat := pattern{}
	for range 1_500 {
		if r.IntN(2) == 0 {
			p := pat.next(0, 1+r.IntN([]int{10, 600, 40_000}[r.IntN(3)]))
			q.push(p)
			model = append(model, p...)
		}
		for k := r.IntN(4); k > 0 && q.n > 0; k-- {
			p := q.front(1 + r.IntN(20_000))
			if len(p) == 0 || !bytes.HasPrefix(model, p) {
				t.Fatalf("front is %d octets that do not come next", len(p))
			}
			model = model[len(p):]
			q.drop(len(p))
		}
		if q.n != len(model) {
			t.Fatalf("queue holds %d octets, want %d", q.n, len(model))
		}
		if len(model) > 200_000 {
			if n := q.reset(); n != len(model) || q != (queue{}) {
				t.Fatalf("reset dropped %d octets, want %d", n, len(model))
			}
			model = nil
		}
	}
	q.reset()
}

// Octets that wait cost little more memory than they are: 512 at least for a
// stream, and at most twice their number beyond that.
func TestQueueMemory(t *testing.T) {
	t.Parallel()
	for _, piece := range []int{1, 5, 100, 1000, 5000, 16384} {
		var q queue
		for q.n < 100_000 {
			q.push(make([]byte, piece))
			held := 0
			for c := q.first; c != nil; c = c.next {
				held += len(c.data)
			}
			if limit := 512 + 2*q.n; held > limit && held > q.n+chunkSizes[len(chunkSizes)-1] {
				t.Fatalf("%d octets in pieces of %d take %d, want at most %d", q.n, piece, held, limit)
			}
		}
		q.reset()
	}
}

// Streams have their turn in order, and may leave from any place.
func TestReadyList(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(3, 4))
	streams := make([]Stream, 9)
	var l readyList
	var model []*Stream
	for range 10_000 {
		s := &streams[r.IntN(len(streams))]
		switch {
		case r.IntN(3) == 0:
			var want *Stream
			if len(model) > 0 {
				want, model = model[0], model[1:]
			}
			if l.first != want {
				t.Fatal("another stream than the first has its turn")
			}
			if want != nil {
				l.remove(want)
			}
		case s.isReady:
			l.remove(s)
			model = slices.DeleteFunc(model, func(m *Stream) bool { return m == s })
			l.remove(s) // nothing to do
		default:
			l.push(s)
			model = append(model, s)
		}
		if (l.first == nil) != (l.last == nil) || l.first == nil != (len(model) == 0) {
			t.Fatal("the ends disagree")
		}
	}
}
