// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package hpack

import (
	"bytes"
	"fmt"
	"math"
	"strings"
	"testing"

	xhpack "golang.org/x/net/http2/hpack"
)

// TestEncoderPolicy encodes lists one after the other with one encoder.
func TestEncoderPolicy(t *testing.T) {
	big := strings.Repeat("b", 1000) // with the name and 32 above a quarter of the table
	type block struct {
		list []Field
		want string
	}
	same := func(f Field, want ...string) (blocks []block) {
		for _, w := range want {
			blocks = append(blocks, block{[]Field{f}, w})
		}
		return blocks
	}
	bigHex := "7f e9 06" + strings.Repeat("62", 1000)
	tests := []struct {
		name   string
		blocks []block
	}{
		{"static entry", same(Field{Name: ":method", Value: "POST"}, "83", "83")},
		{"static entry without value", same(Field{Name: "accept", Value: ""}, "93")},
		{"new name", same(Field{Name: "te", Value: "0x"}, "00 02 7465 02 3078", "40 02 7465 02 3078", "be")},
		{"static name", same(Field{Name: ":path", Value: "/a"}, "04 02 2f61", "44 02 2f61", "be")},
		{"Huffman code where it is shorter", same(Field{Name: "aaaaaa", Value: "eeeeee"},
			"00 06 616161616161 06 656565656565", "40 84 18c6318f 84 294a5297", "be")},
		{"dynamic name", append(same(Field{Name: "x", Value: "1"}, "00 0178 0131", "40 0178 0131"),
			same(Field{Name: "x", Value: "2"}, "0f2f 0132", "7e 0132", "be")...)},
		{"within a block", []block{{fields("x: 1", "x: 1", "x: 1"), "00 0178 0131 40 0178 0131 be"}}},
		{"sensitive", same(Field{Name: "x", Value: "1", Sensitive: true}, "10 0178 0131", "10 0178 0131", "10 0178 0131")},
		{"sensitive, in the static table", same(Field{Name: ":method", Value: "GET", Sensitive: true}, "12 03 474554")},
		{"sensitive, though indexed before", append(same(Field{Name: "x", Value: "1"}, "00 0178 0131", "40 0178 0131", "be"),
			same(Field{Name: "x", Value: "1", Sensitive: true}, "1f2f 0131")...)},
		{"credentials", same(Field{Name: "authorization", Value: "Basic eDp5"}, "1f08 0a 42617369632065447035", "1f08 0a 42617369632065447035")},
		{"credentials of proxies", same(Field{Name: "proxy-authorization", Value: "x"}, "1f22 0178", "1f22 0178")},
		{"short cookie", same(Field{Name: "cookie", Value: "id=1234567890123456"}, "1f11 13"+fmt.Sprintf("%x", "id=1234567890123456"), "1f11 13"+fmt.Sprintf("%x", "id=1234567890123456"))},
		{"long cookie", same(Field{Name: "cookie", Value: "id=!!!!!!!!!!!!!!!!!"}, "0f11 14"+fmt.Sprintf("%x", "id=!!!!!!!!!!!!!!!!!"), "60 14"+fmt.Sprintf("%x", "id=!!!!!!!!!!!!!!!!!"), "be")},
		{"large field", same(Field{Name: "b", Value: big}, "00 0162"+bigHex, "00 0162"+bigHex)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			e := NewEncoder()
			for i, b := range tt.blocks {
				if got, want := e.Append(nil, b.list), octets(t, b.want); !bytes.Equal(got, want) {
					t.Errorf("block %d: %x, want %x", i+1, got, want)
				}
			}
		})
	}
}

// TestPieces: a block made piece by piece is that made at once.
func TestPieces(t *testing.T) {
	whole, pieces := NewEncoder(), NewEncoder()
	whole.SetMaxTableSize(100)
	pieces.SetMaxTableSize(100)
	for range 3 {
		want := whole.Append([]byte("prefix"), request3)
		got := pieces.Begin([]byte("prefix"))
		for _, f := range request3 {
			got = pieces.AppendField(got, f)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%x, want %x", got, want)
		}
	}
}

