// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package suite

import (
	"strings"
	"testing"
)

func TestPrint(t *testing.T) {
	t.Parallel()
	failed := []Case{{"z", "wrong"}, {"a", "wrong\nas well"}}
	known := []Case{{"k1", "reason"}, {"k2", "reason"}, {"k3", "other"}}
	tests := []struct {
		name string
		run  Report
		ok   bool
		want []string // parts of the output, in their order
	}{
		{"passes", Report{Run: "r", Passed: 2}, true, []string{"r  ", " 2      2      0      0"}},
		{"known", Report{Run: "r", Passed: 1, Known: known}, true, []string{"r: k1, and 1 more", "reason", "r: k3", "other", " 4      1      3      0"}},
		{"failed", Report{Run: "r", Passed: 1, Failed: failed}, false, []string{"FAILED r: a", "wrong\n       as well", "FAILED r: z", " 3      1      0      2"}},
		{"nothing ran", Report{Run: "r"}, false, []string{" 0      0      0      0"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var out strings.Builder
			if ok := Print(&out, []Report{tt.run}); ok != tt.ok {
				t.Errorf("ok = %t, want %t", ok, tt.ok)
			}
			rest := out.String()
			for _, want := range tt.want {
				_, after, found := strings.Cut(rest, want)
				if !found {
					t.Fatalf("no %q in its place in:\n%s", want, out.String())
				}
				rest = after
			}
		})
	}
	if Print(new(strings.Builder), nil) {
		t.Error("no run at all counts as success")
	}
}
