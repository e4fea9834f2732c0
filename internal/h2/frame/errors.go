// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package frame

import (
	"fmt"
	"strconv"
)

// Code is an HTTP/2 error code, as RST_STREAM and GOAWAY carry it (RFC 9113
// section 7). Unknown codes are legal and mean no more than INTERNAL_ERROR.
type Code uint32

// The error codes of RFC 9113 section 7.
const (
	NoError            Code = 0x0
	ProtocolError      Code = 0x1
	InternalError      Code = 0x2
	FlowControlError   Code = 0x3
	SettingsTimeout    Code = 0x4
	StreamClosed       Code = 0x5
	FrameSizeError     Code = 0x6
	RefusedStream      Code = 0x7
	Cancel             Code = 0x8
	CompressionError   Code = 0x9
	ConnectError       Code = 0xa
	EnhanceYourCalm    Code = 0xb
	InadequateSecurity Code = 0xc
	HTTP11Required     Code = 0xd
)

var codeNames = [...]string{
	"NO_ERROR", "PROTOCOL_ERROR", "INTERNAL_ERROR", "FLOW_CONTROL_ERROR",
	"SETTINGS_TIMEOUT", "STREAM_CLOSED", "FRAME_SIZE_ERROR", "REFUSED_STREAM",
	"CANCEL", "COMPRESSION_ERROR", "CONNECT_ERROR", "ENHANCE_YOUR_CALM",
	"INADEQUATE_SECURITY", "HTTP_1_1_REQUIRED",
}

// String returns the name of RFC 9113 section 7, or "UNKNOWN_0x2a".
func (c Code) String() string {
	if int64(c) < int64(len(codeNames)) {
		return codeNames[c]
	}
	return "UNKNOWN_0x" + strconv.FormatUint(uint64(c), 16)
}

// Error is a violation of the protocol by the peer. It is always used as
// *Error; functions here return a nil *Error for "no violation", so assign it to
// an error only after comparing it with nil.
type Error struct {
	// Code goes into the RST_STREAM or GOAWAY frame that answers.
	Code Code

	// StreamID is the stream that the error ends. 0 means the whole connection
	// (RFC 9113 section 5.4).
	StreamID uint32

	// Reason is a short stable name such as "data_on_stream_zero", fit for a
	// metric label. The set of reasons is fixed; see docs/architecture/h2.md.
	Reason string

	// Detail says in words what was found and what was expected; one line.
	Detail string
}

var _ error = (*Error)(nil)

// Connection says whether the error ends the connection and not only a stream.
func (e *Error) Connection() bool { return e.StreamID == 0 }

// Error says scope, code, reason and detail in one line.
func (e *Error) Error() string {
	scope := "connection error"
	if !e.Connection() {
		scope = "error on stream " + strconv.FormatUint(uint64(e.StreamID), 10)
	}
	s := "http2: " + scope + " " + e.Code.String() + " (" + e.Reason + ")"
	if e.Detail != "" {
		s += ": " + e.Detail
	}
	return s
}

// connError returns an error that ends the connection.
func connError(c Code, reason, format string, args ...any) *Error {
	return &Error{Code: c, Reason: reason, Detail: fmt.Sprintf(format, args...)}
}

// streamError returns an error that ends the stream id only.
func streamError(id uint32, c Code, reason, format string, args ...any) *Error {
	return &Error{Code: c, StreamID: id, Reason: reason, Detail: fmt.Sprintf(format, args...)}
}
