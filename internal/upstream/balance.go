// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"math/rand/v2"
	"sync/atomic"

	"github.com/manifold-grpc/manifold/internal/config"
	"github.com/manifold-grpc/manifold/relay"
)

// pick chooses one of the members, of which there is at least one. turn is the backend's.
func (v *view) pick(_ *relay.Call, turn *atomic.Uint64) *member {
	if len(v.members) == 1 {
		return v.members[0]
	}
	switch v.balance {
	case config.LeastRequest:
		return leastRequest(v.members)
	default:
		return v.members[(turn.Add(1)-1)%uint64(len(v.members))]
	}
}

// leastRequest returns, of two members by chance, the one with fewer calls in flight.
// That is nearly as even as the least of all, and no herd runs to one that has just come.
func leastRequest(members []*member) *member {
	i := rand.IntN(len(members))
	j := rand.IntN(len(members) - 1)
	if j >= i {
		j++
	}
	if members[j].ep.InFlight() < members[i].ep.InFlight() {
		return members[j]
	}

	return members[i]
}
