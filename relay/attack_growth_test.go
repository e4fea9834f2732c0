// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package relay_test

import (
	"io"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/manifold-grpc/manifold/internal/rawpeer"
)

// A spring is a backend that sends each caller zeros without end, as fast as its windows allow. It keeps nothing
// for that, and it is far away: its answers to PINGs take a while, so that windows grow.
type spring struct {
	*rawpeer.Peer
	conn    int64
	initial int64
	streams map[uint32]int64
}

var zeros [16 << 10]byte

// far is how long a spring's answers to PINGs take.
const far = 20 * time.Millisecond

func playSpring(p *rawpeer.Peer) {
	p.Mute, p.Patience = true, time.Hour
	s := &spring{Peer: p, conn: 65535, initial: 65535, streams: map[uint32]int64{}}
	if p.Greet() != nil {
		return
	}
	for {
		f, err := p.Read()
		if err != nil || s.on(f) != nil || s.pour() != nil {
			return
		}
	}
}

// on takes a frame.
func (s *spring) on(f rawpeer.Frame) error {
	switch f.Type {
	case http2.FrameHeaders:
		s.streams[f.StreamID] += s.initial
		return s.Headers(f.StreamID, false, rawpeer.Response()...)
	case http2.FrameRSTStream:
		delete(s.streams, f.StreamID)
	case http2.FrameWindowUpdate:
		if f.StreamID == 0 {
			s.conn += int64(f.Increment)
		} else {
			s.streams[f.StreamID] += int64(f.Increment)
		}
	case http2.FramePing:
		if !f.Flags.Has(http2.FlagPingAck) {
			time.AfterFunc(far, func() { s.Ping(true, [8]byte(f.Payload)) }) //nolint:errcheck // closed, then
		}
	case http2.FrameSettings:
		for _, x := range f.Settings {
			if x.ID == http2.SettingInitialWindowSize {
				s.initial = int64(x.Val)
			}
		}
		if !f.Flags.Has(http2.FlagSettingsAck) {
			return s.Frame(http2.FrameSettings, http2.FlagSettingsAck, 0, nil)
		}
	}
	return nil
}

// pour sends what the windows allow.
func (s *spring) pour() error {
	for id, window := range s.streams {
		for window > 0 && s.conn > 0 {
			n := min(window, s.conn, int64(len(zeros)))
			if err := s.Data(id, false, zeros[:n]); err != nil {
				return err
			}
			window -= n
			s.conn -= n
			s.streams[id] = window
		}
	}
	return nil
}

// A client that reads fast, so that its windows grow on connections to many endpoints, and then not at
// all: what lies here for it is bounded for the client, however many endpoints there are.
func TestAttackGrownWindows(t *testing.T) {
	const endpoints, read = 24, 200 << 20
	var addrs []string
	for range endpoints {
		addrs = append(addrs, raw(t, playSpring).Addr())
	}
	r := start(t, rigConfig{}, addrs...)
	p := rawDial(t, r.addr)
	check(t, p.Settings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1<<31 - 1}))
	check(t, p.WideOpen())
	before := liveHeap()
	for i := range 100 {
		check(t, p.Headers(streamID(i), true, rawpeer.Request("/a.B/C")...))
	}
	check(t, p.Conn.SetReadDeadline(time.Now().Add(2*patience)))
	if _, err := io.CopyN(io.Discard, p.Conn, int64(many(read))); err != nil {
		t.Fatal(err)
	}
	held := settled(t, r.Buffered)
	grown := liveHeap() - before
	t.Logf("%d streams to %d endpoints: %.1f MiB wait for the client that stopped reading, the heap grew by %.1f MiB",
		100, endpoints, float64(held)/(1<<20), float64(grown)/(1<<20))
	if bound := int64(100*64<<10 + 8<<20); held > bound {
		t.Errorf("%d octets wait, want at most the first windows of the streams and what one client's may grow by, %d", held, bound)
	}
	if grown > 32<<20 {
		t.Errorf("the heap grew by %d octets, want at most 32 MiB", grown)
	}
}
