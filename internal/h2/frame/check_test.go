// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package frame

import "testing"

// same compares errors but for Detail, and wants one of those to be there.
func same(got, want *Error) bool {
	if got == nil || want == nil {
		return got == want
	}
	return got.Code == want.Code && got.StreamID == want.StreamID && got.Reason == want.Reason && got.Detail != ""
}

func conn(c Code, reason string) *Error { return &Error{Code: c, Reason: reason} }

func TestCheck(t *testing.T) {
	const limit = MinMaxFrameSize
	tests := []struct {
		name string
		h    Header
		want *Error
	}{
		{"data", Header{limit, TypeData, 0, 1}, nil},
		{"empty data", Header{0, TypeData, FlagEndStream, 1}, nil},
		{"data on stream zero", Header{1, TypeData, 0, 0}, conn(ProtocolError, "data_on_stream_zero")},
		{"data too large", Header{limit + 1, TypeData, 0, 1}, conn(FrameSizeError, "frame_too_large")},

		{"headers", Header{limit, TypeHeaders, 0, 1}, nil},
		{"headers on stream zero", Header{1, TypeHeaders, 0, 0}, conn(ProtocolError, "headers_on_stream_zero")},
		{"headers too large", Header{limit + 1, TypeHeaders, 0, 1}, conn(FrameSizeError, "frame_too_large")},

		{"priority", Header{5, TypePriority, 0, 1}, nil},
		{"priority on stream zero", Header{5, TypePriority, 0, 0}, conn(ProtocolError, "priority_on_stream_zero")},
		{"short priority", Header{4, TypePriority, 0, 7}, &Error{Code: FrameSizeError, StreamID: 7, Reason: "priority_size"}},
		{"long priority", Header{6, TypePriority, 0, 7}, &Error{Code: FrameSizeError, StreamID: 7, Reason: "priority_size"}},

		{"rst", Header{4, TypeRSTStream, 0, 1}, nil},
		{"rst on stream zero", Header{4, TypeRSTStream, 0, 0}, conn(ProtocolError, "rst_stream_on_stream_zero")},
		{"short rst", Header{3, TypeRSTStream, 0, 1}, conn(FrameSizeError, "rst_stream_size")},
		{"long rst", Header{5, TypeRSTStream, 0, 1}, conn(FrameSizeError, "rst_stream_size")},

		{"settings", Header{12, TypeSettings, 0, 0}, nil},
		{"empty settings", Header{0, TypeSettings, 0, 0}, nil},
		{"settings ack", Header{0, TypeSettings, FlagAck, 0}, nil},
		{"settings on stream", Header{0, TypeSettings, 0, 1}, conn(ProtocolError, "settings_on_stream")},
		{"settings ack with payload", Header{6, TypeSettings, FlagAck, 0}, conn(FrameSizeError, "settings_ack_size")},
		{"settings of odd size", Header{7, TypeSettings, 0, 0}, conn(FrameSizeError, "settings_size")},

		{"push promise", Header{4, TypePushPromise, 0, 1}, nil},
		{"push promise on stream zero", Header{4, TypePushPromise, 0, 0}, conn(ProtocolError, "push_promise_on_stream_zero")},
		{"short push promise", Header{3, TypePushPromise, 0, 1}, conn(FrameSizeError, "push_promise_size")},

		{"ping", Header{8, TypePing, FlagAck, 0}, nil},
		{"ping on stream", Header{8, TypePing, 0, 1}, conn(ProtocolError, "ping_on_stream")},
		{"short ping", Header{7, TypePing, 0, 0}, conn(FrameSizeError, "ping_size")},
		{"long ping", Header{9, TypePing, 0, 0}, conn(FrameSizeError, "ping_size")},

		{"goaway", Header{8, TypeGoAway, 0, 0}, nil},
		{"goaway with debug data", Header{100, TypeGoAway, 0, 0}, nil},
		{"goaway on stream", Header{8, TypeGoAway, 0, 1}, conn(ProtocolError, "goaway_on_stream")},
		{"short goaway", Header{7, TypeGoAway, 0, 0}, conn(FrameSizeError, "goaway_size")},

		{"window update on connection", Header{4, TypeWindowUpdate, 0, 0}, nil},
		{"window update on stream", Header{4, TypeWindowUpdate, 0, 1}, nil},
		{"short window update", Header{3, TypeWindowUpdate, 0, 1}, conn(FrameSizeError, "window_update_size")},
		{"long window update", Header{5, TypeWindowUpdate, 0, 0}, conn(FrameSizeError, "window_update_size")},

		{"continuation", Header{limit, TypeContinuation, 0, 1}, nil},
		{"continuation on stream zero", Header{1, TypeContinuation, 0, 0}, conn(ProtocolError, "continuation_on_stream_zero")},

		{"extension", Header{limit, 0xa, 0xff, 0}, nil},
		{"extension on stream", Header{0, 0xff, 0, 1}, nil},
		{"extension too large", Header{limit + 1, 0xff, 0, 1}, conn(FrameSizeError, "frame_too_large")},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := tt.h.Check(limit); !same(got, tt.want) {
				t.Errorf("Check = %v, want %v", got, tt.want)
			}
		})
	}
}

