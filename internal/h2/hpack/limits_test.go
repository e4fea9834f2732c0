// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package hpack

import (
	"bytes"
	"errors"
	"runtime"
	"slices"
	"strings"
	"testing"
	"unsafe"
)

// TestLimits: the fields before the one too many are returned, the error names
// the limit, and the next block decodes.
func TestLimits(t *testing.T) {
	long := strings.Repeat("z", 100)
	tests := []struct {
		name     string
		maxBytes uint32
		maxN     int
		list     []Field
		keep     int
		limit    string
	}{
		{"no limits", 0, 0, fields("a: b", "c: "+long), 2, ""},
		{"at both limits", 34 + 34, 2, fields("a: b", "c: d"), 2, ""},
		{"one octet too many", 34 + 34 - 1, 0, fields("a: b", "c: d"), 1, "header_list_bytes"},
		{"one field too many", 0, 1, fields("a: b", "c: d"), 1, "header_list_fields"},
		{"nothing fits", 10, 0, fields("a: b"), 0, "header_list_bytes"},
		{"a small field after a large one", 80, 0, fields("a: b", "c: "+long, "e: f"), 1, "header_list_bytes"},
		{"both", 34, 1, fields("a: b", "c: d"), 1, "header_list_bytes"},
		{"static entries", 42 + 41, 0, fields(":method: GET", ":path: /", ":method: GET"), 1 + 1, "header_list_bytes"},
		{"too many static entries", 0, 2, fields(":method: GET", ":path: /", ":method: GET"), 2, "header_list_fields"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			e, d := NewEncoder(), NewDecoder(4096)
			d.SetLimits(tt.maxBytes, tt.maxN)
			for round := range 3 { // not indexed, inserting, indexed
				got, err := d.Decode(nil, e.Append(nil, tt.list))
				checkLimit(t, err, tt.limit, tt.maxBytes, tt.maxN)
				if !equal(got, tt.list[:tt.keep]) {
					t.Errorf("round %d: %v, want %v", round, got, tt.list[:tt.keep])
				}
			}
			d.SetLimits(0, 0)
			if got, err := d.Decode(nil, e.Append(nil, tt.list)); err != nil || !equal(got, tt.list) {
				t.Errorf("without limits: %v, %v", got, err)
			}
		})
	}
}

func checkLimit(t *testing.T, err error, limit string, maxBytes uint32, maxN int) {
	t.Helper()
	if limit == "" {
		if err != nil {
			t.Errorf("error %v", err)
		}
		return
	}
	value := uint64(maxBytes)
	if limit == "header_list_fields" {
		value = uint64(maxN)
	}
	var le *ListError
	if !errors.As(err, &le) || !errors.Is(err, ErrListTooLarge) || le.Limit != limit || le.Max != value {
		t.Errorf("error %v, want %s of %d", err, limit, value)
	}
}

// TestSkippedLiterals: what is not decoded because it is over the limit still
// counts for the table.
func TestSkippedLiterals(t *testing.T) {
	huge := "40 0178 7f a1 7f" + strings.Repeat("61", 16416) // larger than list and table
	tests := []struct {
		name, block string
		count       int
	}{
		{"indexed after the limit", "00 0178 7f 85 02" + strings.Repeat("61", 388) + insertX, 2},
		{"not indexed after the limit", "00 0178 7f 85 02" + strings.Repeat("61", 388) + "00 0178 0179 00 8161 8161", 1},
		{"larger than the table", insertX + huge, 0},
		{"larger than the table, then one more", huge + insertX, 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d := NewDecoder(4096)
			d.SetLimits(200, 0)
			if _, err := d.Decode(nil, octets(t, insertX)); err != nil {
				t.Fatal(err)
			}
			_, err := d.Decode(nil, octets(t, tt.block))
			if !errors.Is(err, ErrListTooLarge) {
				t.Fatalf("%v, want %v", err, ErrListTooLarge)
			}
			if d.table.count != tt.count {
				t.Errorf("%d entries, want %d", d.table.count, tt.count)
			}
			if tt.count > 0 {
				if got, err := d.Decode(nil, octets(t, "be")); err != nil || !equal(got, fields("x: y")) {
					t.Errorf("next block: %v, %v", got, err)
				}
			}
		})
	}
}

// TestBombs: large blocks that are made to cost much. The list that comes
// back and what the decoder keeps are bounded by the limits, not by the block.
func TestBombs(t *testing.T) {
	const bombSize = 1 << 18
	for name, block := range bombs(bombSize) {
		t.Run(name, func(t *testing.T) {
			d := NewDecoder(4096)
			d.SetLimits(16<<10, 128)
			if name == "references" {
				d.Decode(nil, bombSeed())
			}
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			got, err := d.Decode(nil, block)
			runtime.ReadMemStats(&after)
			if !errors.Is(err, ErrListTooLarge) {
				t.Fatalf("%d fields, %v", len(got), err)
			}
			if n := after.TotalAlloc - before.TotalAlloc; n > 4*bombSize {
				t.Errorf("%d octets allocated", n)
			}
			if n := kept(d); n > 64<<10 {
				t.Errorf("the decoder keeps %d octets", n)
			}
			if len(got) > 128 || cap(got) > 256 {
				t.Errorf("%d fields, room for %d", len(got), cap(got))
			}
		})
	}
}

