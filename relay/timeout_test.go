// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package relay

import (
	"math"
	"testing"
	"time"
)

func TestParseTimeout(t *testing.T) {
	tests := []struct {
		text string
		want time.Duration
		ok   bool
	}{
		{"1H", time.Hour, true},
		{"2M", 2 * time.Minute, true},
		{"3S", 3 * time.Second, true},
		{"4m", 4 * time.Millisecond, true},
		{"5u", 5 * time.Microsecond, true},
		{"6n", 6, true},
		{"0S", 0, true},
		{"007S", 7 * time.Second, true},
		{"99999999n", 99999999, true},
		{"99999999S", 99999999 * time.Second, true},
		{"99999999H", math.MaxInt64, true}, // 11,408 years are for ever
		{"2562047H", 2562047 * time.Hour, true},
		{"2562048H", math.MaxInt64, true},
		{"", 0, false},
		{"1", 0, false},
		{"S", 0, false},
		{"100000000n", 0, false}, // nine digits
		{"1s", 0, false},
		{"1h", 0, false},
		{"-1S", 0, false},
		{"+1S", 0, false},
		{" 1S", 0, false},
		{"1 S", 0, false},
		{"1.5S", 0, false},
		{"1S ", 0, false},
		{"1SS", 0, false},
		{"0x1S", 0, false},
		{"\u0661S", 0, false}, // ARABIC-INDIC DIGIT ONE
	}
	for _, tt := range tests {
		got, ok := parseTimeout(tt.text)
		if got != tt.want || ok != tt.ok {
			t.Errorf("parseTimeout(%q) = %v, %t, want %v, %t", tt.text, got, ok, tt.want, tt.ok)
		}
	}
}

func TestFormatTimeout(t *testing.T) {
	tests := []struct {
		d    time.Duration
		want string
	}{
		{math.MinInt64, "0n"},
		{-1, "0n"},
		{0, "0n"},
		{1, "1n"},
		{99_999_999, "99999999n"},
		{100_000_000, "100000u"},
		{100_000_001, "100001u"}, // rounded up
		{time.Second, "1000000u"},
		{99_999_999 * time.Microsecond, "99999999u"},
		{99_999_999*time.Microsecond + 1, "100000m"},
		{time.Hour, "3600000m"},
		{28 * time.Hour, "100800S"},
		{99_999_999 * time.Second, "99999999S"},
		{99_999_999*time.Second + 1, "1666667M"},
		{math.MaxInt64, "2562048H"},
	}
	for _, tt := range tests {
		if got := formatTimeout(tt.d); got != tt.want {
			t.Errorf("formatTimeout(%d) = %q, want %q", tt.d, got, tt.want)
		}
	}
}

// A timeout that is passed on must be what is left, rounded up by no more than its unit
// allows: a call never gets none because some was left, and seven digits at
// least are kept.
func FuzzFormatTimeout(f *testing.F) {
	for _, d := range []int64{0, 1, -1, 99_999_999, 100_000_000, int64(time.Hour), math.MaxInt64, math.MinInt64} {
		f.Add(d)
	}
	f.Fuzz(func(t *testing.T, n int64) {
		d := time.Duration(n)
		s := formatTimeout(d)
		got, ok := parseTimeout(s)
		if !ok {
			t.Fatalf("formatTimeout(%d) = %q, which is no timeout", n, s)
		}
		if d = max(d, 0); got < d || float64(got-d) > float64(d)*1e-4 {
			t.Errorf("%d went out as %q, which is %d", n, s, got)
		}
	})
}

func FuzzParseTimeout(f *testing.F) {
	for _, s := range []string{"1S", "99999999H", "100000000n", "", "0n", "-1S", "1s", "00000001M"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		d, ok := parseTimeout(s)
		switch {
		case !ok && d != 0, d < 0:
			t.Fatalf("parseTimeout(%q) = %d, %t", s, d, ok)
		case !ok:
			return
		}
		// Through our own text and back nothing is lost but the rounding up.
		if again, ok := parseTimeout(formatTimeout(d)); !ok || again < d {
			t.Errorf("%q is %v and comes back as %v, %t", s, d, again, ok)
		}
	})
}
