// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package h2

import "testing"

// A client that gives up some of many calls is no attacker; one that gives up most of them is.
func TestResetsOfManyStreams(t *testing.T) {
	tests := []struct {
		name           string
		opened, resets int
		cut            bool
	}{
		{"none of many", 5000, 0, false},
		{"a fifth of many", 5000, 1000, false},
		{"half", 1000, 500, false},
		{"over half", 1000, 501, true},
		{"all, but few", 200, 200, false},
		{"all", 201, 201, true},
		{"malformed ones, which are never opened", 0, 201, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := &Conn{cfg: &Config{}.Share().cfg}
			c.abuse.opened = tt.opened
			cut := false
			for range tt.resets {
				cut = c.countReset(true, "test") != nil
			}
			if cut != tt.cut {
				t.Errorf("cut off: %v, want %v", cut, tt.cut)
			}
		})
	}
}
