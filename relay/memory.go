// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package relay

import (
	"math"
	"runtime/debug"
	"runtime/metrics"
)

// memoryShort reports whether the process uses more than share of its Go memory limit
// (GOMEMLIMIT); false without a limit.
func memoryShort(share float64) bool {
	limit := debug.SetMemoryLimit(-1)
	if limit == math.MaxInt64 {
		return false
	}
	samples := []metrics.Sample{
		{Name: "/memory/classes/total:bytes"},
		{Name: "/memory/classes/heap/released:bytes"},
		{Name: "/memory/classes/heap/free:bytes"},
	}
	metrics.Read(samples)
	// What the limit counts, less what is free: garbage already collected is no shortage.
	used := samples[0].Value.Uint64() - samples[1].Value.Uint64() - samples[2].Value.Uint64()
	return float64(used) > share*float64(limit)
}
