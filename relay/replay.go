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

var replayPool = sync.Pool{New: func() any { return new([maxReplay]byte) }}

// replay is the first octets of a request: all of them until a stream to an
// upstream is open, and then for as long as another attempt is possible. The zero
// value is empty and keeps.
type replay struct {
	p     []byte
	small [smallReplay]byte
	large *[maxReplay]byte // from the pool; nil: not needed
	over  bool             // more came than is kept: no other attempt
}

// keep appends octets, however many.
func (r *replay) keep(p []byte) {
	n := len(r.p) + len(p)
	switch {
	case r.p == nil && n <= smallReplay:
		r.p = r.small[:0]
	case n > cap(r.p) && n <= maxReplay:
		r.large = replayPool.Get().(*[maxReplay]byte)
		r.p = r.large[:copy(r.large[:], r.p)]
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
		replayPool.Put(r.large)
		r.large = nil
	}
	r.p = nil
}
