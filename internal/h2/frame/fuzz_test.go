// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package frame

import (
	"bytes"
	"errors"
	"testing"

	"golang.org/x/net/http2"
)

// FuzzFrame reads one frame with this package and with an independent framer,
// and compares what they make of it.
func FuzzFrame(f *testing.F) {
	for _, p := range [][]byte{
		AppendSettings(nil, Setting{SettingInitialWindowSize, 1 << 20}),
		AppendSettingsAck(nil),
		AppendPing(nil, false, [8]byte{1}),
		AppendRST(nil, 1, Cancel),
		AppendGoAway(nil, 1, NoError, []byte("debug")),
		AppendWindowUpdate(nil, 1, 1),
		AppendWindowUpdate(nil, 0, 0),
		append(AppendHeader(nil, 5, TypeData, FlagPadded, 1), "\x02ab\x00\x00"...),
		append(AppendHeader(nil, 9, TypeHeaders, FlagPadded|FlagPriority|FlagEndHeaders, 1), "\x01\x00\x00\x00\x03\x01ab\x00"...),
		append(AppendHeader(nil, 5, TypePriority, 0, 1), "\x00\x00\x00\x01\x01"...),
		append(AppendHeader(nil, 2, TypeContinuation, 0, 1), "ab"...),
		append(AppendHeader(nil, 4, TypePushPromise, FlagEndHeaders, 1), "\x00\x00\x00\x02"...),
		append(AppendHeader(nil, 1, 0xbb, 0, 1), "x"...),
	} {
		f.Add(p)
	}
	f.Fuzz(func(t *testing.T, p []byte) {
		if len(p) < HeaderLen {
			return
		}
		h := ParseHeader(p)
		if back := AppendHeader(nil, int(h.Length), h.Type, h.Flags, h.StreamID); !bytes.Equal(back[:5], p[:5]) {
			t.Fatalf("header %x came back as %x", p[:HeaderLen], back)
		}
		if int(h.Length) > len(p)-HeaderLen {
			return
		}
		p = p[:HeaderLen+h.Length]
		ours := judge(h, p[HeaderLen:])
		theirs := refer(p)
		if (ours == nil) != (theirs == nil) && !known(h, p[HeaderLen:], ours) {
			t.Fatalf("%+v: we say %v, the reference %v", h, ours, theirs)
		}
	})
}

// judge applies everything that the package has for a frame.
func judge(h Header, p []byte) *Error {
	if err := h.Check(MinMaxFrameSize); err != nil {
		return err
	}
	var err *Error
	switch h.Type {
	case TypeData:
		_, err = Data(h, p)
	case TypeHeaders:
		_, _, _, err = HeadersFragment(h, p)
	case TypePriority:
		_, err = PriorityPayload(h.StreamID, p)
	case TypeRSTStream:
		RST(p)
	case TypeSettings:
		for s := range Settings(p) {
			if err = s.Check(); err != nil {
				break
			}
		}
	case TypePing:
		Ping(p)
	case TypeGoAway:
		GoAway(p)
	case TypeWindowUpdate:
		if WindowUpdate(p) == 0 {
			err = &Error{Code: ProtocolError, StreamID: h.StreamID}
		}
	}
	return err
}

// refer reads the frame with the reference.
func refer(p []byte) error {
	fr := http2.NewFramer(nil, bytes.NewReader(p))
	fr.AllowIllegalReads = true // the order of frames is not this package's
	fr.SetMaxReadFrameSize(MinMaxFrameSize)
	f, err := fr.ReadFrame()
	if err != nil {
		return err
	}
	if s, ok := f.(*http2.SettingsFrame); ok {
		return s.ForeachSetting(func(s http2.Setting) error { return s.Valid() })
	}
	if f.Header().StreamID == 0 && f.Header().Type == http2.FrameHeaders {
		return errors.New("headers on stream 0")
	}
	return nil
}

// known lists where the reference is laxer or differs by role.
func known(h Header, p []byte, ours *Error) bool {
	switch {
	case h.Type == TypePushPromise: // no parser here: nobody may push to us
		return true
	case !h.Type.Known(): // the reference knows extensions
		return true
	case ours == nil:
		return false
	case ours.Reason == "self_dependency", ours.Reason == "setting_not_boolean":
		return true
	}
	return false
}
