// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package relay

import (
	"encoding/binary"
	"testing"
)

// message returns a message of n octets with its prefix.
func message(n int) []byte {
	m := binary.BigEndian.AppendUint32([]byte{0}, uint32(n))
	for i := range n {
		m = append(m, byte(i))
	}
	return m
}

func TestMessageCounter(t *testing.T) {
	tests := []struct {
		name     string
		feeds    [][]byte
		limit    uint32
		tooLarge uint32 // by the last feed
		messages int64
		whole    bool
	}{
		{"nothing", [][]byte{{}, nil}, 0, 0, 0, true},
		{"empty message", [][]byte{message(0)}, 0, 0, 1, true},
		{"one", [][]byte{message(10)}, 0, 0, 1, true},
		{"two in one frame", [][]byte{append(message(10), message(3)...)}, 0, 0, 2, true},
		{"prefix cut", [][]byte{{0, 0}, {0, 0}, {2, 7}, {7}}, 0, 0, 1, true},
		{"prefix alone", [][]byte{{1, 0, 0, 0, 2}}, 0, 0, 1, false},
		{"part of a prefix", [][]byte{message(1), {0}}, 0, 0, 1, false},
		{"at the limit", [][]byte{message(10)}, 10, 0, 1, true},
		{"over the limit", [][]byte{message(11)}, 10, 11, 1, false},
		{"over the limit by its prefix", [][]byte{{0, 0, 0, 0, 11}}, 10, 11, 1, false},
		{"the second over the limit", [][]byte{message(10), message(11)[:5]}, 10, 11, 2, false},
		{"the largest", [][]byte{{1, 0xff, 0xff, 0xff, 0xff}}, 0, 0, 1, false},
		{"the largest, limited", [][]byte{{1, 0xff, 0xff, 0xff, 0xff}}, 1<<32 - 2, 1<<32 - 1, 1, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var m messageCounter
			var over uint32
			octets := int64(0)
			for _, p := range tt.feeds {
				over = m.feed(p, tt.limit)
				octets += int64(len(p))
			}
			if over != tt.tooLarge || m.messages != tt.messages || m.bytes != octets {
				t.Errorf("too large %d, messages %d, octets %d; want %d, %d, %d", over, m.messages, m.bytes, tt.tooLarge, tt.messages, octets)
			}
			if over == 0 && m.whole() != tt.whole {
				t.Errorf("whole = %t", m.whole())
			}
		})
	}
}

// Into whatever frames a stream of octets is cut, it has the same messages and
// breaks the limit at the same one.
func FuzzMessageCounter(f *testing.F) {
	f.Add(append(message(3), message(0)...), []byte{1, 1, 4}, uint32(0))
	f.Add(message(300), []byte{4}, uint32(299))
	f.Add([]byte{0, 0xff, 0xff, 0xff, 0xff, 1}, []byte{5}, uint32(0))
	f.Add(append(message(2), 0, 0, 0), []byte{6, 2}, uint32(1))
	f.Fuzz(func(t *testing.T, stream, cuts []byte, limit uint32) {
		var whole messageCounter
		want := whole.feed(stream, limit)
		var pieces messageCounter
		got, rest := uint32(0), stream
		for i := 0; got == 0 && len(rest) > 0; i++ {
			n := len(rest)
			if i < len(cuts) {
				n = min(n, int(cuts[i]))
			}
			got = pieces.feed(rest[:n], limit)
			rest = rest[n:]
		}
		if got != want {
			t.Fatalf("in pieces the message over the limit has %d octets, whole %d", got, want)
		}
		// A message over the limit ends the call: what comes after is not looked at.
		if whole.messages != pieces.messages || got == 0 && whole != pieces {
			t.Fatalf("in pieces %+v, whole %+v", pieces, whole)
		}
	})
}
