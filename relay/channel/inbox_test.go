// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package channel

import (
	"bytes"
	"testing"
)

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

// Messages around the limits of the pools stay what they are while another is held, and those of a stream of
// a KiB each reuse the memory of those that were given back.
func TestInboxReusesMemory(t *testing.T) {
	var i inbox
	feed := func(size int, b byte) {
		p := append([]byte{0, 0, 0, byte(size >> 8), byte(size)}, bytes.Repeat([]byte{b}, size)...)
		if st := i.feed(p, size); st != nil {
			t.Fatal(st)
		}
	}
	for _, size := range []int{minSmall, minSmall + 1, maxSmall, maxSmall + 1, smallCap, smallCap + 1} {
		feed(size, 1)
		for b := byte(1); b < 100; b++ {
			feed(size, b+1)
			m := i.pop()
			if got := m.data.Materialize(); !bytes.Equal(got, bytes.Repeat([]byte{b}, size)) {
				t.Fatalf("message %d of %d octets is %.20v", b, size, got)
			}
			m.data.Free()
		}
		m := i.pop()
		m.data.Free()
	}
	p := append([]byte{0, 0, 0, 4, 0}, make([]byte, maxSmall)...)
	if allocs := testing.AllocsPerRun(1000, func() {
		if st := i.feed(p, maxSmall); st != nil {
			t.Fatal(st)
		}
		m := i.pop()
		m.data.Free()
	}); allocs > 2 { // not all of a pool comes back under the race detector
		t.Errorf("%v allocations for a message, expected its slice of buffers", allocs)
	}
}