func TestCheckLargerFrames(t *testing.T) {
	h := Header{MaxMaxFrameSize, TypeData, 0, 1}
	if err := h.Check(MaxMaxFrameSize); err != nil {
		t.Error(err)
	}
}

// TestCheckDetail looks at one message of each form as people read it.
func TestCheckDetail(t *testing.T) {
	tests := []struct {
		h    Header
		want string
	}{
		{Header{20000, TypeData, 0, 1}, "DATA frame of 20000 octets, at most 16384 allowed"},
		{Header{0, TypeData, 0, 0}, "DATA frame on stream 0, expected a stream"},
		{Header{8, TypePing, 0, 3}, "PING frame on stream 3, expected stream 0"},
		{Header{7, TypePing, 0, 0}, "PING frame of 7 octets, expected 8"},
		{Header{7, TypeGoAway, 0, 0}, "GOAWAY frame of 7 octets, expected at least 8"},
		{Header{4, TypePriority, 0, 1}, "PRIORITY frame of 4 octets, expected 5"},
		{Header{7, TypeSettings, 0, 0}, "SETTINGS frame of 7 octets, expected a multiple of 6"},
	}
	for _, tt := range tests {
		if got := tt.h.Check(MinMaxFrameSize); got == nil || got.Detail != tt.want {
			t.Errorf("%+v: %v, want %q", tt.h, got, tt.want)
		}
	}
}

func TestSettingCheck(t *testing.T) {
	tests := []struct {
		s    Setting
		want *Error
	}{
		{Setting{SettingHeaderTableSize, 0xffffffff}, nil},
		{Setting{SettingEnablePush, 1}, nil},
		{Setting{SettingEnablePush, 2}, conn(ProtocolError, "setting_not_boolean")},
		{Setting{SettingEnableConnectProtocol, 2}, conn(ProtocolError, "setting_not_boolean")},
		{Setting{SettingNoRFC7540Priorities, 2}, conn(ProtocolError, "setting_not_boolean")},
		{Setting{SettingMaxConcurrentStreams, 0xffffffff}, nil},
		{Setting{SettingInitialWindowSize, MaxWindow}, nil},
		{Setting{SettingInitialWindowSize, MaxWindow + 1}, conn(FlowControlError, "setting_initial_window_size")},
		{Setting{SettingMaxFrameSize, MinMaxFrameSize}, nil},
		{Setting{SettingMaxFrameSize, MaxMaxFrameSize}, nil},
		{Setting{SettingMaxFrameSize, MinMaxFrameSize - 1}, conn(ProtocolError, "setting_max_frame_size")},
		{Setting{SettingMaxFrameSize, MaxMaxFrameSize + 1}, conn(ProtocolError, "setting_max_frame_size")},
		{Setting{SettingMaxHeaderListSize, 0}, nil},
		{Setting{0xffff, 0xffffffff}, nil},
	}
	for _, tt := range tests {
		if got := tt.s.Check(); !same(got, tt.want) {
			t.Errorf("%v = %d: %v, want %v", tt.s.ID, tt.s.Value, got, tt.want)
		}
	}
}
