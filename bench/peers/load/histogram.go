// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package load

import (
	"math/bits"
	"time"
)

// subBits is the number of bits by which a bucket of a histogram is finer than a
// power of two: its width is at most 1/32 of what it holds.
const subBits = 5

// histogram counts durations, to 3 %, from nanoseconds to 2^40 of them (18 minutes).
type histogram struct {
	counts [(41 - subBits) << subBits]uint32
	total  uint64
}

func (h *histogram) record(d time.Duration) {
	h.counts[bucket(uint64(max(0, d)))]++
	h.total++
}

// bucket is where a duration is counted.
func bucket(ns uint64) int {
	ns = min(ns, 1<<40-1)
	exponent := max(0, bits.Len64(ns)-1-subBits)
	return exponent<<subBits + int(ns>>exponent)
}

// middle is a duration in the middle of a bucket.
func middle(bucket int) time.Duration {
	if bucket < 2<<subBits {
		return time.Duration(bucket)
	}
	exponent := bucket>>subBits - 1
	low := uint64(bucket-exponent<<subBits) << exponent
	return time.Duration(low + 1<<exponent/2)
}

func (h *histogram) add(other *histogram) {
	for i, n := range other.counts {
		h.counts[i] += n
	}
	h.total += other.total
}

// quantile returns the duration that the part q of all does not exceed, or 0 if there is none.
func (h *histogram) quantile(q float64) time.Duration {
	if h.total == 0 {
		return 0
	}
	rank := min(uint64(q*float64(h.total)), h.total-1)
	for i, n := range h.counts {
		if uint64(n) > rank {
			return middle(i)
		}
		rank -= uint64(n)
	}
	return 0
}