// TestEncoderSizeUpdates: each block says what the peer's settings asked for
// since the one before; see Begin.
func TestEncoderSizeUpdates(t *testing.T) {
	tests := []struct {
		name  string
		sizes [][]uint32 // set before each block
		want  []string   // the blocks of ":method: GET"
	}{
		{"never set", [][]uint32{{}}, []string{"82"}},
		{"the default", [][]uint32{{4096}}, []string{"82"}},
		{"more than our own bound", [][]uint32{{1 << 20}, {math.MaxUint32}}, []string{"82", "82"}},
		{"zero", [][]uint32{{0}, {}}, []string{"20 82", "82"}},
		{"less", [][]uint32{{100}, {}, {30}}, []string{"3f45 82", "82", "3e 82"}},
		{"up again", [][]uint32{{100}, {8000}, {}}, []string{"3f45 82", "3fe11f 82", "82"}},
		{"down and up at once", [][]uint32{{100, 4096}, {}, {}}, []string{"3f45 82", "3fe11f 82", "82"}},
		{"down, up and half down", [][]uint32{{0, 4096, 100}, {}, {}}, []string{"20 82", "3f45 82", "82"}},
		{"up and down at once", [][]uint32{{8000, 100}, {}}, []string{"3f45 82", "82"}},
		{"down again before the raise", [][]uint32{{100, 4096}, {50}, {}}, []string{"3f45 82", "3f13 82", "82"}},
		{"the same again before the raise", [][]uint32{{100, 4096}, {100}, {}}, []string{"3f45 82", "82", "82"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			e := NewEncoder()
			for i, sizes := range tt.sizes {
				for _, n := range sizes {
					e.SetMaxTableSize(n)
				}
				if got, want := e.Append(nil, fields(":method: GET")), octets(t, tt.want[i]); !bytes.Equal(got, want) {
					t.Errorf("block %d: %x, want %x", i+1, got, want)
				}
			}
		})
	}
}

// TestNoTable: a peer without a table gets no indexed fields but static ones.
func TestNoTable(t *testing.T) {
	e := NewEncoder()
	e.Append(nil, fields("x: y", "x: y")) // fill it first
	e.SetMaxTableSize(0)
	e.Append(nil, nil)
	for range 3 {
		if got, want := e.Append(nil, fields(":method: GET", "x: y")), octets(t, "82 00 0178 0179"); !bytes.Equal(got, want) {
			t.Errorf("%x, want %x", got, want)
		}
	}
}

// TestChurn: values that never come back neither enter the table nor make it
// forget what repeats.
func TestChurn(t *testing.T) {
	const settled = 10 // blocks after which what repeats is in the table
	e := NewEncoder()
	size := 0
	for i := range 10000 {
		list := append(fields(":path: /a.B/C", "te: trailers"), Field{Name: "grpc-timeout", Value: fmt.Sprint(i, "u")},
			Field{Name: "traceparent", Value: fmt.Sprintf("00-%032x-%016x-01", i, i)})
		block := e.Append(nil, list)
		if i >= settled && (block[0] < 0x80 || block[1] < 0x80) {
			t.Fatalf("block %d: a field that repeats is not indexed: %x", i, block)
		}
		if i == settled {
			size = int(e.table.size)
		}
	}
	if int(e.table.size) != size {
		t.Errorf("the table went from %d to %d octets", size, e.table.size)
	}
}

// TestRareRepeats: a field that comes with every tenth call of a connection on
// which every call has two values of its own is indexed all the same.
func TestRareRepeats(t *testing.T) {
	e := NewEncoder()
	for i := range 200 {
		list := []Field{{Name: "grpc-timeout", Value: fmt.Sprint(i)}, {Name: "traceparent", Value: fmt.Sprint(i)}}
		if i%10 == 0 {
			list = append(list, Field{Name: ":path", Value: "/a.B/C"})
		}
		e.Append(nil, list)
	}
	if e.table.count != 1 {
		t.Errorf("%d entries, want the one that repeats", e.table.count)
	}
}

