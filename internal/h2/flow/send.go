// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

// Package flow keeps the windows of HTTP/2 flow control (RFC 9113 section 6.9):
// what the peer lets us send, what we let the peer send, and how much memory the
// latter may cost in total.
//
// It is pure: no lock, no clock, no frame is written. Whoever owns a stream or a
// connection owns its windows and guards them; times are passed in. Only Budget
// is shared, and may be used by any goroutine.
package flow

import "github.com/manifold-grpc/manifold/internal/h2/frame"

// SendWindow is what the peer lets us send on a stream or on the connection. It
// goes below zero when the peer lowers SETTINGS_INITIAL_WINDOW_SIZE under what
// is on its way. The zero value lets nothing out.
type SendWindow struct {
	n   int64 // -MaxWindow to MaxWindow
	top int64 // the largest that it was, as far as SETTINGS left it so
}

// NewSendWindow returns a window of n octets, at most frame.MaxWindow: the peer's
// SETTINGS_INITIAL_WINDOW_SIZE, or frame.InitialWindow for the connection.
func NewSendWindow(n uint32) SendWindow {
	return SendWindow{n: int64(n), top: int64(n)}
}

// Available returns how many octets may be sent now, 0 if none.
func (w *SendWindow) Available() uint32 { return uint32(max(w.n, 0)) }

// Take uses up n octets, at most Available. The whole payload of a DATA frame
// counts, with its padding (section 6.9.1).
func (w *SendWindow) Take(n uint32) { w.n -= int64(n) }

// Add obeys a WINDOW_UPDATE for stream id, 0 being the connection. An increment
// of 0 is a PROTOCOL_ERROR (section 6.9) and a window above 2^31-1 octets a
// FLOW_CONTROL_ERROR (section 6.9.1), of the stream or of the connection.
func (w *SendWindow) Add(id, n uint32) *frame.Error {
	if n == 0 {
		return &frame.Error{Code: frame.ProtocolError, StreamID: id, Reason: "window_update_zero",
			Detail: "WINDOW_UPDATE by 0 octets, expected at least 1"}
	}
	if w.n+int64(n) > frame.MaxWindow {
		return &frame.Error{Code: frame.FlowControlError, StreamID: id, Reason: "window_overflow",
			Detail: "WINDOW_UPDATE takes the window above 2147483647 octets"}
	}
	w.n += int64(n)
	w.top = max(w.top, w.n)
	return nil
}

// MostlyOut reports whether more than half of the window, at its largest, was used and not
// granted again: the receiver can be expected to grant it soon, however it does that.
func (w *SendWindow) MostlyOut() bool { return 2*w.n < w.top }

// Adjust obeys a change of SETTINGS_INITIAL_WINDOW_SIZE by delta octets, for the
// window of every stream and not for that of the connection. A window above
// 2^31-1 octets is an error of the connection (section 6.9.2).
func (w *SendWindow) Adjust(delta int64) *frame.Error {
	if w.n+delta > frame.MaxWindow {
		return &frame.Error{Code: frame.FlowControlError, Reason: "window_overflow",
			Detail: "SETTINGS_INITIAL_WINDOW_SIZE takes a stream's window above 2147483647 octets"}
	}
	w.n += delta
	w.top = max(w.top+delta, w.n, 0)
	return nil
}
