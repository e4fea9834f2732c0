// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"bytes"
	"maps"
	"strconv"
	"testing"

	"golang.org/x/net/http2/hpack"
)

func TestChangesTable(t *testing.T) {
	tests := []struct {
		name    string
		block   []byte
		changed bool
		bad     bool
	}{
		{name: "empty"},
		{name: "indexed fields", block: []byte{0x82, 0x86, 0xbf}},
		{name: "indexed field with a long index", block: []byte{0xff, 0x80, 0x01}},
		{name: "literal with an indexed name", block: []byte{0x04, 0x02, 'h', 'i'}},
		{name: "literal with a name", block: []byte{0x00, 0x01, 'a', 0x02, 'h', 'i', 0x82}},
		{name: "never indexed", block: []byte{0x10, 0x01, 'a', 0x00}},
		{name: "with indexing", block: []byte{0x82, 0x40, 0x01, 'a', 0x00}, changed: true},
		{name: "with indexing after a literal", block: []byte{0x04, 0x01, 'x', 0x44, 0x01, 'y'}, changed: true},
		{name: "size update", block: []byte{0x20}, changed: true},
		{name: "value cut off", block: []byte{0x04, 0x03, 'h', 'i'}, bad: true},
		{name: "length cut off", block: []byte{0x04, 0x7f}, bad: true},
		{name: "index cut off", block: []byte{0xff}, bad: true},
		{name: "index without end", block: []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01}, bad: true},
		{name: "no value", block: []byte{0x04}, bad: true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			changed, err := changesTable(tt.block)
			if changed != tt.changed || (err != nil) != tt.bad {
				t.Errorf("changesTable = %t, %v, expected %t, error %t", changed, err, tt.changed, tt.bad)
			}
		})
	}
}

// Whatever blocks come, remembering some of them gives what decoding all gives.
func FuzzBlockReader(f *testing.F) {
	f.Add([]byte{0x40, 0x01, 'a', 0x01, 'b', 0xff, 0xbe, 0xff, 0x04, 0x01, 'c', 0xff, 0xbe, 0xff, 0x40, 0x01, 'd', 0x00, 0xff, 0xbe})
	f.Add([]byte{0x20, 0xff, 0x82, 0xff, 0x82})
	f.Fuzz(func(t *testing.T, text []byte) {
		r := newBlockReader()
		plain := hpack.NewDecoder(tableSize, nil)
		for block := range bytes.SplitSeq(text, []byte{0xff}) {
			got, gotErr := r.decode(block)
			list, err := plain.DecodeFull(block)
			if err != nil {
				if gotErr == nil {
					t.Fatalf("block % x decodes, expected %v", block, err)
				}
				return
			}
			want := map[string]string{}
			for _, field := range list {
				want[field.Name] = field.Value
			}
			if len(want) < len(list) {
				return // a name twice, which the reader takes for an error
			}
			if gotErr != nil || !maps.Equal(got.fields, want) {
				t.Fatalf("block % x is %v, %v, expected %v", block, got, gotErr, want)
			}
		}
	})
}

// What an encoder remembers must decode as what it has just encoded.
func TestBlockWriter(t *testing.T) {
	w, plain := newBlockWriter(), hpack.NewDecoder(tableSize, nil)
	a := NewTemplate(":method", "POST", "user-agent", "x/1", "te", "trailers")
	b := NewTemplate(":status", "200", "x-other", "y")
	check := func(tmpl *Template, extra hpack.HeaderField) {
		t.Helper()
		list, err := plain.DecodeFull(w.encode(tmpl, extra))
		if err != nil {
			t.Fatal(err)
		}
		want := tmpl.fields
		if extra.Name != "" {
			want = append(want[:len(want):len(want)], extra)
		}
		if len(list) != len(want) {
			t.Fatalf("block has %v, expected %v", list, want)
		}
		for i := range want {
			if list[i].Name != want[i].Name || list[i].Value != want[i].Value {
				t.Fatalf("block has %v, expected %v", list, want)
			}
		}
	}
	for i := range 300 {
		for range 3 {
			check(a, hpack.HeaderField{})
			check(b, hpack.HeaderField{})
		}
		if i == 0 && len(w.known) != 2 {
			t.Fatalf("%d blocks are remembered, expected both", len(w.known))
		}
		// Pushes the templates' fields out of the table in the end.
		check(a, hpack.HeaderField{Name: "grpc-timeout", Value: strconv.Itoa(i) + "u"})
		if i == 200 {
			w.setTableSize(100)
		}
	}
}

func TestFieldTwice(t *testing.T) {
	var buf bytes.Buffer
	enc := hpack.NewEncoder(&buf)
	for range 2 {
		if err := enc.WriteField(hpack.HeaderField{Name: "grpc-status", Value: "0"}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := newBlockReader().decode(buf.Bytes()); err == nil {
		t.Error("two statuses decode")
	}
}
