// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package hpack

import (
	"bytes"
	"encoding/hex"
	"slices"
	"strings"
	"testing"
)

// octets reads hexadecimal digits as RFC 7541 prints them.
func octets(t *testing.T, s string) []byte {
	t.Helper()
	p, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// fields makes a list of "name: value" lines.
func fields(lines ...string) []Field {
	var list []Field
	for _, l := range lines {
		i := strings.Index(l[1:], ":") + 1 // not the colon of a pseudo-header field
		list = append(list, Field{Name: l[:i], Value: strings.TrimPrefix(l[i+1:], " ")})
	}
	return list
}

func equal(a, b []Field) bool { return slices.EqualFunc(a, b, Field.Equal) }

// TestIntegerVectors are the examples of RFC 7541 appendix C.1.
func TestIntegerVectors(t *testing.T) {
	tests := []struct {
		v    uint32
		n    uint
		want string
	}{{10, 5, "0a"}, {1337, 5, "1f9a0a"}, {42, 8, "2a"}}
	for _, tt := range tests {
		p := octets(t, tt.want)
		if got := appendInt(nil, 0, tt.n, tt.v); !bytes.Equal(got, p) {
			t.Errorf("%d: %x, want %s", tt.v, got, tt.want)
		}
		v, next, reason := readInt(append(p, 0xff), 0, tt.n)
		if v != tt.v || next != len(p) || reason != "" {
			t.Errorf("%s: %d, %d octets, %q, want %d", tt.want, v, next, reason, tt.v)
		}
	}
}

// TestIntegers goes over the borders of prefix and octets, both ways.
func TestIntegers(t *testing.T) {
	for n := uint(4); n <= 7; n++ {
		limit := uint32(1)<<n - 1
		for _, v := range []uint32{0, 1, limit - 1, limit, limit + 1, limit + 127, limit + 128, limit + 1<<14, 1 << 21, maxInt} {
			p := appendInt(nil, 0, n, v)
			got, next, reason := readInt(p, 0, n)
			if got != v || next != len(p) || reason != "" {
				t.Errorf("%d with prefix %d: %x, read as %d, %q", v, n, p, got, reason)
			}
			for i := 1; i < len(p); i++ {
				if _, _, reason := readInt(p[:i], 0, n); reason != reasonTruncated {
					t.Errorf("%x: reason %q, want %q", p[:i], reason, reasonTruncated)
				}
			}
		}
	}
}

// step is a block of one of the RFC's examples.
type step struct {
	block string
	want  []Field
	table uint32 // size afterwards
}

var vectors = []struct {
	name  string
	table uint32
	steps []step
}{
	{"C.2.1", 4096, []step{{"400a 6375 7374 6f6d 2d6b 6579 0d63 7573 746f 6d2d 6865 6164 6572", fields("custom-key: custom-header"), 55}}},
	{"C.2.2", 4096, []step{{"040c 2f73 616d 706c 652f 7061 7468", fields(":path: /sample/path"), 0}}},
	{"C.2.3", 4096, []step{{"1008 7061 7373 776f 7264 0673 6563 7265 74", []Field{{Name: "password", Value: "secret", Sensitive: true}}, 0}}},
	{"C.2.4", 4096, []step{{"82", fields(":method: GET"), 0}}},
	{"C.3", 4096, []step{
		{"8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d", request1, 57},
		{"8286 84be 5808 6e6f 2d63 6163 6865", request2, 110},
		{"8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65", request3, 164},
	}},
	{"C.4", 4096, []step{
		{"8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff", request1, 57},
		{"8286 84be 5886 a8eb 1064 9cbf", request2, 110},
		{"8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf", request3, 164},
	}},
	{"C.5", 256, []step{
		{"4803 3330 3258 0770 7269 7661 7465 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133" +
			"2032 303a 3133 3a32 3120 474d 546e 1768 7474 7073 3a2f 2f77 7777 2e65 7861 6d70 6c65 2e63 6f6d", response1, 222},
		{"4803 3330 37c1 c0bf", response2, 222},
		{"88c1 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3220 474d" +
			"54c0 5a04 677a 6970 7738 666f 6f3d 4153 444a 4b48 514b 425a 584f 5157 454f 5049" +
			"5541 5851 5745 4f49 553b 206d 6178 2d61 6765 3d33 3630 303b 2076 6572 7369 6f6e 3d31", response3, 215},
	}},
	{"C.6", 256, []step{
		{"4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6" +
			"2d1b ff6e 919d 29ad 1718 63c7 8f0b 97c8 e9ae 82ae 43d3", response1, 222},
		{"4883 640e ffc1 c0bf", response2, 222},
		{"88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab" +
			"77ad 94e7 821d d7f2 e6c7 b335 dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f" +
			"9587 3160 65c0 03ed 4ee5 b106 3d50 07", response3, 215},
	}},
}

var (
	request1  = fields(":method: GET", ":scheme: http", ":path: /", ":authority: www.example.com")
	request2  = append(slices.Clone(request1), fields("cache-control: no-cache")...)
	request3  = fields(":method: GET", ":scheme: https", ":path: /index.html", ":authority: www.example.com", "custom-key: custom-value")
	response1 = fields(":status: 302", "cache-control: private", "date: Mon, 21 Oct 2013 20:13:21 GMT", "location: https://www.example.com")
	response2 = fields(":status: 307", "cache-control: private", "date: Mon, 21 Oct 2013 20:13:21 GMT", "location: https://www.example.com")
	response3 = fields(":status: 200", "cache-control: private", "date: Mon, 21 Oct 2013 20:13:22 GMT", "location: https://www.example.com",
		"content-encoding: gzip", "set-cookie: foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1")
)

// TestVectors are the examples of RFC 7541 appendices C.2 to C.6.
func TestVectors(t *testing.T) {
	for _, v := range vectors {
		t.Run(v.name, func(t *testing.T) {
			d := NewDecoder(v.table)
			for i, s := range v.steps {
				got, err := d.Decode(nil, octets(t, s.block))
				if err != nil || !equal(got, s.want) {
					t.Fatalf("block %d: %v, %v, want %v", i+1, got, err, s.want)
				}
				if d.table.size != s.table {
					t.Errorf("block %d: table of %d octets, want %d", i+1, d.table.size, s.table)
				}
			}
		})
	}
}
