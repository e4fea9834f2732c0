// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package frame

import "encoding/binary"

// priorityLen is the size of the priority fields (RFC 9113 section 6.3).
const priorityLen = 5

// Priority is the deprecated priority signal of PRIORITY and HEADERS (RFC 9113
// section 5.3.2). It is checked and has no effect.
type Priority struct {
	StreamDep uint32 // 31 bits
	Exclusive bool
	Weight    uint8 // as on the wire: 0 stands for weight 1
}

// Data returns the payload of a DATA frame without its padding. data aliases p.
// p is the whole payload of h, and flow control counts all of it: h.Length, not
// len(data) (RFC 9113 section 6.9.1).
func Data(h Header, p []byte) (data []byte, err *Error) {
	if !h.Flags.Has(FlagPadded) {
		return p, nil
	}
	return unpad(h, p, "data_padding")
}

// HeadersFragment returns what a HEADERS frame holds of its header block,
// without padding and priority; fragment aliases p. prio is valid if hasPrio.
//
// A stream that depends on itself is a stream error (RFC 9113 section 5.3.1 by
// way of RFC 7540). fragment is returned with it, because the connection must
// decode the block all the same to keep the compression state in step. With a
// connection error fragment is nil.
func HeadersFragment(h Header, p []byte) (fragment []byte, prio Priority, hasPrio bool, err *Error) {
	fragment = p
	if h.Flags.Has(FlagPadded) {
		if fragment, err = unpad(h, p, "headers_padding"); err != nil {
			return nil, Priority{}, false, err
		}
	}
	if !h.Flags.Has(FlagPriority) {
		return fragment, Priority{}, false, nil
	}
	if len(fragment) < priorityLen {
		return nil, Priority{}, false, connError(FrameSizeError, "headers_size",
			"HEADERS frame with %d octets left for its priority, expected at least %d", len(fragment), priorityLen)
	}
	prio, err = PriorityPayload(h.StreamID, fragment)
	return fragment[priorityLen:], prio, true, err
}

// unpad removes the pad length octet and the padding (RFC 9113 section 6.1).
// The content of the padding is not looked at, as the section allows.
func unpad(h Header, p []byte, reason string) ([]byte, *Error) {
	if len(p) == 0 {
		return nil, connError(FrameSizeError, reason, "padded %s frame without a pad length", h.Type)
	}
	pad, rest := int(p[0]), p[1:]
	if pad > len(rest) {
		return nil, connError(ProtocolError, reason,
			"%s frame of %d octets claims %d of padding", h.Type, len(p), pad)
	}
	return rest[:len(rest)-pad], nil
}

// PriorityPayload reads the payload of a PRIORITY frame on streamID, or the
// same fields at the start of HEADERS. p holds at least 5 octets. A stream that
// depends on itself is a stream error (RFC 7540 section 5.3.1).
func PriorityPayload(streamID uint32, p []byte) (Priority, *Error) {
	v := binary.BigEndian.Uint32(p)
	prio := Priority{
		StreamDep: v &^ reservedBit,
		Exclusive: v&reservedBit != 0,
		Weight:    p[4],
	}
	if prio.StreamDep == streamID {
		return prio, streamError(streamID, ProtocolError, "self_dependency",
			"stream depends on itself")
	}
	return prio, nil
}

// RST reads the payload of a RST_STREAM frame.
func RST(p []byte) Code { return Code(binary.BigEndian.Uint32(p)) }

// Ping reads the payload of a PING frame.
func Ping(p []byte) (v [8]byte) { return [8]byte(p) }

// GoAway reads the payload of a GOAWAY frame. debug aliases p; it is text for
// people, of any content and length, and comes from the peer: bound and quote it
// before logging.
func GoAway(p []byte) (last uint32, code Code, debug []byte) {
	last = binary.BigEndian.Uint32(p) &^ reservedBit
	return last, Code(binary.BigEndian.Uint32(p[4:])), p[8:]
}

// WindowUpdate reads the payload of a WINDOW_UPDATE frame. An increment of 0 is
// an error of the stream or, on stream 0, of the connection (RFC 9113 section
// 6.9); flow.SendWindow reports it with the overflows.
func WindowUpdate(p []byte) uint32 { return binary.BigEndian.Uint32(p) &^ reservedBit }
