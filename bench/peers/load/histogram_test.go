// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package load

import (
	"math"
	"testing"
	"time"
)

// A duration is remembered to 3 %.
func TestHistogramBuckets(t *testing.T) {
	last := -1
	for ns := uint64(0); ns < 1<<41; ns += 1 + ns/100 {
		b := bucket(ns)
		if b < last || b >= len(histogram{}.counts) {
			t.Fatalf("%d ns is in bucket %d, after %d", ns, b, last)
		}
		last = b
		if got, want := float64(middle(b)), float64(min(ns, 1<<40-1)); math.Abs(got-want) > want/32 {
			t.Fatalf("%d ns is remembered as %v", ns, middle(b))
		}
	}
}

func TestHistogramQuantile(t *testing.T) {
	var a, b, empty histogram
	for i := range 100 { // 1 to 200 µs, in two histograms
		a.record(time.Duration(2*i+1) * time.Microsecond)
		b.record(time.Duration(2*i+2) * time.Microsecond)
	}
	a.add(&b)
	for q, want := range map[float64]time.Duration{0: 1, 0.5: 101, 0.99: 199, 1: 200} {
		want *= time.Microsecond
		if got := a.quantile(q); math.Abs(float64(got-want)) > float64(want)/32 {
			t.Errorf("quantile %v is %v, expected %v", q, got, want)
		}
	}
	if got := empty.quantile(0.5); got != 0 {
		t.Errorf("median of nothing is %v", got)
	}
}
