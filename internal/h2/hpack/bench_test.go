// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package hpack

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	xhpack "golang.org/x/net/http2/hpack"
)

// benchLists are header lists as gRPC has them. %d changes with every call.
var benchLists = []struct {
	name   string
	fields []Field
}{
	{"request", []Field{
		{Name: ":method", Value: "POST"}, {Name: ":scheme", Value: "http"},
		{Name: ":path", Value: "/shop.v1.Catalog/GetProduct"}, {Name: ":authority", Value: "catalog.example.com:8443"},
		{Name: "content-type", Value: "application/grpc"}, {Name: "user-agent", Value: "grpc-go/1.85.0"},
		{Name: "te", Value: "trailers"},
	}},
	{"request_timeout_trace", []Field{
		{Name: ":method", Value: "POST"}, {Name: ":scheme", Value: "http"},
		{Name: ":path", Value: "/shop.v1.Catalog/GetProduct"}, {Name: ":authority", Value: "catalog.example.com:8443"},
		{Name: "content-type", Value: "application/grpc"}, {Name: "user-agent", Value: "grpc-go/1.85.0"},
		{Name: "te", Value: "trailers"}, {Name: "grpc-timeout", Value: "%07du"},
		{Name: "traceparent", Value: "00-0af7651916cd43dd8448eb211c%06d-b7ad6b7169203331-01"},
	}},
	{"request_token", []Field{
		{Name: ":method", Value: "POST"}, {Name: ":scheme", Value: "http"},
		{Name: ":path", Value: "/shop.v1.Catalog/GetProduct"}, {Name: ":authority", Value: "catalog.example.com:8443"},
		{Name: "content-type", Value: "application/grpc"}, {Name: "user-agent", Value: "grpc-go/1.85.0"},
		{Name: "te", Value: "trailers"},
		{Name: "authorization", Value: "Bearer " + strings.Repeat("eyJhbGciOiJSUzI1NiIsInR5cCI6IkpXVCJ9.", 20)},
	}},
	{"response", []Field{{Name: ":status", Value: "200"}, {Name: "content-type", Value: "application/grpc"}}},
	{"trailers", []Field{{Name: "grpc-status", Value: "0"}, {Name: "grpc-message", Value: ""}}},
}

// instance returns the fields for call i.
func instance(fields []Field, i int) []Field {
	out := make([]Field, len(fields))
	for j, f := range fields {
		if strings.Contains(f.Value, "%") {
			f.Value = fmt.Sprintf(f.Value, i)
		}
		out[j] = f
	}
	return out
}

// benchCalls is how many different calls a benchmark goes round.
const benchCalls = 1000

func instances(fields []Field) [][]Field {
	out := make([][]Field, benchCalls)
	for i := range out {
		out[i] = instance(fields, i)
	}
	return out
}

// theirBlocks are the blocks that the reference encoder, which indexes
// everything, makes of consecutive calls.
func theirBlocks(fields []Field, n int) [][]byte {
	var buf bytes.Buffer
	e := xhpack.NewEncoder(&buf)
	blocks := make([][]byte, n)
	for i := range blocks {
		buf.Reset()
		for _, f := range instance(fields, i) {
			if err := e.WriteField(xhpack.HeaderField{Name: f.Name, Value: f.Value}); err != nil {
				panic(err) // a bytes.Buffer takes everything
			}
		}
		blocks[i] = bytes.Clone(buf.Bytes())
	}
	return blocks
}

// warm is how many calls pass before the blocks look as they will always do.
const warm = 200

