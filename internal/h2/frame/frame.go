// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

// Package frame knows the HTTP/2 frames of RFC 9113 as octets: their layout, the
// rules that a frame must obey by itself, and how to write them.
//
// It is pure: no connection, clock, goroutine or lock. Parsing is in place, so
// every slice it returns aliases the payload it was given and lives as long as
// that read buffer does. A reader takes the steps in this order:
//
//	h := frame.ParseHeader(buf)       // HeaderLen octets are there
//	if err := h.Check(max); err != nil {
//		// a connection error, or a stream error after which the payload is skipped
//	}
//	payload := buf[frame.HeaderLen:][:h.Length]
//	// then the function for h.Type: Data, HeadersFragment, Settings, ...
//
// The functions that take a payload rely on Check: they index without looking
// again at lengths that Check has established. Rules that need to know more than
// one frame (stream states, the order of HEADERS and CONTINUATION, windows, who
// is client and who is server) belong to the connection.
//
// All functions may be called from any goroutine; there is no shared state.
package frame

import (
	"encoding/binary"
	"strconv"
)

const (
	// HeaderLen is the size of every frame header (RFC 9113 section 4.1).
	HeaderLen = 9

	// TypeOffset is where in it the type lies.
	TypeOffset = 3

	// MinMaxFrameSize is the least and the initial SETTINGS_MAX_FRAME_SIZE
	// (RFC 9113 section 6.5.2): the payload every endpoint must accept.
	MinMaxFrameSize = 1 << 14

	// MaxMaxFrameSize is the greatest SETTINGS_MAX_FRAME_SIZE: what the 24-bit
	// length field can say.
	MaxMaxFrameSize = 1<<24 - 1

	// MaxWindow is the greatest flow-control window, and the greatest increment
	// (RFC 9113 section 6.9.1).
	MaxWindow = 1<<31 - 1

	// InitialWindow is the size of every window before SETTINGS and
	// WINDOW_UPDATE change it (RFC 9113 section 6.9.2).
	InitialWindow = 1<<16 - 1

	// MaxStreamID is the greatest stream identifier (RFC 9113 section 5.1.1).
	MaxStreamID = 1<<31 - 1

	// ClientPreface is what a client sends before its first frame (RFC 9113
	// section 3.4).
	ClientPreface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
)

// reservedBit is the top bit of stream identifiers, increments and
// dependencies. It has no meaning and is ignored on receipt.
const reservedBit = 1 << 31

// Type is the type of a frame. Values without a name here are extensions, which
// RFC 9113 section 5.5 says to ignore.
type Type uint8

// The frame types of RFC 9113 section 6.
const (
	TypeData         Type = 0x0
	TypeHeaders      Type = 0x1
	TypePriority     Type = 0x2
	TypeRSTStream    Type = 0x3
	TypeSettings     Type = 0x4
	TypePushPromise  Type = 0x5
	TypePing         Type = 0x6
	TypeGoAway       Type = 0x7
	TypeWindowUpdate Type = 0x8
	TypeContinuation Type = 0x9
)

var typeNames = [...]string{
	"DATA", "HEADERS", "PRIORITY", "RST_STREAM", "SETTINGS",
	"PUSH_PROMISE", "PING", "GOAWAY", "WINDOW_UPDATE", "CONTINUATION",
}

// Known says whether RFC 9113 defines the type. The others are ignored, but not
// between the frames of a header block (section 5.5).
func (t Type) Known() bool { return int(t) < len(typeNames) }

// String returns the name that RFC 9113 gives to the type, or "UNKNOWN_0x1f".
func (t Type) String() string {
	if t.Known() {
		return typeNames[t]
	}
	return "UNKNOWN_0x" + strconv.FormatUint(uint64(t), 16)
}

// Flags are the flags of a frame. The same bit means different things in
// different types, and unused bits are ignored on receipt.
type Flags uint8

// The flags of RFC 9113 section 6.
const (
	FlagEndStream  Flags = 0x1  // DATA, HEADERS
	FlagAck        Flags = 0x1  // SETTINGS, PING
	FlagEndHeaders Flags = 0x4  // HEADERS, PUSH_PROMISE, CONTINUATION
	FlagPadded     Flags = 0x8  // DATA, HEADERS, PUSH_PROMISE
	FlagPriority   Flags = 0x20 // HEADERS
)

// Has says whether all bits of v are set.
func (f Flags) Has(v Flags) bool { return f&v == v }

// Header is the fixed start of every frame.
type Header struct {
	Length   uint32 // of the payload, 24 bits
	Type     Type
	Flags    Flags
	StreamID uint32 // 31 bits; 0 is the connection itself
}

// ParseHeader reads the frame header at the start of p, which holds at least
// HeaderLen octets. Any octets are a header; Check judges it.
func ParseHeader(p []byte) Header {
	_ = p[HeaderLen-1]
	v := binary.BigEndian.Uint64(p)
	return Header{
		Length:   uint32(v >> 40),
		Type:     Type(v >> 32),
		Flags:    Flags(v >> 24),
		StreamID: (uint32(v)<<8 | uint32(p[HeaderLen-1])) &^ reservedBit,
	}
}
