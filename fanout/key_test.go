// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package fanout

import (
	"math"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
)

func varint(n protowire.Number, v int64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(nil, n, protowire.VarintType), uint64(v))
}

func text(n protowire.Number, s string) []byte {
	return protowire.AppendString(protowire.AppendTag(nil, n, protowire.BytesType), s)
}

func fixed(n protowire.Number, f float64) []byte {
	return protowire.AppendFixed64(protowire.AppendTag(nil, n, protowire.Fixed64Type), math.Float64bits(f))
}

func join(parts ...[]byte) []byte { return slices.Concat(parts...) }

// Messages in the order of their keys, each less than the next.
func TestFieldKeyOrder(t *testing.T) {
	tests := []struct {
		name    string
		paths   []string
		ordered [][]byte
	}{
		{"integers", []string{"1"}, [][]byte{text(2, "none"), varint(1, math.MinInt64), varint(1, -1), varint(1, 0), varint(1, 1), varint(1, 300), varint(1, math.MaxInt64)}},
		{"floats", []string{"1"}, [][]byte{nil, fixed(1, 0), fixed(1, 0.5), fixed(1, 2), fixed(1, 1e9)}},
		{"strings", []string{"3"}, [][]byte{nil, text(3, ""), text(3, "\x00"), text(3, "\x00\x00"), text(3, "\x00a"), text(3, "a"), text(3, "a\x00"), text(3, "aa"), text(3, "b"), text(3, "\xff")}},
		{"a timestamp", []string{"2.1", "2.2"}, [][]byte{
			nil, text(2, string(varint(2, 5))), text(2, string(varint(1, 7))), text(2, string(join(varint(1, 7), varint(2, 1)))),
			text(2, string(join(varint(1, 7), varint(2, 2)))), text(2, string(varint(1, 8)))}},
		{"the last of several", []string{"1"}, [][]byte{join(varint(1, 9), varint(1, 1)), join(varint(1, 1), varint(1, 2))}},
		{"what cannot be read", []string{"1"}, [][]byte{{0xff}, join(varint(1, 3), []byte{0xff})}},
		{"a path through a number", []string{"1.1", "2"}, [][]byte{join(varint(1, 9), varint(2, 1)), join(varint(1, 1), varint(2, 2))}},
		{"two fields", []string{"1", "2"}, [][]byte{join(text(1, "a"), text(2, "z")), join(text(1, "ab"), text(2, "a")), join(text(1, "b"))}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			key, err := FieldKey(tt.paths...)
			if err != nil {
				t.Fatal(err)
			}
			for i := 1; i < len(tt.ordered); i++ {
				if a, b := key(tt.ordered[i-1]), key(tt.ordered[i]); a >= b {
					t.Errorf("key %d is %q, of the next %q", i-1, a, b)
				}
			}
		})
	}
}

func TestFieldKeyPaths(t *testing.T) {
	for _, paths := range [][]string{nil, {""}, {"0"}, {"a"}, {"1."}, {".1"}, {"1..2"}, {"-1"}, {"+1"}, {"536870912"}, {"1", "x"}, {"19000000000"}} {
		if _, err := FieldKey(paths...); err == nil || !strings.Contains(err.Error(), "expected") {
			t.Errorf("paths %q: %v", paths, err)
		}
	}
}

// No message has the function fail, and the key does not depend on where the message lies.
func FuzzFieldKey(f *testing.F) {
	f.Add(join(text(2, string(varint(1, 7))), varint(1, 3)))
	f.Add([]byte{0x0b, 0x0c})
	f.Fuzz(func(t *testing.T, m []byte) {
		key, err := FieldKey("1", "2.1", "2.2")
		if err != nil {
			t.Fatal(err)
		}
		if a, b := key(m), key(slices.Clone(m)); a != b {
			t.Errorf("keys %q and %q", a, b)
		}
	})
}
