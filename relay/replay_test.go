// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package relay

import (
	"bytes"
	"testing"
)

// What is kept for another attempt takes at most five times its length of memory, or what every call has.
func TestReplayTakesWhatIsKept(t *testing.T) {
	for n := 1; n <= maxReplay; n += 1 + n/7 {
		for _, piece := range []int{1 + n/5, n} { // as it comes in pieces, and at once
			var r replay
			want := bytes.Repeat([]byte{'x'}, n)
			for p := want; len(p) > 0; p = p[min(piece, len(p)):] {
				r.keepSome(p[:min(piece, len(p))], 0)
			}
			if r.over || !bytes.Equal(r.p, want) {
				t.Fatalf("of %d octets by %d, %d were kept", n, piece, len(r.p))
			}
			if got := cap(r.p); got > max(5*n, smallReplay) {
				t.Errorf("%d octets by %d take %d", n, piece, got)
			}
			if r.drop(); r.p != nil || r.large != nil {
				t.Errorf("something is left of %d octets", n)
			}
		}
	}
}

// The memory is looked at more often while it may become short.
func TestNextLook(t *testing.T) {
	for _, tt := range []struct {
		used float64
		want any
	}{{0, tickInterval}, {0.45, tickInterval}, {0.46, memoryInterval}, {0.95, memoryInterval}} {
		if got := nextLook(tt.used, 0.9); got != tt.want {
			t.Errorf("at %v: %v, want %v", tt.used, got, tt.want)
		}
	}
}
