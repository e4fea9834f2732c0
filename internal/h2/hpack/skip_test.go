// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package hpack

import (
	"bytes"
	"errors"
	"testing"
)

// Beyond the limit entries are still held to exist, wherever in a block an octet is, and all else is still read.
func TestSkipRun(t *testing.T) {
	for entries := range 4 {
		last := byte(0x80 + staticLen + entries)
		for at := range 20 {
			for _, tt := range []struct {
				octet byte
				bad   string
			}{{0x81, ""}, {last, ""}, {last + 1, reasonIndex}, {0x80, reasonIndex}, {0xfe, reasonIndex}, {0x20, reasonUpdatePosition}} {
				d := NewDecoder(4096)
				d.SetLimits(0, 1+entries)
				block := bytes.Repeat(octets(t, insertX), entries)
				block = append(block, 0x82, 0x82) // the second is over the limit
				from := len(block)
				block = append(block, bytes.Repeat([]byte{last}, 20)...)
				block[from+at] = tt.octet
				_, err := d.Decode(nil, block)
				var bad *DecodeError
				switch {
				case tt.bad == "":
					var over *ListError
					if !errors.As(err, &over) {
						t.Errorf("%d entries, %#x at %d: %v, want the limit", entries, tt.octet, at, err)
					}
				case !errors.As(err, &bad) || bad.Reason != tt.bad:
					t.Errorf("%d entries, %#x at %d: %v, want %s", entries, tt.octet, at, err, tt.bad)
				}
			}
		}
	}
}

// A literal between octets that are skipped still enters the table, and is there for what follows.
func TestSkipRunAroundLiterals(t *testing.T) {
	d := NewDecoder(4096)
	d.SetLimits(0, 1)
	run := bytes.Repeat([]byte{0x82}, 11)
	block := append(append(append([]byte{}, run...), octets(t, insertX)...), append(bytes.Repeat([]byte{0xbe}, 11), run...)...)
	var over *ListError
	if _, err := d.Decode(nil, block); !errors.As(err, &over) {
		t.Fatalf("%v, want the limit", err)
	}
	if got, err := d.Decode(nil, []byte{0xbe}); err != nil || !equal(got, fields("x: y")) {
		t.Errorf("%v, %v, want the entry", got, err)
	}
}
