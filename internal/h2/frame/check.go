// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package frame

// rule is what a frame type demands of its header alone.
type rule struct {
	onStream bool   // lives on a stream; else on the connection, stream 0
	min, max uint32 // payload; SETTINGS_MAX_FRAME_SIZE bounds it further
	misplace string // Reason when onStream is violated
	size     string // Reason when min or max is
}

// anySize is the max of types that only SETTINGS_MAX_FRAME_SIZE bounds.
const anySize = MaxMaxFrameSize

// rules is indexed by Type. Padding and priority raise the minimum of DATA and
// HEADERS; Data and HeadersFragment see to that.
var rules = [...]rule{
	TypeData:         {true, 0, anySize, "data_on_stream_zero", ""},
	TypeHeaders:      {true, 0, anySize, "headers_on_stream_zero", ""},
	TypePriority:     {true, 5, 5, "priority_on_stream_zero", "priority_size"},
	TypeRSTStream:    {true, 4, 4, "rst_stream_on_stream_zero", "rst_stream_size"},
	TypeSettings:     {false, 0, anySize, "settings_on_stream", ""},
	TypePushPromise:  {true, 4, anySize, "push_promise_on_stream_zero", "push_promise_size"},
	TypePing:         {false, 8, 8, "ping_on_stream", "ping_size"},
	TypeGoAway:       {false, 8, anySize, "goaway_on_stream", "goaway_size"},
	TypeWindowUpdate: {true, 4, 4, "", "window_update_size"},
	TypeContinuation: {true, 0, anySize, "continuation_on_stream_zero", ""},
}

// Check applies every rule of RFC 9113 sections 4.2 and 6 that the header
// decides alone: the length against maxFrameSize (our SETTINGS_MAX_FRAME_SIZE)
// and against the type, and whether the type belongs on a stream or on the
// connection. It returns nil for a header that is in order, and for unknown
// types within maxFrameSize.
//
// After a stream error (only a PRIORITY of the wrong size) the payload is still
// to be skipped, and the connection goes on.
func (h Header) Check(maxFrameSize uint32) *Error {
	if h.Type <= TypeHeaders && h.StreamID != 0 && h.Length <= maxFrameSize {
		return nil // DATA and HEADERS are on a stream, and have nothing else to keep to
	}
	return h.check(maxFrameSize)
}

// check is Check without the short way for what comes most.
func (h Header) check(maxFrameSize uint32) *Error {
	// Section 4.2: FRAME_SIZE_ERROR. For frames that cannot alter the state of
	// the connection the section would allow a stream error; ending the
	// connection is allowed as well and spares reading up to 16 MiB of a peer
	// that ignores our settings.
	if h.Length > maxFrameSize {
		return connError(FrameSizeError, "frame_too_large",
			"%s frame of %d octets, at most %d allowed", h.Type, h.Length, maxFrameSize)
	}
	if !h.Type.Known() {
		return nil
	}
	r := &rules[h.Type]
	// WINDOW_UPDATE alone is at home on both.
	if h.Type != TypeWindowUpdate && r.onStream != (h.StreamID != 0) {
		return h.misplaced(r)
	}
	if h.Length < r.min || h.Length > r.max {
		return h.wrongSize(r)
	}
	if h.Type == TypeSettings {
		return h.checkSettings()
	}
	return nil
}

// misplaced reports a frame of a stream on stream 0 or the reverse.
func (h Header) misplaced(r *rule) *Error {
	if r.onStream {
		return connError(ProtocolError, r.misplace, "%s frame on stream 0, expected a stream", h.Type)
	}
	return connError(ProtocolError, r.misplace, "%s frame on stream %d, expected stream 0", h.Type, h.StreamID)
}

// wrongSize reports a length that the type forbids. Section 6.3 makes PRIORITY
// the exception: it cannot alter the connection, so only its stream ends.
func (h Header) wrongSize(r *rule) *Error {
	const format = "%s frame of %d octets, expected %s%d"
	least := ""
	if r.max != r.min {
		least = "at least "
	}
	if h.Type == TypePriority {
		return streamError(h.StreamID, FrameSizeError, r.size, format, h.Type, h.Length, least, r.min)
	}
	return connError(FrameSizeError, r.size, format, h.Type, h.Length, least, r.min)
}

// checkSettings applies section 6.5: an acknowledgement is empty, anything else
// is a whole number of parameters.
func (h Header) checkSettings() *Error {
	if h.Flags.Has(FlagAck) && h.Length != 0 {
		return connError(FrameSizeError, "settings_ack_size",
			"SETTINGS acknowledgement of %d octets, expected 0", h.Length)
	}
	if h.Length%settingLen != 0 {
		return connError(FrameSizeError, "settings_size",
			"SETTINGS frame of %d octets, expected a multiple of %d", h.Length, settingLen)
	}
	return nil
}
