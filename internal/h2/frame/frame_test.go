// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package frame

import "testing"

func TestParseHeader(t *testing.T) {
	tests := []struct {
		in   string
		want Header
	}{
		{"\x00\x00\x00\x00\x00\x00\x00\x00\x00", Header{}},
		{"\x01\x02\x03\x01\x25\x00\x00\x00\x07", Header{0x010203, TypeHeaders, 0x25, 7}},
		{"\xff\xff\xff\xff\xff\xff\xff\xff\xff", Header{MaxMaxFrameSize, 0xff, 0xff, MaxStreamID}}, // reserved bit
		{"\x00\x00\x04\x08\x00\x80\x00\x00\x00\xaa", Header{4, TypeWindowUpdate, 0, 0}},
	}
	for _, tt := range tests {
		if got := ParseHeader([]byte(tt.in)); got != tt.want {
			t.Errorf("ParseHeader(%x) = %+v, want %+v", tt.in, got, tt.want)
		}
	}
}

func TestNames(t *testing.T) {
	tests := []struct{ got, want string }{
		{TypeData.String(), "DATA"},
		{TypeRSTStream.String(), "RST_STREAM"},
		{TypeContinuation.String(), "CONTINUATION"},
		{Type(10).String(), "UNKNOWN_0xa"},
		{NoError.String(), "NO_ERROR"},
		{CompressionError.String(), "COMPRESSION_ERROR"},
		{EnhanceYourCalm.String(), "ENHANCE_YOUR_CALM"},
		{HTTP11Required.String(), "HTTP_1_1_REQUIRED"},
		{Code(0xe).String(), "UNKNOWN_0xe"},
		{Code(0xffffffff).String(), "UNKNOWN_0xffffffff"},
		{SettingInitialWindowSize.String(), "INITIAL_WINDOW_SIZE"},
		{SettingNoRFC7540Priorities.String(), "NO_RFC7540_PRIORITIES"},
		{SettingID(0).String(), "UNKNOWN_0x0"},
		{SettingID(7).String(), "UNKNOWN_0x7"},
		{SettingID(0xffff).String(), "UNKNOWN_0xffff"},
	}
	for _, tt := range tests {
		if tt.got != tt.want {
			t.Errorf("got %q, want %q", tt.got, tt.want)
		}
	}
}

func TestFlags(t *testing.T) {
	f := FlagEndStream | FlagEndHeaders
	if !f.Has(FlagEndStream) || !f.Has(FlagEndStream|FlagEndHeaders) || f.Has(FlagEndStream|FlagPadded) {
		t.Errorf("Has is wrong for %#x", f)
	}
}

func TestErrorText(t *testing.T) {
	tests := []struct {
		err  *Error
		want string
	}{
		{&Error{Code: ProtocolError, Reason: "data_on_stream_zero", Detail: "DATA frame on stream 0, expected a stream"},
			"http2: connection error PROTOCOL_ERROR (data_on_stream_zero): DATA frame on stream 0, expected a stream"},
		{&Error{Code: FrameSizeError, StreamID: 3, Reason: "priority_size"},
			"http2: error on stream 3 FRAME_SIZE_ERROR (priority_size)"},
	}
	for _, tt := range tests {
		if got := tt.err.Error(); got != tt.want {
			t.Errorf("got  %q\nwant %q", got, tt.want)
		}
	}
}
