// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package frame

import (
	"bytes"
	"testing"

	"golang.org/x/net/http2"
)

// reference writes frames with an independent implementation.
func reference(t *testing.T, write func(*http2.Framer) error) []byte {
	t.Helper()
	var buf bytes.Buffer
	if err := write(http2.NewFramer(&buf, nil)); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func TestAppend(t *testing.T) {
	v := [8]byte{1, 2, 3, 4, 5, 6, 7, 8}
	tests := []struct {
		name string
		got  []byte
		want func(*http2.Framer) error
	}{
		{"settings", AppendSettings(nil, Setting{SettingEnablePush, 0}, Setting{SettingMaxFrameSize, 1<<24 - 1}),
			func(f *http2.Framer) error {
				return f.WriteSettings(http2.Setting{ID: http2.SettingEnablePush}, http2.Setting{ID: http2.SettingMaxFrameSize, Val: 1<<24 - 1})
			}},
		{"no settings", AppendSettings(nil), func(f *http2.Framer) error { return f.WriteSettings() }},
		{"settings ack", AppendSettingsAck(nil), (*http2.Framer).WriteSettingsAck},
		{"ping", AppendPing(nil, false, v), func(f *http2.Framer) error { return f.WritePing(false, v) }},
		{"ping ack", AppendPing(nil, true, v), func(f *http2.Framer) error { return f.WritePing(true, v) }},
		{"rst", AppendRST(nil, 0x7ffffffe, Cancel), func(f *http2.Framer) error { return f.WriteRSTStream(0x7ffffffe, http2.ErrCodeCancel) }},
		{"goaway", AppendGoAway(nil, 9, EnhanceYourCalm, []byte("calm")),
			func(f *http2.Framer) error { return f.WriteGoAway(9, http2.ErrCodeEnhanceYourCalm, []byte("calm")) }},
		{"window update", AppendWindowUpdate(nil, 3, MaxWindow), func(f *http2.Framer) error { return f.WriteWindowUpdate(3, MaxWindow) }},
		{"header", append(AppendHeader(nil, 3, TypeData, FlagEndStream, 5), "abc"...),
			func(f *http2.Framer) error { return f.WriteData(5, true, []byte("abc")) }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if want := reference(t, tt.want); !bytes.Equal(tt.got, want) {
				t.Errorf("got  %x\nwant %x", tt.got, want)
			}
		})
	}
}

// TestAppendKeepsPrefix: every function appends.
func TestAppendKeepsPrefix(t *testing.T) {
	b := []byte("prefix")
	for name, got := range map[string][]byte{
		"AppendHeader":       AppendHeader(b, 0, 0, 0, 0),
		"AppendSettings":     AppendSettings(b),
		"AppendSettingsAck":  AppendSettingsAck(b),
		"AppendPing":         AppendPing(b, false, [8]byte{}),
		"AppendRST":          AppendRST(b, 1, 0),
		"AppendGoAway":       AppendGoAway(b, 0, 0, nil),
		"AppendWindowUpdate": AppendWindowUpdate(b, 0, 1),
	} {
		if !bytes.HasPrefix(got, b) || len(got) < len(b)+HeaderLen {
			t.Errorf("%s: %x", name, got)
		}
	}
}

func TestPutHeader(t *testing.T) {
	got := bytes.Repeat([]byte{0xee}, HeaderLen+1)
	PutHeader(got, 0x010203, TypePing, 0xff, MaxStreamID)
	want := append(AppendHeader(nil, 0x010203, TypePing, 0xff, MaxStreamID), 0xee)
	if !bytes.Equal(got, want) {
		t.Errorf("got %x, want %x", got, want)
	}
}

func TestNoAllocs(t *testing.T) {
	buf := make([]byte, 0, 256)
	n := testing.AllocsPerRun(100, func() {
		b := AppendSettings(buf, Setting{SettingEnablePush, 0}, Setting{SettingMaxFrameSize, MinMaxFrameSize})
		b = AppendWindowUpdate(AppendPing(AppendRST(b, 1, Cancel), true, [8]byte{}), 0, 1)
		for len(b) > 0 {
			h := ParseHeader(b)
			if h.Check(MinMaxFrameSize) != nil {
				t.Error("own frame refused")
			}
			p := b[HeaderLen:][:h.Length]
			if h.Type == TypeSettings {
				for s := range Settings(p) {
					if s.Check() != nil {
						t.Error("own setting refused")
					}
				}
			}
			b = b[HeaderLen+len(p):]
		}
	})
	if n != 0 {
		t.Errorf("%v allocations, want 0", n)
	}
}
