// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"math/rand/v2"
	"sync/atomic"

	"github.com/manifold-grpc/manifold/internal/config"
	"github.com/manifold-grpc/manifold/relay"
)

// A mirrorRoute is where copies of a route's calls go.
type mirrorRoute struct {
	backend *relay.Backend
	share   uint64 // of 2^32
	turn    atomic.Uint64
}

func newMirrorRoute(m *config.Mirror, backend *relay.Backend) *mirrorRoute {
	r := &mirrorRoute{backend: backend, share: uint64(float64(m.Share()) / float64(config.All) * (1 << 32))}
	r.turn.Store(rand.Uint64())

	return r
}

// next reports whether the next call is copied. Shares are exact over any few calls, as those of choice.
func (r *mirrorRoute) next() bool { return r.turn.Add(1)*goldenRatio>>32 < r.share }
