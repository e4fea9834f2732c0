// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"math"
	"sort"
	"sync/atomic"
	"time"
)

// latencyBounds are the upper bounds of gRFC A66 in seconds, and 2.5, which the go-grpc-prometheus family has.
var latencyBounds = [...]float64{
	0.00001, 0.00005, 0.0001, 0.0003, 0.0006, 0.0008, 0.001, 0.002, 0.003, 0.004, 0.005, 0.006, 0.008, 0.01, 0.013, 0.016,
	0.02, 0.025, 0.03, 0.04, 0.05, 0.065, 0.08, 0.1, 0.13, 0.16, 0.2, 0.25, 0.3, 0.4, 0.5, 0.65, 0.8, 1, 2, 2.5, 5, 10, 20, 50, 100,
}

// sizeBounds are the upper bounds of gRFC A66 in octets, less its 0, which no message has.
var sizeBounds = [...]int64{
	1 << 10, 2 << 10, 4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20, 16 << 20, 64 << 20, 256 << 20, 1 << 30, 4 << 30,
}

// What is shown to whom.
var (
	a66Latency = without(latencyBounds[:], 2.5)
	// promLatency is prometheus.DefBuckets.
	promLatency = []float64{0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10}
	a66Size     = floats(sizeBounds[:])
)

func without(list []float64, v float64) []float64 {
	var rest []float64
	for _, x := range list {
		if x != v {
			rest = append(rest, x)
		}
	}

	return rest
}

func floats(list []int64) []float64 {
	fs := make([]float64, len(list))
	for i, v := range list {
		fs[i] = float64(v)
	}

	return fs
}

// latencyNanos are latencyBounds in nanoseconds, and latencyStart is the first bound that a duration of so many
// significant bits may be below or at.
var latencyNanos, latencyStart = func() (nanos [len(latencyBounds)]int64, start [65]uint8) {
	for i, s := range latencyBounds {
		nanos[i] = int64(math.Round(s * 1e9))
	}
	for bits := range start {
		least := int64(0)
		if bits > 0 && bits < 64 {
			least = 1 << (bits - 1)
		}
		if bits == 64 {
			least = math.MaxInt64
		}
		start[bits] = uint8(sort.Search(len(nanos), func(i int) bool { return least <= nanos[i] }))
	}

	return nanos, start
}()

// latency is a histogram of durations. The zero value is ready.
type latency struct {
	buckets [len(latencyBounds) + 1]atomic.Uint64
}

func (h *latency) add(d time.Duration) {
	i := int(latencyStart[bitLen(uint64(max(d, 0)))])
	for i < len(latencyNanos) && int64(d) > latencyNanos[i] {
		i++
	}
	h.buckets[i].Add(1)
}

// sizes is a histogram of octets. The zero value is ready.
type sizes struct {
	buckets [len(sizeBounds) + 1]atomic.Uint64
}

func (h *sizes) add(n int64) {
	i := 0
	for i < len(sizeBounds) && n > sizeBounds[i] {
		i++
	}
	h.buckets[i].Add(1)
}

// counts is a histogram as it was read: how many were in each bucket.
type counts []uint64

// addAll adds what the buckets have now.
func (c counts) addAll(buckets []atomic.Uint64) {
	for i := range buckets {
		c[i] += buckets[i].Load()
	}
}

// cumulative returns how many were at or below each of the bounds shown, which are some of bounds.
func (c counts) cumulative(bounds, shown []float64) map[float64]uint64 {
	out := make(map[float64]uint64, len(shown))
	sum, next := uint64(0), 0
	for i, b := range bounds {
		sum += c[i]
		if next < len(shown) && shown[next] == b {
			out[b] = sum
			next++
		}
	}

	return out
}

// total returns how many there are.
func (c counts) total() uint64 {
	sum := uint64(0)
	for _, n := range c {
		sum += n
	}

	return sum
}

// quantile returns the q-quantile of durations in seconds, interpolated within its bucket as Prometheus does;
// NaN if there are none.
func (c counts) quantile(q float64) float64 {
	total := c.total()
	if total == 0 {
		return math.NaN()
	}
	rank, below := q*float64(total), uint64(0)
	for i, n := range c {
		if n == 0 || float64(below+n) < rank {
			below += n
			continue
		}
		if i >= len(latencyBounds) {
			break
		}
		low := 0.0
		if i > 0 {
			low = latencyBounds[i-1]
		}

		return low + (latencyBounds[i]-low)*(rank-float64(below))/float64(n)
	}

	return latencyBounds[len(latencyBounds)-1]
}
