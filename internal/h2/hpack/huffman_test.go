// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package hpack

import (
	"bytes"
	"strings"
	"testing"

	xhpack "golang.org/x/net/http2/hpack"
)

// TestHuffmanCodes compares every symbol's code with the reference, which also
// proves that the code is canonical.
func TestHuffmanCodes(t *testing.T) {
	for i := range 256 {
		s := strings.Repeat(string([]byte{byte(i)}), 8)
		got, want := appendHuffman(nil, s, huffmanLen(s)), xhpack.AppendHuffmanString(nil, s)
		if !bytes.Equal(got, want) {
			t.Errorf("code of %#x: %x, want %x", i, got, want)
		}
		if n := huffmanLen(s); n != len(want) {
			t.Errorf("length of %#x: %d, want %d", i, n, len(want))
		}
	}
}

func FuzzHuffmanDecode(f *testing.F) {
	f.Add([]byte(""))
	f.Add([]byte("\xff"))
	f.Add([]byte("\xff\xff\xff\xff"))
	f.Add([]byte("\x1f\xff"))
	f.Add(xhpack.AppendHuffmanString(nil, "www.example.com"))
	f.Add(xhpack.AppendHuffmanString(nil, "\x00\xff\x16\n\r~|<>{}"))
	f.Fuzz(func(t *testing.T, p []byte) {
		var want bytes.Buffer
		_, wantErr := xhpack.HuffmanDecode(&want, p)
		got, reason := appendHuffmanDecoded([]byte("x"), p)
		if (reason != "") != (wantErr != nil) {
			t.Fatalf("%x: reason %q, reference says %v", p, reason, wantErr)
		}
		if reason == "" && string(got) != "x"+want.String() {
			t.Fatalf("%x: %q, want %q", p, got, want.Bytes())
		}
		if reason == "" && len(got)-1 < huffLeast(len(p)) {
			t.Fatalf("%x: %d octets, huffLeast says at least %d", p, len(got)-1, huffLeast(len(p)))
		}
	})
}

func FuzzHuffmanEncode(f *testing.F) {
	f.Add("")
	f.Add("application/grpc")
	f.Add("\x00\xff\x16\n\r~|<>{}")
	f.Fuzz(func(t *testing.T, s string) {
		got, want := appendHuffman(nil, s, huffmanLen(s)), xhpack.AppendHuffmanString(nil, s)
		if !bytes.Equal(got, want) {
			t.Fatalf("%q: %x, want %x", s, got, want)
		}
		if huffmanLen(s) != len(want) {
			t.Fatalf("%q: length %d, want %d", s, huffmanLen(s), len(want))
		}
	})
}
