// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package relay

import "sync"

const (
	// maxReplay bounds the octets of a request that are kept for another attempt.
	maxReplay = 32 << 10
	// smallReplay is what fits into the call itself.
	smallReplay = 128
)

// replaySizes are the sizes of replay buffers: with one size for all, a message of 200 octets would hold 32 KiB for as long as
// its call has no answer.
var replaySizes = [...]int{512, 2 << 10, 10 << 10, maxReplay}

var replayPools [len(replaySizes)]sync.Pool

// A replayBuffer is a buffer on its way through a pool.
type replayBuffer struct {
	p    []byte
	size int // index in replaySizes
}

// newReplayBuffer returns one with room for n octets, at most maxReplay.
func newReplayBuffer(n int) *replayBuffer {
	size := 0
	for n > replaySizes[size] {
		size++
	}
	if b, ok := replayPools[size].Get().(*replayBuffer); ok {
		return b
	}
	return &replayBuffer{make([]byte, replaySizes[size]), size}
}

func (b *replayBuffer) free() { replayPools[b.size].Put(b) }

// replay is the first octets of a request: all of them until a stream to an
// upstream is open, and then for as long as another attempt is possible. The zero
// value is empty and keeps.
type replay struct {
	p     []byte
	small [smallReplay]byte
	large *replayBuffer // nil: not needed
	over  bool          // more came than is kept: no other attempt
}

// keep appends octets, however many.
func (r *replay) keep(p []byte) {
	n := len(r.p) + len(p)
	switch {
	case r.p == nil && n <= smallReplay:
		r.p = r.small[:0]
	case n > cap(r.p) && n <= maxReplay:
		larger := newReplayBuffer(n)
		r.p = larger.p[:copy(larger.p, r.p)]
		if r.large != nil {
			r.large.free()
		}
		r.large = larger
	}
	r.p = append(r.p, p...)
}

// keepSome appends octets if all still fits, with ahead more to come soon; else no
// other attempt is possible, and nothing is kept.
func (r *replay) keepSome(p []byte, ahead int) {
	switch {
	case r.over:
	case len(r.p)+len(p)+ahead > maxReplay:
		r.over = true
		r.drop()
	default:
		r.keep(p)
	}
}

// drop forgets the octets.
func (r *replay) drop() {
	if r.large != nil {
		r.large.free()
		r.large = nil
	}
	r.p = nil
}
