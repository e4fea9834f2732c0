// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package hpack

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	xhpack "golang.org/x/net/http2/hpack"
)

// generator makes header lists from a byte string, with names and values that
// repeat often enough to be indexed.
type generator struct {
	*rand.Rand
}

var names = []string{
	":method", ":path", ":status", "content-type", "grpc-timeout", "te", "traceparent",
	"authorization", "cookie", "user-agent", "x-long", "", "grpc-status", "accept-encoding",
}

func (g generator) field() Field {
	f := Field{Name: names[g.IntN(len(names))], Sensitive: g.IntN(16) == 0}
	if g.IntN(8) == 0 {
		f.Name = fmt.Sprintf("x-%d", g.IntN(50))
	}
	switch g.IntN(6) {
	case 0:
		f.Value = fmt.Sprint(g.Uint64())
	case 1:
		f.Value = string(bytes.Repeat([]byte{byte(g.IntN(256))}, g.IntN(2000)))
	case 2:
		f.Value = []string{"GET", "POST", "/", "200", "404", "gzip, deflate", ""}[g.IntN(7)]
	default:
		f.Value = fmt.Sprintf("value %d", g.IntN(4))
	}
	return f
}

func (g generator) list() []Field {
	l := make([]Field, g.IntN(20))
	for i := range l {
		l[i] = g.field()
	}
	return l
}

func newGenerator(seed uint64) generator { return generator{rand.New(rand.NewPCG(seed, 0))} }

// sameFields compares but for Sensitive.
func sameFields(got, want []Field) bool {
	return slices.EqualFunc(got, want, func(a, b Field) bool { return a.Name == b.Name && a.Value == b.Value })
}

// FuzzEncoder lets the reference decode what Encoder makes of generated lists,
// while the table's size changes.
func FuzzEncoder(f *testing.F) {
	for i := range uint64(20) {
		f.Add(i)
	}
	f.Fuzz(func(t *testing.T, seed uint64) {
		g := newGenerator(seed)
		e, d, x := NewEncoder(), NewDecoder(4096), xhpack.NewDecoder(4096, nil)
		x.SetAllowedMaxDynamicTableSize(1 << 16)
		d.SetMaxTableSize(1 << 16)
		for range 50 {
			for g.IntN(4) == 0 {
				e.SetMaxTableSize(uint32(g.IntN(5000)))
			}
			list := g.list()
			block := e.Append(nil, list)
			got, err := x.DecodeFull(block)
			if err != nil || len(got) != len(list) {
				t.Fatalf("block %x: %d fields of %d, %v", block, len(got), len(list), err)
			}
			for i, w := range list {
				if got[i].Name != w.Name || got[i].Value != w.Value {
					t.Fatalf("field %d is %q, want %q", i, got[i], w)
				}
				if w.Sensitive && !got[i].Sensitive {
					t.Fatalf("field %d: sensitive %q came as indexable", i, w)
				}
			}
			ours, err := d.Decode(nil, block)
			if err != nil || !sameFields(ours, list) {
				t.Fatalf("own decoder: %v, %v, want %v", ours, err, list)
			}
		}
	})
}

// FuzzDecoder decodes what the reference makes of generated lists, while the
// table's size changes.
func FuzzDecoder(f *testing.F) {
	for i := range uint64(20) {
		f.Add(i)
	}
	f.Fuzz(func(t *testing.T, seed uint64) {
		g := newGenerator(seed)
		var buf bytes.Buffer
		e := xhpack.NewEncoder(&buf)
		e.SetMaxDynamicTableSizeLimit(1 << 16)
		d := NewDecoder(4096)
		d.SetMaxTableSize(1 << 16)
		for range 50 {
			for g.IntN(4) == 0 {
				e.SetMaxDynamicTableSize(uint32(g.IntN(10000)))
			}
			buf.Reset()
			list := g.list()
			for _, w := range list {
				if err := e.WriteField(xhpack.HeaderField{Name: w.Name, Value: w.Value, Sensitive: w.Sensitive}); err != nil {
					t.Fatal(err)
				}
			}
			got, err := d.Decode(nil, buf.Bytes())
			if err != nil || !slices.EqualFunc(got, list, Field.Equal) {
				t.Fatalf("got %v, %v, want %v", got, err, list)
			}
		}
	})
}

