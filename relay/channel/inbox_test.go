// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package channel

import "testing"

// A reader that always lags behind by a message or two does not make the inbox grow.
func TestInboxOfALaggard(t *testing.T) {
	var i inbox
	feed := func(b byte) {
		if st := i.feed([]byte{0, 0, 0, 0, 1, b}, 1); st != nil {
			t.Fatal(st)
		}
	}
	feed(0)
	feed(1)
	for n := range 1000 {
		feed(byte(n + 2))
		m := i.pop()
		if got := m.data.Materialize(); len(got) != 1 || got[0] != byte(n) {
			t.Fatalf("message %d is %v", n, got)
		}
	}
	if c := cap(i.messages); c > 8 {
		t.Errorf("room for %d messages, expected a few: 3 were there at most", c)
	}
}
