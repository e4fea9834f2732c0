// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package frame

import (
	"encoding/binary"
	"slices"
)

// The functions of this file append whole frames, or a header alone, and do not
// judge their arguments: keeping to the peer's settings and to the rules of
// stream states is the connection's business. None allocates if dst has room.

// AppendHeader appends a frame header for a payload of length octets.
func AppendHeader(dst []byte, length int, t Type, f Flags, id uint32) []byte {
	n := len(dst)
	dst = slices.Grow(dst, HeaderLen)[:n+HeaderLen]
	PutHeader(dst[n:], length, t, f, id)
	return dst
}

// PutHeader writes a frame header over the first HeaderLen octets of dst, for
// payloads whose length is known only once they are written.
func PutHeader(dst []byte, length int, t Type, f Flags, id uint32) {
	_ = dst[HeaderLen-1]
	binary.BigEndian.PutUint64(dst, uint64(length)<<40|uint64(t)<<32|uint64(f)<<24|uint64(id>>8))
	dst[HeaderLen-1] = byte(id)
}

// AppendSettings appends a SETTINGS frame with the parameters in their order.
func AppendSettings(dst []byte, s ...Setting) []byte {
	dst = AppendHeader(dst, len(s)*settingLen, TypeSettings, 0, 0)
	for _, p := range s {
		dst = binary.BigEndian.AppendUint16(dst, uint16(p.ID))
		dst = binary.BigEndian.AppendUint32(dst, p.Value)
	}
	return dst
}

// AppendSettingsAck appends the acknowledgement of a SETTINGS frame.
func AppendSettingsAck(dst []byte) []byte {
	return AppendHeader(dst, 0, TypeSettings, FlagAck, 0)
}

// AppendPing appends a PING frame, or the answer to one that carried v.
func AppendPing(dst []byte, ack bool, v [8]byte) []byte {
	var f Flags
	if ack {
		f = FlagAck
	}
	return append(AppendHeader(dst, len(v), TypePing, f, 0), v[:]...)
}

// AppendRST appends a RST_STREAM frame.
func AppendRST(dst []byte, id uint32, code Code) []byte {
	dst = AppendHeader(dst, 4, TypeRSTStream, 0, id)
	return binary.BigEndian.AppendUint32(dst, uint32(code))
}

// AppendGoAway appends a GOAWAY frame; last is the highest stream that was or
// may still be worked on. debug is at most a line of text: the frame must fit
// into what the peer accepts.
func AppendGoAway(dst []byte, last uint32, code Code, debug []byte) []byte {
	dst = AppendHeader(dst, 8+len(debug), TypeGoAway, 0, 0)
	dst = binary.BigEndian.AppendUint32(dst, last)
	dst = binary.BigEndian.AppendUint32(dst, uint32(code))
	return append(dst, debug...)
}

// AppendWindowUpdate appends a WINDOW_UPDATE frame that adds n, 1 to MaxWindow,
// to the window of stream id or, for id 0, of the connection.
func AppendWindowUpdate(dst []byte, id, n uint32) []byte {
	dst = AppendHeader(dst, 4, TypeWindowUpdate, 0, id)
	return binary.BigEndian.AppendUint32(dst, n)
}
