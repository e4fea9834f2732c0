// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package config

import "testing"

func TestMethodSet(t *testing.T) {
	tests := []struct {
		name         string
		m            *Methods
		path, method string
		want         bool
	}{
		{"no lists", nil, "/a.S/M", "M", true},
		{"empty lists", &Methods{}, "/a.S/M", "M", true},
		{"allowed by name", &Methods{Allow: []string{"M"}}, "/a.S/M", "M", true},
		{"allowed in full", &Methods{Allow: []string{"/a.S/M"}}, "/a.S/M", "M", true},
		{"allowed of another service", &Methods{Allow: []string{"/b.S/M"}}, "/a.S/M", "M", false},
		{"not allowed", &Methods{Allow: []string{"M"}}, "/a.S/N", "N", false},
		{"names are case-sensitive", &Methods{Allow: []string{"M"}}, "/a.S/m", "m", false},
		{"denied by name", &Methods{Deny: []string{"M"}}, "/a.S/M", "M", false},
		{"denied in full", &Methods{Deny: []string{"/a.S/M"}}, "/a.S/M", "M", false},
		{"denied of another service", &Methods{Deny: []string{"/b.S/M"}}, "/a.S/M", "M", true},
		{"not denied", &Methods{Deny: []string{"M"}}, "/a.S/N", "N", true},
		{"denied of what is allowed", &Methods{Allow: []string{"M"}, Deny: []string{"/b.S/M"}}, "/b.S/M", "M", false},
		{"the rest of what is allowed", &Methods{Allow: []string{"M"}, Deny: []string{"/b.S/M"}}, "/a.S/M", "M", true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			set := tt.m.Set()
			if got := set.Lets(tt.path, tt.method); got != tt.want {
				t.Errorf("lets %s through: %v, want %v", tt.path, got, tt.want)
			}
			if n := testing.AllocsPerRun(10, func() { set.Lets(tt.path, tt.method) }); n != 0 {
				t.Errorf("%v allocations for a lookup, want 0", n)
			}
		})
	}
}
