// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package frame

import (
	"strings"
	"testing"
)

func TestData(t *testing.T) {
	tests := []struct {
		name  string
		flags Flags
		in    string
		want  string
		err   *Error
	}{
		{"plain", 0, "\x02abc", "\x02abc", nil},
		{"empty", FlagEndStream, "", "", nil},
		{"padded", FlagPadded, "\x02abc\x00\x00", "abc", nil},
		{"padding of any content", FlagPadded, "\x02abc\xff\x01", "abc", nil},
		{"no padding", FlagPadded, "\x00abc", "abc", nil},
		{"only padding", FlagPadded, "\x03\x00\x00\x00", "", nil},
		{"only a pad length", FlagPadded, "\x00", "", nil},
		{"too much padding", FlagPadded, "\x04\x00\x00\x00", "", conn(ProtocolError, "data_padding")},
		{"no pad length", FlagPadded, "", "", conn(FrameSizeError, "data_padding")},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h := Header{uint32(len(tt.in)), TypeData, tt.flags, 1}
			got, err := Data(h, []byte(tt.in))
			if string(got) != tt.want || !same(err, tt.err) {
				t.Errorf("Data = %q, %v, want %q, %v", got, err, tt.want, tt.err)
			}
		})
	}
}

func TestHeadersFragment(t *testing.T) {
	const self = "\x00\x00\x00\x07\x00"
	tests := []struct {
		name  string
		flags Flags
		in    string
		want  string
		prio  Priority
		has   bool
		err   *Error
	}{
		{"plain", 0, "abc", "abc", Priority{}, false, nil},
		{"empty", 0, "", "", Priority{}, false, nil},
		{"padded", FlagPadded, "\x01abc\x00", "abc", Priority{}, false, nil},
		{"priority", FlagPriority, "\x80\x00\x00\x05\x0fabc", "abc", Priority{5, true, 15}, true, nil},
		{"both", FlagPadded | FlagPriority, "\x02\x00\x00\x00\x00\xffabc\x00\x00", "abc", Priority{0, false, 255}, true, nil},
		{"nothing but both", FlagPadded | FlagPriority, "\x01\x00\x00\x00\x00\xff\x00", "", Priority{0, false, 255}, true, nil},
		{"no pad length", FlagPadded, "", "", Priority{}, false, conn(FrameSizeError, "headers_padding")},
		{"too much padding", FlagPadded, "\x04abc", "", Priority{}, false, conn(ProtocolError, "headers_padding")},
		{"short priority", FlagPriority, "\x00\x00\x00\x00", "", Priority{}, false, conn(FrameSizeError, "headers_size")},
		{"padding reaches into priority", FlagPadded | FlagPriority, "\x02\x00\x00\x00\x00\xff\x00", "", Priority{}, false, conn(FrameSizeError, "headers_size")},
		{"self-dependency", FlagPriority, self + "abc", "abc", Priority{7, false, 0}, true,
			&Error{Code: ProtocolError, StreamID: 7, Reason: "self_dependency"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h := Header{uint32(len(tt.in)), TypeHeaders, tt.flags, 7}
			got, prio, has, err := HeadersFragment(h, []byte(tt.in))
			if string(got) != tt.want || prio != tt.prio || has != tt.has || !same(err, tt.err) {
				t.Errorf("HeadersFragment = %q, %+v, %v, %v, want %q, %+v, %v, %v",
					got, prio, has, err, tt.want, tt.prio, tt.has, tt.err)
			}
		})
	}
}

func TestPriorityPayload(t *testing.T) {
	prio, err := PriorityPayload(7, []byte("\x80\x00\x00\x09\x03"))
	if want := (Priority{9, true, 3}); prio != want || err != nil {
		t.Errorf("got %+v, %v, want %+v", prio, err, want)
	}
	want := &Error{Code: ProtocolError, StreamID: 7, Reason: "self_dependency"}
	if _, err := PriorityPayload(7, []byte("\x80\x00\x00\x07\x03")); !same(err, want) {
		t.Errorf("self-dependency: %v, want %v", err, want)
	}
}

func TestSettings(t *testing.T) {
	in := "\x00\x03\x00\x00\x00\x64" + "\xff\xff\xff\xff\xff\xff" + "\x00\x03\x00\x00\x00\x01"
	want := []Setting{{SettingMaxConcurrentStreams, 100}, {0xffff, 0xffffffff}, {SettingMaxConcurrentStreams, 1}}
	i := 0
	for s := range Settings([]byte(in)) {
		if s != want[i] {
			t.Errorf("parameter %d: %+v, want %+v", i, s, want[i])
		}
		if i++; i == 2 {
			break // the sequence obeys
		}
	}
	for range Settings([]byte(in[:5])) {
		t.Error("a parameter from 5 octets")
	}
}

func TestSmallPayloads(t *testing.T) {
	if got := RST([]byte("\x00\x00\x00\x08")); got != Cancel {
		t.Errorf("RST = %v", got)
	}
	if got := Ping([]byte("12345678")); string(got[:]) != "12345678" {
		t.Errorf("Ping = %q", got)
	}
	last, code, debug := GoAway([]byte("\x80\x00\x00\x05\x00\x00\x00\x0bcalm"))
	if last != 5 || code != EnhanceYourCalm || string(debug) != "calm" {
		t.Errorf("GoAway = %d, %v, %q", last, code, debug)
	}
	if got := WindowUpdate([]byte("\xff\xff\xff\xff")); got != MaxWindow {
		t.Errorf("WindowUpdate = %d", got)
	}
}

// TestAliases holds the promise that parsing copies nothing.
func TestAliases(t *testing.T) {
	p := []byte("\x01" + strings.Repeat("x", 10))
	data, _ := Data(Header{11, TypeData, FlagPadded, 1}, p)
	p[1] = 'y'
	if data[0] != 'y' {
		t.Error("Data copies")
	}
}
