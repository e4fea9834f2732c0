// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"bytes"
	"testing"
)

// receive hands octets to a receiver in pieces of n, and returns the heads of the
// messages that it completes.
func receive(r *receiver, octets []byte, n int) (heads []Head, err error) {
	for len(octets) > 0 {
		piece := octets[:min(n, len(octets))]
		octets = octets[len(piece):]
		for len(piece) > 0 {
			rest, complete, err := r.next(piece)
			if err != nil {
				return heads, err
			}
			if complete {
				heads = append(heads, r.head())
			}
			piece = rest
		}
	}
	return heads, nil
}

func TestReceiver(t *testing.T) {
	var octets []byte
	want := []Head{{7, 0, 3}, {7, 1, 0}, {1 << 40, 2, 0}}
	for i, size := range []int{MinMessage, 64, 70_000} {
		first := prefixLen + (headLen+size)/2 // sent in two pieces
		octets = appendMessage(octets, want[i], size, 0, first)
		octets = appendMessage(octets, want[i], size, first, prefixLen+size)
	}
	for _, n := range []int{1, 2, 20, 21, 22, 1000, 1 << 20} {
		var r receiver
		heads, err := receive(&r, octets, n)
		if err != nil || len(heads) != len(want) || r.have != 0 {
			t.Fatalf("pieces of %d: heads %v, %v, %d octets left", n, heads, err, r.have)
		}
		for i := range want {
			if heads[i] != want[i] {
				t.Errorf("pieces of %d: heads %v, expected %v", n, heads, want)
			}
		}
	}
}

// Each octet after the head is looked at.
func TestReceiverFindsDamage(t *testing.T) {
	message := appendMessage(nil, Head{Call: 1}, 3000, 0, prefixLen+3000)
	for i := range message {
		if i >= 1 && i < prefixLen+headLen {
			continue // the length shows by what follows, the head is the caller's to check
		}
		damaged := bytes.Clone(message)
		damaged[i] ^= 0x10
		var r receiver
		if _, err := receive(&r, damaged, 1000); err == nil {
			t.Fatalf("damage at %d passes", i)
		}
	}
	for _, moved := range [][]byte{message[:1500], append(bytes.Clone(message[:1000]), message[1001:]...)} {
		var r receiver
		if heads, err := receive(&r, moved, 1000); err == nil && len(heads) > 0 {
			t.Error("a message with octets lost passes")
		}
	}
	for _, size := range []byte{0, headLen - 1} {
		var r receiver
		if _, err := receive(&r, append([]byte{0, 0, 0, 0, size}, message...), 1000); err == nil {
			t.Errorf("a message of %d octets passes", size)
		}
	}
}
