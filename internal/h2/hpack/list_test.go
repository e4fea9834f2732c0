// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package hpack

import (
	"slices"
	"strconv"
	"testing"

	xhpack "golang.org/x/net/http2/hpack"
)

// FuzzLists sends a few lists over and over, and others between them, from an encoder that remembers lists to a decoder
// that remembers blocks, while the table's size changes. The reference must read the same from the
// same octets.
func FuzzLists(f *testing.F) {
	for i := range uint64(20) {
		f.Add(i)
	}
	f.Fuzz(func(t *testing.T, seed uint64) {
		g := newGenerator(seed)
		e, d, x := NewEncoder(), NewDecoder(4096), xhpack.NewDecoder(4096, nil)
		var lists []*List
		for range 12 {
			l := g.list()
			lists = append(lists, NewList(l[:min(len(l), 6)]))
		}
		send := func(fields []Field, block []byte) {
			want, err := x.DecodeFull(block)
			if err != nil || len(want) != len(fields) {
				t.Fatalf("block %x: %d fields of %d, %v", block, len(want), len(fields), err)
			}
			got, _, err := d.DecodeList(nil, block)
			if err != nil || !sameFields(got, fields) {
				t.Fatalf("block %x: %v, %v, want %v", block, got, err, fields)
			}
			for i, w := range want {
				if w.Name != fields[i].Name || w.Value != fields[i].Value || fields[i].Sensitive && !w.Sensitive || w.Sensitive != got[i].Sensitive {
					t.Fatalf("field %d is %v to the reference and %v to us, want %v", i, w, got[i], fields[i])
				}
			}
		}
		for range 300 {
			switch g.IntN(40) {
			case 0:
				e.SetMaxTableSize(uint32(g.IntN(5000)))
			case 1:
				l := g.list()
				send(l, e.Append(nil, l))
			}
			l := lists[g.IntN(1+g.IntN(len(lists)))]
			send(l.Fields, e.AppendList(nil, l))
		}
	})
}

var usualRequest = []Field{
	{Name: ":method", Value: "POST"}, {Name: ":scheme", Value: "http"}, {Name: ":path", Value: "/a.B/C"},
	{Name: ":authority", Value: "localhost"}, {Name: "content-type", Value: "application/grpc"}, {Name: "te", Value: "trailers"},
}

// A block is known from the second time on at which it comes with the table as it is, and costs nothing then.
func TestKnownBlocks(t *testing.T) {
	e, d := NewEncoder(), NewDecoder(4096)
	out := NewList(usualRequest)
	var block []byte
	var known []*List
	next := func() {
		block = e.AppendList(block[:0], out)
		_, l, err := d.DecodeList(nil, block)
		if err != nil {
			t.Fatal(err)
		}
		known = append(known, l)
	}
	for range 6 {
		next()
	}
	// Literals, insertions, and twice all from the table.
	if want := []*List{nil, nil, nil, known[3], known[3], known[3]}; known[3] == nil || !slices.Equal(known, want) {
		t.Fatalf("lists are %v, want one from the fourth block on", known)
	}
	if !sameFields(known[3].Fields, usualRequest) {
		t.Errorf("list is %v, want %v", known[3].Fields, usualRequest)
	}
	var fields []Field
	if n := testing.AllocsPerRun(100, func() {
		block = e.AppendList(block[:0], out)
		fields, _, _ = d.DecodeList(fields[:0], block)
	}); n != 0 {
		t.Errorf("%v allocations, want 0", n)
	}
	// Another entry in the table gives indexes another meaning.
	other := []Field{{Name: "a", Value: "b"}}
	for range 2 {
		if _, _, err := d.DecodeList(nil, e.Append(nil, other)); err != nil {
			t.Fatal(err)
		}
	}
	old := known[5]
	next()
	next()
	if known[6] != nil || known[7] == nil || known[7] == old || !sameFields(known[7].Fields, usualRequest) {
		t.Errorf("after an insertion the lists are %v, want none and then a new one", known[6:])
	}
}

