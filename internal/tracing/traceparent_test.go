// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package tracing

import (
	"strings"
	"testing"

	"go.opentelemetry.io/otel/trace"
)

const (
	ids    = "4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7"
	zeros  = "00000000000000000000000000000000"
	zeros8 = "0000000000000000"
)

func TestParseParent(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, text string
		want       string // written again; empty: malformed
	}{
		{"sampled", "00-" + ids + "-01", "00-" + ids + "-01"},
		{"not sampled", "00-" + ids + "-00", "00-" + ids + "-00"},
		{"random id", "00-" + ids + "-03", "00-" + ids + "-03"},
		{"unknown flags are not passed on", "00-" + ids + "-fd", "00-" + ids + "-01"},
		{"later version", "cc-" + ids + "-01", "00-" + ids + "-01"},
		{"later version with more", "cc-" + ids + "-01-what", "00-" + ids + "-01"},
		{"later version with a longer field", "cc-" + ids + "-011", ""},
		{"version 00 with more", "00-" + ids + "-01-what", ""},
		{"version 00 with a dash", "00-" + ids + "-01-", ""},
		{"version ff", "ff-" + ids + "-01", ""},
		{"version of letters", "0x-" + ids + "-01", ""},
		{"upper case", "00-" + strings.ToUpper(ids) + "-01", ""},
		{"trace of zeros", "00-" + zeros + "-00f067aa0ba902b7-01", ""},
		{"parent of zeros", "00-4bf92f3577b34da6a3ce929d0e0e4736-" + zeros8 + "-01", ""},
		{"too short", "00-" + ids + "-0", ""},
		{"flags of letters", "00-" + ids + "-0g", ""},
		{"dashes elsewhere", "00_" + ids + "-01", ""},
		{"nothing", "", ""},
		{"spaces around", " 00-" + ids + "-01", ""},
	}
	for _, tt := range tests {
		p, ok := parseParent(tt.text)
		got := ""
		if ok {
			got = string(p.appendParent(nil))
		}
		if got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}

// Whatever is taken is written so that it is taken again, and means the same.
func FuzzParseParent(f *testing.F) {
	f.Add("00-" + ids + "-01")
	f.Add("cc-" + ids + "-ff-x")
	f.Add("00-" + zeros + "-" + zeros8 + "-01")
	f.Fuzz(func(t *testing.T, s string) {
		p, ok := parseParent(s)
		if !ok {
			return
		}
		q, ok := parseParent(string(p.appendParent(nil)))
		p.flags &= trace.FlagsSampled | flagRandom
		if !ok || p != q || !p.trace.IsValid() || !p.span.IsValid() {
			t.Errorf("%q: %v, then %v, %t", s, p, q, ok)
		}
	})
}
