// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package h2

import (
	"bytes"
	"fmt"

	"golang.org/x/net/http2"

	"github.com/manifold-grpc/manifold/internal/h2/frame"
)

// A referee knows RFC 9113 from the peer's side of a connection. It judges what the
// connection under test sends by what its peer sent before, and keeps nothing
// but what the wire showed.
type referee struct {
	client  bool // the connection under test is a client
	streams map[uint32]*refStream
	lastID  uint32 // the highest that the client opened
	lastOut uint32 // of its GOAWAY

	// What the connection may send.
	window   int64         // on the connection
	settings []refSettings // sent by its peer, and not acknowledged
	acked    refSettings
	ackedN   int // how many were acknowledged
	pings    int
	out      []byte // of its peer: what is no whole frame yet

	// What its peer may send.
	peerWindow  int64 // on the connection
	peerInitial int64
	grantMax    int64 // no stream's window may be larger
}

// refSettings are the peer's SETTINGS that bound the connection.
type refSettings struct {
	window, maxFrame, maxStreams int64
}

type refStream struct {
	born       int   // SETTINGS frames that were in force when it was opened
	window     int64 // what the connection may send on it
	peerWindow int64 // what its peer may
	got        int   // octets of DATA
	ended      bool  // END_STREAM of the connection
	reset      bool  // RST_STREAM of the connection
	headers    bool  // a header block of the connection
	peerEnded  bool
	peerReset  bool
}

// open says whether either may still send something.
func (s *refStream) open() bool { return !s.reset && !s.peerReset && !(s.ended && s.peerEnded) }

func newReferee(client bool) *referee {
	return &referee{
		client: client, streams: map[uint32]*refStream{}, lastOut: 1 << 31,
		window: frame.InitialWindow, peerWindow: frame.InitialWindow, peerInitial: frame.InitialWindow,
		acked: refSettings{frame.InitialWindow, frame.MinMaxFrameSize, 1 << 31},
	}
}

// newStream notes a stream that is opened with the given settings in force.
func (r *referee) newStream(id uint32, in refSettings, n int) *refStream {
	s := &refStream{born: n, window: in.window, peerWindow: r.peerInitial}
	r.streams[id] = s
	return s
}

// sent notes octets that the peer sends. What makes no sense has no effect.
func (r *referee) sent(p []byte) {
	r.out = append(r.out, p...)
	r.out = bytes.TrimPrefix(r.out, []byte(frame.ClientPreface))
	for len(r.out) >= frame.HeaderLen {
		h := frame.ParseHeader(r.out)
		n := frame.HeaderLen + int(h.Length)
		if len(r.out) < n {
			return
		}
		if h.Check(frame.MinMaxFrameSize) == nil {
			r.sentFrame(h, r.out[frame.HeaderLen:n])
		}
		r.out = r.out[n:]
	}
}

func (r *referee) sentFrame(h frame.Header, p []byte) {
	s := r.streams[h.StreamID]
	end := h.Flags.Has(frame.FlagEndStream)
	switch h.Type {
	case frame.TypeSettings:
		r.sentSettings(h, p)
	case frame.TypePing:
		if !h.Flags.Has(frame.FlagAck) {
			r.pings++
		}
	case frame.TypeWindowUpdate:
		if n := int64(frame.WindowUpdate(p)); h.StreamID == 0 {
			r.window += n
		} else if s != nil {
			s.window += n
		}
	case frame.TypeHeaders:
		r.sentHeaders(h.StreamID, s, end)
	case frame.TypeData:
		r.peerWindow -= int64(h.Length)
		if s != nil {
			s.peerWindow -= int64(h.Length)
			s.peerEnded = s.peerEnded || end
		}
	case frame.TypeRSTStream:
		if s != nil {
			s.peerReset = true
		}
	}
}

func (r *referee) sentHeaders(id uint32, s *refStream, end bool) {
	if s == nil && !r.client {
		s = r.newStream(id, r.latest(), r.ackedN+len(r.settings))
		r.lastID = max(r.lastID, id)
	}
	if s != nil {
		s.peerEnded = s.peerEnded || end
	}
}

func (r *referee) sentSettings(h frame.Header, p []byte) {
	if h.Flags.Has(frame.FlagAck) {
		return
	}
	next := r.latest()
	for v := range frame.Settings(p) {
		switch v.ID {
		case frame.SettingInitialWindowSize:
			next.window = int64(v.Value)
		case frame.SettingMaxFrameSize:
			next.maxFrame = int64(v.Value)
		case frame.SettingMaxConcurrentStreams:
			next.maxStreams = int64(v.Value)
		}
	}
	r.settings = append(r.settings, next)
}

// size judges the length of a frame.
func (r *referee) size(f http2.Frame) string {
	if h := f.Header(); int64(h.Length) > r.acked.maxFrame {
		return fmt.Sprintf("%v of %d octets, the peer takes %d", h.Type, h.Length, r.acked.maxFrame)
	}
	return ""
}

