// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package hpack

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
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

// FuzzDecoderOctets feeds both decoders with arbitrary blocks.
func FuzzDecoderOctets(f *testing.F) {
	f.Add([]byte("\x82\x86\x84\x41\x8c\xf1\xe3\xc2\xe5\xf2\x3a\x6b\xa0\xab\x90\xf4\xff"), []byte("\x82\x86\x84\xbe\x58\x86\xa8\xeb\x10\x64\x9c\xbf"))
	f.Add([]byte("\x20\x3f\xe1\x1f\x40\x01a\x01b\xbe\x7e\x01c\xbe\xbf"), []byte("\x10\x01a\x80\x00\x81\xff\x00"))
	f.Fuzz(func(t *testing.T, a, b []byte) {
		d, x := NewDecoder(4096), xhpack.NewDecoder(4096, nil)
		for _, block := range [][]byte{a, b, a} {
			_, err := d.Decode(nil, block)
			var de *DecodeError
			if errors.As(err, &de) && (de.Reason == reasonUpdateCount || de.Reason == reasonInteger) {
				return // the reference is laxer there
			}
			if err != nil {
				if _, wantErr := x.DecodeFull(block); wantErr == nil {
					t.Fatalf("block %x: %v, reference says nil", block, err)
				}
				return
			}
			if _, wantErr := x.DecodeFull(block); wantErr != nil {
				t.Fatalf("block %x: no error, reference says %v", block, wantErr)
			}
		}
	})
}
