// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"math/rand/v2"
	"slices"
	"sort"
	"sync/atomic"

	"github.com/manifold-grpc/manifold/internal/config"
	"github.com/manifold-grpc/manifold/relay"
)

// A view is what calls choose among. It never changes.
type view struct {
	balance config.Balance
	key     string    // of ring_hash
	members []*member // those that calls may go to, each with a weight above 0; empty: none
	bounds  []uint64  // sums of the weights up to each; nil: all are the same
	ring    []point
}

// newView returns a view of members, which are those that are marked as chosen, and of the ring the points that are theirs.
func newView(balance config.Balance, key string, members []*member, ring []point) *view {
	v := &view{balance: balance, key: key, members: members}
	same, sum := true, uint64(0)
	for _, m := range members {
		same = same && m.weight() == members[0].weight()
		sum += uint64(m.weight())
		v.bounds = append(v.bounds, sum)
	}
	if same {
		v.bounds = nil
	}
	if balance == config.RingHash {
		v.ring = slices.DeleteFunc(slices.Clone(ring), func(p point) bool { return !p.member.chosen })
	}

	return v
}

// pick chooses one of the members, of which there is at least one. turn is the backend's.
func (v *view) pick(c *relay.Call, turn *atomic.Uint64) *member {
	if len(v.members) == 1 {
		return v.members[0]
	}
	switch v.balance {
	case config.LeastRequest:
		return leastRequest(v.members)
	case config.RingHash:
		if value, ok := c.Header(v.key); ok {
			return v.at(hashOf(value))
		}
		return v.at(rand.Uint64())
	default:
		return v.next(turn.Add(1) - 1)
	}
}

// goldenRatio is 2^64 over the golden ratio: its multiples visit every part of a range evenly.
const goldenRatio = 0x9e3779b97f4a7c15

// next returns the member whose turn it is: one after the other, or by weights so that the shares
// are as exact as they can be over any few calls.
func (v *view) next(turn uint64) *member {
	if v.bounds == nil {
		return v.members[turn%uint64(len(v.members))]
	}
	total := v.bounds[len(v.bounds)-1]
	share := (turn * goldenRatio >> 32) * total >> 32
	low, high := 0, len(v.bounds)-1
	for low < high {
		middle := (low + high) / 2
		if share < v.bounds[middle] {
			high = middle
		} else {
			low = middle + 1
		}
	}

	return v.members[low]
}

// leastRequest returns, of two members by chance, the one with fewer calls in flight for its weight.
// That is nearly as even as the least of all, and no herd runs to one that has just come.
func leastRequest(members []*member) *member {
	i := rand.IntN(len(members))
	j := rand.IntN(len(members) - 1)
	if j >= i {
		j++
	}
	a, b := members[i], members[j]
	if b.ep.InFlight()*a.weight() < a.ep.InFlight()*b.weight() {
		return b
	}

	return a
}

// A point is where a member is on the ring of ring_hash.
type point struct {
	hash   uint64
	member *member
}

const (
	// pointsEach is the points of a member for a weight of 1. Their number does not depend on the other
	// members: one that comes or goes moves the calls of its own points alone.
	pointsEach = 128
	// maxPoints bounds a ring; above it, all get fewer.
	maxPoints = 32 << 10
)

// ringOf returns the ring of members, in the order of the hashes. It depends on names and weights only: it is
// the same in every process.
func ringOf(members []*member) []point {
	total := 0
	for _, m := range members {
		total += m.weight()
	}
	var ring []point
	for _, m := range members {
		n := m.weight() * pointsEach
		if total*pointsEach > maxPoints {
			n = max(m.weight()*maxPoints/total, min(m.weight(), 1))
		}
		h := hashOf(m.name)
		for range n {
			h = mix(h + goldenRatio)
			ring = append(ring, point{h, m})
		}
	}
	sort.Slice(ring, func(i, j int) bool { return ring[i].hash < ring[j].hash })

	return ring
}

// at returns the member of the first point from hash on.
func (v *view) at(hash uint64) *member {
	low, high := 0, len(v.ring)
	for low < high {
		middle := (low + high) / 2
		if v.ring[middle].hash < hash {
			low = middle + 1
		} else {
			high = middle
		}
	}
	if low == len(v.ring) {
		low = 0
	}

	return v.ring[low].member
}

// hashOf is FNV-1a, mixed so that all bits depend on all.
func hashOf(s string) uint64 {
	h := uint64(14695981039346656037)
	for i := range len(s) {
		h = (h ^ uint64(s[i])) * 1099511628211
	}

	return mix(h)
}

// mix is the finalizer of MurmurHash3.
func mix(h uint64) uint64 {
	h = (h ^ h>>33) * 0xff51afd7ed558ccd
	h = (h ^ h>>33) * 0xc4ceb9fe1a85ec53

	return h ^ h>>33
}