// FuzzDecoderOctets feeds both decoders with arbitrary blocks. What is accepted
// goes through the encoder and comes back the same.
func FuzzDecoderOctets(f *testing.F) {
	f.Add([]byte("\x82\x86\x84\x41\x8c\xf1\xe3\xc2\xe5\xf2\x3a\x6b\xa0\xab\x90\xf4\xff"), []byte("\x82\x86\x84\xbe\x58\x86\xa8\xeb\x10\x64\x9c\xbf"))
	f.Add([]byte("\x20\x3f\xe1\x1f\x40\x01a\x01b\xbe\x7e\x01c\xbe\xbf"), []byte("\x10\x01a\x80\x00\x81\xff\x00"))
	f.Fuzz(func(t *testing.T, a, b []byte) {
		d, x := NewDecoder(4096), xhpack.NewDecoder(4096, nil)
		e, back := NewEncoder(), xhpack.NewDecoder(4096, nil)
		for _, block := range [][]byte{a, b, a} {
			got, err := d.Decode(nil, block)
			want, wantErr := x.DecodeFull(block)
			if (err != nil) != (wantErr != nil) && !laxer(err) && !laxer(wantErr) {
				t.Fatalf("block %x: %v, reference says %v", block, err, wantErr)
			}
			if err != nil || wantErr != nil {
				return
			}
			if !sameAs(got, want) {
				t.Fatalf("block %x: %v, want %v", block, got, want)
			}
			if again, err := back.DecodeFull(e.Append(nil, got)); err != nil || !sameAs(got, again) {
				t.Fatalf("block %x: %v, came back as %v, %v", block, got, again, err)
			}
		}
	})
}

// laxer says that err is of a kind that only one of the two implementations has:
// the reference lets size updates and zeros before the end of integers pass, but
// not two updates while its table holds something.
func laxer(err error) bool {
	var de *DecodeError
	if errors.As(err, &de) {
		return de.Reason == reasonUpdateCount || de.Reason == reasonUpdatePosition || de.Reason == reasonInteger
	}
	return err != nil && strings.Contains(err.Error(), "size update MUST")
}

// sameAs compares with the reference's fields. What the encoder makes sensitive
// of its own accord counts as the same.
func sameAs(got []Field, want []xhpack.HeaderField) bool {
	return slices.EqualFunc(got, want, func(f Field, x xhpack.HeaderField) bool {
		return f.Name == x.Name && f.Value == x.Value && (f.Sensitive == x.Sensitive || x.Sensitive && secret(f.Name, f.Value))
	})
}

// FuzzLimits decodes arbitrary blocks with and without limits: the limited decoder
// returns the start of each list, and its table is the other's.
func FuzzLimits(f *testing.F) {
	for i := range uint64(20) {
		g, e := newGenerator(i), NewEncoder()
		list := g.list()
		f.Add(e.Append(nil, list), e.Append(nil, list), uint16(i*100), uint8(i))
	}
	f.Add([]byte("\x40\x01a\x01b\x40\x01c\x01d\x00\x01e\x01f"), []byte("\xbe\xbf"), uint16(40), uint8(0))
	f.Fuzz(func(t *testing.T, a, b []byte, maxBytes uint16, maxFields uint8) {
		free, limited := NewDecoder(4096), NewDecoder(4096)
		limited.SetLimits(uint32(maxBytes), int(maxFields))
		for _, block := range [][]byte{a, b, a, b} {
			want, err := free.Decode(nil, block)
			if err != nil {
				return // perhaps in a literal that the other does not look at
			}
			got, err := limited.Decode(nil, block)
			n := within(want, uint32(maxBytes), int(maxFields))
			if !equal(got, want[:n]) || (err != nil) != (n < len(want)) {
				t.Fatalf("%v, %v, want %d fields of %v", got, err, n, want)
			}
			if !sameTable(&free.table, &limited.table) {
				t.Fatal("the tables have drifted apart")
			}
		}
	})
}

// within counts the fields before the first that goes over a limit.
func within(list []Field, maxBytes uint32, maxFields int) int {
	size := uint32(0)
	for i, f := range list {
		size += f.Size()
		if maxBytes > 0 && size > maxBytes || maxFields > 0 && i == maxFields {
			return i
		}
	}
	return len(list)
}

func sameTable(a, b *table) bool {
	if a.count != b.count || a.size != b.size || a.max != b.max {
		return false
	}
	for i := range uint64(a.count) {
		if x, y := a.at(a.next-1-i), b.at(b.next-1-i); x.size != y.size || !x.field.Equal(y.field) || x.field.hash != y.field.hash {
			return false
		}
	}
	return true
}