// TestNoTwoFieldsStarve: however hashes fall, a list that repeats ends up indexed.
// With a filter of one way some pairs of fields would push each other out for ever.
func TestNoTwoFieldsStarve(t *testing.T) {
	for i := range 500 {
		list := make([]Field, 10)
		for j := range list {
			list[j] = Field{Name: fmt.Sprintf("x-%d-%d", i, j), Value: "v"}
		}
		e := NewEncoder()
		e.Append(nil, list)
		for range 20 {
			e.Append(nil, list)
		}
		if got := e.Append(nil, list); len(got) != len(list) {
			t.Fatalf("list %d still takes %d octets", i, len(got))
		}
	}
}

// TestChangedField: a field whose owner has changed it after decoding is encoded
// as it is now.
func TestChangedField(t *testing.T) {
	e := NewEncoder()
	f := Prepare("grpc-timeout", "1S")
	e.Append(nil, []Field{f, f}) // in the table now
	f.Value = "2S"
	for _, want := range []string{"0f2f 023253", "7e 023253", "be"} {
		if got := e.Append(nil, []Field{f}); !bytes.Equal(got, octets(t, want)) {
			t.Errorf("%x, want %s", got, want)
		}
	}
	for i := range 1000 { // values that never come back, under the old hash
		f.Value = fmt.Sprint(i, "u")
		e.Append(nil, []Field{f})
	}
	if e.table.count != 2 {
		t.Errorf("%d entries, want 2", e.table.count)
	}
}

// TestRelayed: what a decoder's table has given carries its hash.
func TestRelayed(t *testing.T) {
	d := NewDecoder(4096)
	d.Decode(nil, octets(t, insertX))
	got, err := d.Decode(nil, octets(t, "be 82"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range got {
		if f.hash != pairHash(f.Name, f.Value) {
			t.Errorf("%v: hash %#x", f, f.hash)
		}
	}
	inserted, _ := d.Decode(nil, octets(t, "40 0178 017a"))
	if inserted[0].hash != pairHash("x", "z") {
		t.Error("an entry's first field has no hash")
	}
}

// TestEncoderWraps: entry numbers may pass 2^32.
func TestEncoderWraps(t *testing.T) {
	e, x := NewEncoder(), xhpack.NewDecoder(4096, nil)
	e.table.next = math.MaxUint32 - 100
	g := newGenerator(1)
	// How much is indexed depends on the hashes' seed: go on until they have wrapped
	// and then some.
	for i, left := 0, 400; left > 0 && i < 10_000; i++ {
		if e.table.next < math.MaxUint32/2 {
			left--
		}
		list := g.list()
		got, err := x.DecodeFull(e.Append(nil, list))
		if err != nil {
			t.Fatal(err)
		}
		for j, w := range list {
			if got[j].Name != w.Name || got[j].Value != w.Value {
				t.Fatalf("block %d: field %d is %v, want %v", i, j, got[j], w)
			}
		}
	}
	if e.table.next > math.MaxUint32/2 {
		t.Fatal("the numbers have not wrapped")
	}
}

func TestEncodeAllocs(t *testing.T) {
	for _, l := range benchLists {
		lists := instances(l.fields)
		e := NewEncoder()
		buf := make([]byte, 0, 4096)
		for _, list := range lists {
			buf = e.Append(buf[:0], list)
		}
		i := 0
		if n := testing.AllocsPerRun(benchCalls, func() {
			buf = e.Append(buf[:0], lists[i%benchCalls])
			i++
		}); n != 0 {
			t.Errorf("%s: %v allocations per block, want 0", l.name, n)
		}
	}
}

// TestEncoderEvicts: entries leave as the table's size demands, and their strings
// with them.
func TestEncoderEvicts(t *testing.T) {
	e := NewEncoder()
	for i := range 1000 {
		f := Field{Name: "x", Value: fmt.Sprintf("%0100d", i)}
		e.Append(nil, []Field{f, f})
	}
	if n := int(e.table.count); n != 4096/133 || e.table.size != uint32(n*133) {
		t.Errorf("%d entries of %d octets", n, e.table.size)
	}
	held := 0
	for _, entry := range e.table.ring {
		if entry.value != "" {
			held++
		}
	}
	if held != int(e.table.count) {
		t.Errorf("%d strings held for %d entries", held, e.table.count)
	}
}
