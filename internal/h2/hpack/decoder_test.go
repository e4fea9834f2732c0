// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package hpack

import (
	"errors"
	"strings"
	"testing"
)

// insertX is a literal with incremental indexing: "x: y".
const insertX = "40 0178 0179"

// TestDecodeErrors has a block for each rule. The reason is the contract; a
// decoder that failed stays failed.
func TestDecodeErrors(t *testing.T) {
	tests := []struct {
		name, block, want string
	}{
		{"index zero", "80", reasonIndex},
		{"index after the static table", "be", reasonIndex},
		{"index after the dynamic table", insertX + "be bf", reasonIndex},
		{"greatest index", "ff ff ff ff 7e", reasonIndex},
		{"name index after the static table", "7e 00", reasonIndex},
		{"name index, not indexed", "0f 2f 00", reasonIndex},
		{"name index, never indexed", "1f 2f 00", reasonIndex},

		{"cut in an index", "ff", reasonTruncated},
		{"cut in a long index", "ff 80", reasonTruncated},
		{"cut in a name index", "7f", reasonTruncated},
		{"cut before the name", "40", reasonTruncated},
		{"cut in the name's length", "40 7f", reasonTruncated},
		{"cut in the name", "40 02 78", reasonTruncated},
		{"cut before the value", "40 01 78", reasonTruncated},
		{"cut before an indexed name's value", "44", reasonTruncated},
		{"cut in the value", "40 01 78 02 79", reasonTruncated},
		{"cut in a size update", "3f", reasonTruncated},
		{"value longer than anything", "44 7f ff ff ff 7e", reasonTruncated},

		{"index of 29 bits", "ff ff ff ff ff 00", reasonInteger},
		{"index above 28 bits", "ff ff ff ff 7f", reasonInteger},
		{"index padded with zeros", "ff 80 80 80 80 00", reasonInteger},
		{"length above 28 bits", "44 ff ff ff ff 7f", reasonInteger},
		{"size update above 28 bits", "3f ff ff ff ff 7f", reasonInteger},

		{"EOS in a name", "40 84 ffffffff 00", reasonHuffmanEOS},
		{"EOS in a value", "44 84 ffffffff", reasonHuffmanEOS},
		{"EOS after a symbol", "44 85 1fffffffff", reasonHuffmanEOS},
		{"EOS in a long value", "44 8c 1fffffffff 00000000000000", reasonHuffmanEOS},
		{"padding of 8 bits", "44 81 ff", reasonHuffmanPadding},
		{"padding of 11 bits", "44 82 1fff", reasonHuffmanPadding},
		{"padding of zeros", "44 81 18", reasonHuffmanPadding},
		{"padding not all ones", "44 81 1e", reasonHuffmanPadding},

		{"update after a field", "82 20", reasonUpdatePosition},
		{"update between fields", "82 3f e1 1f 82", reasonUpdatePosition},
		{"three updates", "20 3f e1 1f 20", reasonUpdateCount},
		{"update above the maximum", "3f e2 1f", reasonUpdateSize},
		{"second update above the maximum", "20 3f e2 1f", reasonUpdateSize},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d := NewDecoder(4096)
			got, err := d.Decode(fields("before: kept"), octets(t, tt.block))
			var de *DecodeError
			if !errors.As(err, &de) || de.Reason != tt.want {
				t.Fatalf("%v, want %s", err, tt.want)
			}
			if !equal(got, fields("before: kept")) {
				t.Errorf("fields of a bad block: %v", got)
			}
			if _, again := d.Decode(nil, []byte{0x82}); again != err {
				t.Errorf("afterwards: %v, want the same error", again)
			}
		})
	}
}

func TestErrorText(t *testing.T) {
	tests := []struct {
		err  error
		want string
	}{
		{&DecodeError{reasonIndex, 7}, "hpack: hpack_index at octet 7 of the header block"},
		{&ListError{"header_list_bytes", 16384}, "hpack: header list over the limit header_list_bytes of 16384"},
	}
	for _, tt := range tests {
		if got := tt.err.Error(); got != tt.want {
			t.Errorf("%q, want %q", got, tt.want)
		}
	}
}

// TestDecodeAppends: dst is appended to, and its fields do not count.
func TestDecodeAppends(t *testing.T) {
	d := NewDecoder(4096)
	d.SetLimits(42, 1)
	got, err := d.Decode(fields("before: kept"), octets(t, "82"))
	if err != nil || !equal(got, fields("before: kept", ":method: GET")) {
		t.Errorf("%v, %v", got, err)
	}
	if got, err := d.Decode(nil, nil); err != nil || len(got) != 0 {
		t.Errorf("an empty block: %v, %v", got, err)
	}
}