// bombSeed inserts an entry that fills the table.
func bombSeed() []byte {
	e := appendInt([]byte{0x40, 1, 'x'}, 0, 7, 4000)
	return append(e, bytes.Repeat([]byte("y"), 4000)...)
}

// bombs returns blocks of about the given size, each made to cost a decoder as
// much as it can in one way.
func bombs(size int) map[string][]byte {
	fill := func(s string) []byte { return bytes.Repeat([]byte(s), size/len(s)) }
	huffman := func(n int) []byte { return appendShortest(nil, strings.Repeat("a", n)) }
	return map[string][]byte{
		"references":            fill("\xbe"),
		"static references":     fill("\x82"),
		"empty literals":        fill("\x00\x00\x00"),
		"empty entries":         fill("\x40\x00\x00"),
		"insert and refer":      fill("\x40\x01a\x00\xbe"),
		"insert and name":       fill("\x40\x01a\x00\x7e\x00"),
		"one Huffman literal":   append([]byte{0x00, 0x00}, huffman(size*8/5)...),
		"one Huffman entry":     append([]byte{0x40, 0x00}, huffman(size*8/5)...),
		"Huffman entries":       fill("\x40\x00" + string(huffman(10))),
		"large Huffman entries": fill("\x40\x00" + string(huffman(5000))),
	}
}

// kept estimates what a decoder holds between blocks.
func kept(d *Decoder) int {
	n := len(d.table.ring) * int(unsafe.Sizeof(entry{}))
	if w := d.staged; w != nil {
		n += cap(w.scratch) + cap(w.pending)*int(unsafe.Sizeof(literal{}))
	}
	return n + int(d.table.size)*pinFactor
}

// TestEntriesDoNotPin: a small entry does not keep the string of a large block,
// nor an entry of a small block a copy of its own.
func TestEntriesDoNotPin(t *testing.T) {
	d := NewDecoder(4096)
	block := appendInt(octets(t, insertX+"00 0162"), 0, 7, 10000)
	got, err := d.Decode(nil, append(block, bytes.Repeat([]byte("c"), 10000)...))
	if err != nil || len(got) != 2 {
		t.Fatal(got, err)
	}
	e := &d.table.at(0).field
	if unsafe.StringData(e.Value) == unsafe.StringData(got[0].Value) {
		t.Error("the entry shares the string of a large block")
	}
	if !e.Equal(got[0]) {
		t.Errorf("entry %v, field %v", e, got[0])
	}

	got, err = d.Decode(nil, octets(t, insertX+"00 0161 0162"))
	if err != nil {
		t.Fatal(err)
	}
	if e := &d.table.at(1).field; unsafe.StringData(e.Value) != unsafe.StringData(got[0].Value) {
		t.Error("the entry of a small block has a string of its own")
	}
}

// TestDecodeAllocs: none for what is indexed, one for all literals of a block.
func TestDecodeAllocs(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector has sync.Pool lose what it holds")
	}
	tests := []struct {
		name, block string
		want        float64
	}{
		{"indexed", "82 86 84 be be", 0},
		{"literals", "82 00 0161 0162 be 00 0163 0164 10 811f 811f", 1},
		{"entries", "82 40 0161 0162 be 40 0163 0164", 1 + 1}, // be refers to one of the same block
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d := NewDecoder(4096)
			d.SetLimits(16<<10, 128)
			dst, err := d.Decode(nil, bytes.Repeat(octets(t, insertX), 127))
			if err != nil {
				t.Fatal(err)
			}
			block := octets(t, tt.block)
			got := testing.AllocsPerRun(100, func() {
				if dst, err = d.Decode(dst[:0], block); err != nil {
					t.Error(err)
				}
			})
			if got != tt.want {
				t.Errorf("%v allocations, want %v", got, tt.want)
			}
		})
	}
}

// TestScratchIsBounded: one large block does not cost memory for ever.
func TestScratchIsBounded(t *testing.T) {
	d := NewDecoder(4096)
	block := append(appendInt([]byte{0x00, 0x00}, 0, 7, 100000), bytes.Repeat([]byte("x"), 100000)...)
	if _, err := d.Decode(nil, block); err != nil {
		t.Fatal(err)
	}
	if n := kept(d); n > maxScratch+maxPending*100 {
		t.Errorf("the decoder keeps %d octets", n)
	}
}

// TestDecoderReleasesCaller: the decoder keeps neither the caller's block nor
// its fields.
func TestDecoderReleasesCaller(t *testing.T) {
	d := NewDecoder(4096)
	d.Decode(make([]Field, 0, 10), slices.Clone([]byte{0x82}))
	if d.block != nil || d.dst != nil {
		t.Error("block or dst is kept")
	}
}

// TestEvictedStringsGo: what was evicted, also by its own block, is not held.
func TestEvictedStringsGo(t *testing.T) {
	d := NewDecoder(70) // two entries
	d.Decode(nil, bytes.Repeat(octets(t, insertX), 10))
	d.Decode(nil, octets(t, insertX))
	held := 0
	for _, e := range d.table.ring {
		if e.field.Value != "" {
			held++
		}
	}
	if held != 2 || d.table.count != 2 {
		t.Errorf("strings of %d entries are held, %d are in the table", held, d.table.count)
	}
}