func BenchmarkDecode(b *testing.B) {
	for _, l := range benchLists {
		blocks := theirBlocks(l.fields, warm+benchCalls)
		b.Run(l.name+"/manifold", func(b *testing.B) {
			d := NewDecoder(4096)
			var fields []Field
			for _, p := range blocks[:warm] {
				fields, _ = d.Decode(fields[:0], p)
			}
			b.ReportAllocs()
			i := warm
			for b.Loop() {
				fields, _ = d.Decode(fields[:0], blocks[i])
				if i++; i == len(blocks) {
					i = warm // the table drifts apart from the encoder's, which costs the same
				}
			}
		})
		b.Run(l.name+"/x", func(b *testing.B) {
			var fields []xhpack.HeaderField
			d := xhpack.NewDecoder(4096, func(f xhpack.HeaderField) { fields = append(fields, f) })
			for _, p := range blocks[:warm] {
				d.Write(p)
				d.Close()
			}
			b.ReportAllocs()
			i := warm
			for b.Loop() {
				fields = fields[:0]
				d.Write(blocks[i])
				d.Close()
				if i++; i == len(blocks) {
					i = warm
				}
			}
		})
	}
}

func BenchmarkEncode(b *testing.B) {
	for _, l := range benchLists {
		lists := instances(l.fields)
		b.Run(l.name+"/manifold", func(b *testing.B) { benchEncode(b, lists) })
		for _, l := range lists {
			for i, f := range l {
				l[i] = Prepare(f.Name, f.Value)
			}
		}
		b.Run(l.name+"/relayed", func(b *testing.B) { benchEncode(b, lists) })
		b.Run(l.name+"/x", func(b *testing.B) {
			var buf bytes.Buffer
			e := xhpack.NewEncoder(&buf)
			n, i := 0, 0
			b.ReportAllocs()
			for b.Loop() {
				buf.Reset()
				for _, f := range lists[i%benchCalls] {
					e.WriteField(xhpack.HeaderField{Name: f.Name, Value: f.Value})
				}
				n += buf.Len()
				i++
			}
			b.ReportMetric(float64(n)/float64(i), "octets/block")
		})
	}
}

func benchEncode(b *testing.B, lists [][]Field) {
	e := NewEncoder()
	var buf []byte
	n, i := 0, 0
	b.ReportAllocs()
	for b.Loop() {
		buf = e.Append(buf[:0], lists[i%benchCalls])
		n += len(buf)
		i++
	}
	b.ReportMetric(float64(n)/float64(i), "octets/block")
}

// BenchmarkBombs shows the most that one header block can cost, with the largest
// block that a connection with the default limits takes.
func BenchmarkBombs(b *testing.B) {
	for name, block := range bombs(32 << 10) {
		b.Run(name, func(b *testing.B) {
			var fields []Field
			b.ReportAllocs()
			for b.Loop() {
				d := NewDecoder(4096)
				d.SetLimits(16<<10, 128)
				if name == "references" {
					d.Decode(nil, bombSeed())
				}
				fields, _ = d.Decode(fields[:0], block)
			}
		})
	}
}

func BenchmarkHuffman(b *testing.B) {
	for _, s := range []string{"application/grpc", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", strings.Repeat("eyJhbGciOiJSUzI1NiIsInR5cCI6IkpXVCJ9.", 20)} {
		p := appendHuffman(nil, s, huffmanLen(s))
		b.Run(fmt.Sprintf("decode/%d", len(s)), func(b *testing.B) {
			b.SetBytes(int64(len(s)))
			var buf []byte
			for b.Loop() {
				buf, _ = appendHuffmanDecoded(buf[:0], p)
			}
		})
		b.Run(fmt.Sprintf("decode/%d/x", len(s)), func(b *testing.B) {
			b.SetBytes(int64(len(s)))
			var buf bytes.Buffer
			for b.Loop() {
				buf.Reset()
				xhpack.HuffmanDecode(&buf, p)
			}
		})
		b.Run(fmt.Sprintf("encode/%d", len(s)), func(b *testing.B) {
			b.SetBytes(int64(len(s)))
			var buf []byte
			for b.Loop() {
				buf = appendHuffman(buf[:0], s, huffmanLen(s))
			}
		})
		b.Run(fmt.Sprintf("encode/%d/x", len(s)), func(b *testing.B) {
			b.SetBytes(int64(len(s)))
			var buf []byte
			for b.Loop() {
				xhpack.HuffmanEncodeLength(s)
				buf = xhpack.AppendHuffmanString(buf[:0], s)
			}
		})
	}
}