// judge returns what is wrong with a frame of the connection, or "". end
// says that the frame, or its header block, ends the stream.
func (r *referee) judge(f http2.Frame, end bool) string {
	switch f := f.(type) {
	case *http2.DataFrame:
		return r.data(f)
	case *http2.HeadersFrame, *http2.ContinuationFrame:
		return r.headers(f.Header().StreamID, end)
	case *http2.RSTStreamFrame:
		return r.reset(f)
	case *http2.WindowUpdateFrame:
		return r.grant(f)
	case *http2.SettingsFrame:
		return r.ownSettings(f)
	case *http2.PingFrame:
		if f.IsAck() {
			if r.pings--; r.pings < 0 {
				return "answer to a PING that was not sent"
			}
		}
	case *http2.GoAwayFrame:
		if f.LastStreamID > r.lastOut {
			return fmt.Sprintf("GOAWAY %d after %d", f.LastStreamID, r.lastOut)
		}
		r.lastOut = f.LastStreamID
	}
	return ""
}

func (r *referee) data(f *http2.DataFrame) string {
	s := r.streams[f.StreamID]
	switch {
	case s == nil || !s.headers:
		return fmt.Sprintf("DATA on stream %d without a header block", f.StreamID)
	case s.ended || s.reset:
		return fmt.Sprintf("DATA on stream %d after its end", f.StreamID)
	}
	n := int64(f.Length)
	r.window -= n
	s.window -= n
	s.got += len(f.Data())
	s.ended = f.StreamEnded()
	if n > 0 && (r.window < 0 || s.window < 0) {
		return fmt.Sprintf("DATA of %d octets leaves window %d on stream %d and %d on the connection", n, s.window, f.StreamID, r.window)
	}
	return ""
}

func (r *referee) headers(id uint32, end bool) string {
	s := r.streams[id]
	switch {
	case r.client && s == nil:
		if id%2 == 0 || id <= r.lastID {
			return fmt.Sprintf("stream %d opened after %d", id, r.lastID)
		}
		r.lastID = id
		s = r.newStream(id, r.acked, r.ackedN)
		if n := r.openStreams(); int64(n) > r.acked.maxStreams {
			return fmt.Sprintf("%d streams open, %d allowed", n, r.acked.maxStreams)
		}
	case s == nil:
		return fmt.Sprintf("response on stream %d, which was not opened", id)
	case s.ended || s.reset:
		return fmt.Sprintf("HEADERS on stream %d after its end", id)
	case s.headers && !end:
		return fmt.Sprintf("second header block on stream %d without END_STREAM", id)
	}
	s.headers = true
	s.ended = end
	return ""
}

func (r *referee) openStreams() (n int) {
	for _, s := range r.streams {
		if s.open() {
			n++
		}
	}
	return n
}

func (r *referee) reset(f *http2.RSTStreamFrame) string {
	s := r.streams[f.StreamID]
	switch {
	case s == nil && f.StreamID%2 == 1 && f.StreamID < r.lastID:
		s = r.newStream(f.StreamID, r.acked, r.ackedN) // left out, and so closed
	case s == nil:
		return fmt.Sprintf("RST_STREAM on idle stream %d", f.StreamID)
	case s.reset:
		return fmt.Sprintf("second RST_STREAM on stream %d", f.StreamID)
	}
	s.reset = true
	return ""
}

// grant judges WINDOW_UPDATE: it must grant something, and no more than was agreed.
func (r *referee) grant(f *http2.WindowUpdateFrame) string {
	if f.StreamID == 0 {
		r.peerWindow += int64(f.Increment)
		return r.tooMuch(r.peerWindow, 0)
	}
	s := r.streams[f.StreamID]
	if s == nil || s.reset {
		return fmt.Sprintf("WINDOW_UPDATE on stream %d, which is not open", f.StreamID)
	}
	s.peerWindow += int64(f.Increment)
	return r.tooMuch(s.peerWindow, f.StreamID)
}

func (r *referee) tooMuch(window int64, id uint32) string {
	if window > frame.MaxWindow || r.grantMax > 0 && window > r.grantMax {
		return fmt.Sprintf("window of %d octets granted on stream %d, at most %d agreed", window, id, r.grantMax)
	}
	return ""
}

func (r *referee) ownSettings(f *http2.SettingsFrame) string {
	if !f.IsAck() {
		if v, ok := f.Value(http2.SettingInitialWindowSize); ok {
			for _, s := range r.streams {
				s.peerWindow += int64(v) - r.peerInitial
			}
			r.peerInitial = int64(v)
		}
		return ""
	}
	if len(r.settings) == 0 {
		return "acknowledgement of SETTINGS that were not sent"
	}
	next := r.settings[0]
	r.settings = r.settings[1:]
	for _, s := range r.streams {
		if s.born <= r.ackedN {
			s.window += next.window - r.acked.window
		}
	}
	r.acked = next
	r.ackedN++
	return ""
}

// latest returns the settings that the peer sent last.
func (r *referee) latest() refSettings {
	if n := len(r.settings); n > 0 {
		return r.settings[n-1]
	}
	return r.acked
}