// TestReferToSameBlock: a block refers to entries that it has just inserted, by
// whole and by name, and inserts what evicts them.
func TestReferToSameBlock(t *testing.T) {
	d := NewDecoder(70)
	got, err := d.Decode(nil, octets(t, insertX+"be"+"0f2f 017a"+insertX+"bf"+"7e 026162"+"be"))
	want := fields("x: y", "x: y", "x: z", "x: y", "x: y", "x: ab", "x: ab")
	if err != nil || !equal(got, want) {
		t.Errorf("%v, %v, want %v", got, err, want)
	}
}

// TestManyLiterals: more literals than wait at once.
func TestManyLiterals(t *testing.T) {
	d := NewDecoder(4096)
	var want []Field
	for range 3*maxPending + 1 {
		want = append(want, Field{Name: "x", Value: "y"})
	}
	got, err := d.Decode(nil, octets(t, strings.Repeat(insertX, len(want))))
	if err != nil || !equal(got, want) {
		t.Errorf("%v, %v", got, err)
	}
	if d.staged != nil {
		t.Error("it keeps where literals wait")
	}
}

func TestEntryLargerThanTable(t *testing.T) {
	d := NewDecoder(40)
	block := insertX + "40 0178 0a" + strings.Repeat("79", 10) // 34, then 43 octets
	got, err := d.Decode(nil, octets(t, block))
	if want := fields("x: y", "x: "+strings.Repeat("y", 10)); err != nil || !equal(got, want) {
		t.Fatalf("%v, %v, want %v", got, err, want)
	}
	if d.table.count != 0 || d.table.size != 0 {
		t.Errorf("%d entries of %d octets are left", d.table.count, d.table.size)
	}
}

func TestSizeUpdates(t *testing.T) {
	d := NewDecoder(4096)
	steps := []struct {
		name, block string
		count       int
	}{
		{"two entries", insertX + insertX, 2},
		{"room for one", "3f 05", 1}, // 36
		{"down and up again", "20 3f e1 1f" + insertX, 1},
		{"same size", "3f e1 1f" + insertX, 2},
		{"nothing", "20", 0},
		{"no room", insertX, 0},
	}
	for _, s := range steps {
		if _, err := d.Decode(nil, octets(t, s.block)); err != nil {
			t.Fatalf("%s: %v", s.name, err)
		}
		if d.table.count != s.count {
			t.Errorf("%s: %d entries, want %d", s.name, d.table.count, s.count)
		}
	}
}

// TestSetMaxTableSize: after the peer has acknowledged a smaller table, its next
// block has to begin with an update (RFC 9113 section 4.3.1).
func TestSetMaxTableSize(t *testing.T) {
	tests := []struct {
		name, block string
		want        string
	}{
		{"update to the new size", "3f 45 82", ""}, // 100
		{"update to less", "20 82", ""},
		{"no update", "82", reasonUpdateMissing},
		{"no update in an empty block", "", reasonUpdateMissing},
		{"update to more", "3f 46 82", reasonUpdateSize},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d := NewDecoder(4096)
			d.SetMaxTableSize(100)
			_, err := d.Decode(nil, octets(t, tt.block))
			var de *DecodeError
			if errors.As(err, &de) && de.Reason != tt.want || (err == nil) != (tt.want == "") {
				t.Fatalf("%v, want %q", err, tt.want)
			}
			if err == nil {
				if _, err := d.Decode(nil, []byte{0x82}); err != nil {
					t.Errorf("next block: %v", err)
				}
			}
		})
	}
	d := NewDecoder(4096)
	d.SetMaxTableSize(8192)
	if _, err := d.Decode(nil, octets(t, "82")); err != nil {
		t.Errorf("without an update after growth: %v", err)
	}
	if d.table.max != 4096 {
		t.Errorf("the table has grown to %d without an update", d.table.max)
	}
	if _, err := d.Decode(nil, octets(t, "3f e1 3f")); err != nil || d.table.max != 8192 {
		t.Errorf("update to 8192: %v, table of %d", err, d.table.max)
	}
}

// TestLargeTableStartsSmall: until an update the peer uses 4096 octets, whatever
// it may use.
func TestLargeTableStartsSmall(t *testing.T) {
	if d := NewDecoder(1 << 16); d.table.max != 4096 {
		t.Errorf("table of %d octets at the start", d.table.max)
	}
}

// TestStringsAreKept: fields stay what they are when block and dst are used
// again.
func TestStringsAreKept(t *testing.T) {
	d := NewDecoder(4096)
	block := octets(t, insertX+"00 0161 0162 00 81 1f 81 1f")
	first, err := d.Decode(nil, block)
	if err != nil {
		t.Fatal(err)
	}
	want := fields("x: y", "a: b", "a: a")
	for i := range block {
		block[i] = 0xee
	}
	for range 100 {
		if _, err := d.Decode(nil, octets(t, "40 0163 0164 00 0165 0166")); err != nil {
			t.Fatal(err)
		}
	}
	if !equal(first, want) {
		t.Errorf("%v, want %v", first, want)
	}
}
