// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package relay

import (
	"math"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// memoryInterval is how often the memory is looked at while it is more than half of what it may be: calls that are refused, or
// not, for longer than the calls take that are there make their number swing between nothing and too much.
const memoryInterval = 50 * time.Millisecond

// watchMemory notes whether the process uses more than share of its Go memory limit, and returns when to look again.
func (s *Server) watchMemory(share float64) time.Duration {
	used := memoryUsed()
	s.overloaded.Store(used > share)
	return nextLook(used, share)
}

// nextLook returns the time until the memory is looked at again.
func nextLook(used, share float64) time.Duration {
	if used > share/2 {
		return memoryInterval
	}
	return tickInterval
}

// memoryUsed returns how much of its Go memory limit (GOMEMLIMIT) the process uses; 0 without a limit.
func memoryUsed() float64 {
	limit := debug.SetMemoryLimit(-1)
	if limit == math.MaxInt64 {
		return 0
	}
	samples := []metrics.Sample{
		{Name: "/memory/classes/total:bytes"},
		{Name: "/memory/classes/heap/released:bytes"},
		{Name: "/memory/classes/heap/free:bytes"},
	}
	metrics.Read(samples)
	// What the limit counts, less what is free: garbage already collected is no shortage.
	used := samples[0].Value.Uint64() - samples[1].Value.Uint64() - samples[2].Value.Uint64()
	return float64(used) / float64(limit)
}