// Blocks that come in turns are all known as long as there is room, whatever the hashes, which change with each
// process; where there is none, most of those that are known stay so.
func TestKnownBlocksInTurns(t *testing.T) {
	// Blocks of one to three octets, all from the static table: GET, POST and the rest of :method to :status.
	var blocks [][]byte
	for i := range decoderSlots + 4 {
		blocks = append(blocks, []byte{0x82 + byte(i%8), 0x84 + byte(i/8)})
	}
	for _, n := range []int{2, decoderSlots, decoderSlots + 4} {
		d := NewDecoder(4096)
		lists := 0
		round := func() {
			lists = 0
			for _, b := range blocks[:n] {
				fields, l, err := d.DecodeList(nil, b)
				if want := []Field{static[b[0]&0x7f], static[b[1]&0x7f]}; err != nil || !sameFields(fields, want) {
					t.Fatalf("block %x: %v, %v, want %v", b, fields, err, want)
				}
				if l != nil {
					lists++
				}
			}
		}
		for range 20 {
			round()
		}
		for range 200 {
			round()
			if want := min(n, decoderSlots); lists < want-1 {
				t.Fatalf("%d of %d blocks are known, want %d, or one less while another takes its place", lists, n, want)
			}
		}
	}
}

// Two blocks that come in turn, as those of a response do, are known soon, whatever their hashes.
func TestKnownBlocksInPairs(t *testing.T) {
	for i := range 200 {
		pair := [2][]byte{{0x82, 0x80 | byte(1+i%61)}, {0x82, 0x84, 0x80 | byte(1+i/4%61)}}
		d := NewDecoder(4096)
		known := 0
		for range 4 {
			known = 0
			for _, block := range pair {
				_, l, err := d.DecodeList(nil, block)
				if err != nil {
					t.Fatal(err)
				}
				if l != nil {
					known++
				}
			}
		}
		if known != 2 {
			t.Errorf("of %x, %d are known after four turns", pair, known)
		}
	}
}

// A block of which only the middle is another has the same tag, and is not taken for the known one.
func TestKnownBlocksWithTheSameTag(t *testing.T) {
	d := NewDecoder(4096)
	block := []byte{0x82, 0x86, 0x84, 0x82, 0x86, 0x84, 0x82, 0x86, 0x84, 0x82, 0x86, 0x84, 0x82, 0x86, 0x84, 0x82, 0x86, 0x84}
	for range 3 {
		if _, _, err := d.DecodeList(nil, block); err != nil {
			t.Fatal(err)
		}
	}
	other := slices.Clone(block)
	other[8] = 0x87
	if tagOf(other) != tagOf(block) {
		t.Fatal("the tags differ: the test is about blocks of the same")
	}
	fields, list, err := d.DecodeList(nil, other)
	if err != nil || list != nil || fields[8] != static[7] {
		t.Errorf("field %v, list %v, error %v, want %v, none, none", fields[8], list, err, static[7])
	}
}

// A list whose fields would go another way the next time is not remembered too early: in the end all of it
// is in the table.
func TestListsAreIndexed(t *testing.T) {
	e, d := NewEncoder(), NewDecoder(4096)
	l := NewList(usualRequest)
	var n int
	for range 3 {
		block := e.AppendList(nil, l)
		if _, err := d.Decode(nil, block); err != nil {
			t.Fatal(err)
		}
		n = len(block)
	}
	if n != len(usualRequest) {
		t.Errorf("the third block has %d octets, want %d", n, len(usualRequest))
	}
}

// However many lists come, what is remembered of them is bounded.
func TestKnownListsAreBounded(t *testing.T) {
	e := NewEncoder()
	var lists []*List
	for i := range 2000 {
		lists = append(lists, NewList(append(slices.Clone(usualRequest[:2]), Field{Name: ":status", Value: strconv.Itoa(200 + 4*(i%2))})))
	}
	for range 5 {
		for _, l := range lists {
			e.AppendList(nil, l)
		}
	}
	if got := len(e.known.slots); got != maxEncoderSlots {
		t.Errorf("%d slots, want %d", got, maxEncoderSlots)
	}
}

// As long as a set has room nothing is forgotten, whatever the hashes: they change with each process.
func TestFilterKeepsWhileRoom(t *testing.T) {
	for random := range uint32(64) {
		f := filter{random: random << 26}
		for i := range uint32(filterSets * filterWays) {
			f.again(1 + i)
		}
		for i := range uint32(filterSets * filterWays) {
			if !f.again(1 + i) {
				t.Fatalf("random %d: hash %d is forgotten", random, 1+i)
			}
		}
	}
}
