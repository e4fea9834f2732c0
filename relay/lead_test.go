// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package relay_test

import (
	"bytes"
	"testing"

	"golang.org/x/net/http2"
	"google.golang.org/grpc/codes"

	"github.com/manifold-grpc/manifold/internal/rawpeer"
	"github.com/manifold-grpc/manifold/relay"
)

// lead returns a request's header block and the first octets of its message, to be written at once.
func lead(id uint32, block, p []byte, end bool) []byte {
	var f http2.Flags
	if end {
		f = http2.FlagDataEndStream
	}
	out := appendFrame(nil, http2.FrameHeaders, http2.FlagHeadersEndHeaders, id, block)
	return appendFrame(out, http2.FrameData, f, id, p)
}

// What comes with a request's header block goes to the upstream once, however often the block came before, whether the request goes on after
// it or not, and once more if the upstream refuses the stream.
func TestLead(t *testing.T) {
	message := rawpeer.Message([]byte("what comes with the header block"))
	for name, tt := range map[string]struct {
		first, second []byte // nil: none
		refused       bool
	}{
		"all of it":        {message, nil, false},
		"the first of two": {message, message, false},
		"half of it":       {message[:9], message[9:], false},
		"part of a prefix": {message[:3], message[3:], false},
		"refused":          {message, nil, true},
		"refused, half":    {message[:9], message[9:], true},
	} {
		t.Run(name, func(t *testing.T) {
			b, events := played(t)
			r := start(t, rigConfig{}, b.Addr())
			c := rawDial(t, r.addr)
			block := steady(rawpeer.Request("/a.B/C")...)
			for id := uint32(1); id < 16; id += 2 {
				check(t, c.Raw(lead(id, block, tt.first, tt.second == nil)))
				head := wait(t, events, "the header block")
				arrives(t, events, tt.first, tt.second == nil)
				if tt.refused {
					check(t, head.Reset(head.StreamID, http2.ErrCodeRefusedStream))
					head = wait(t, events, "the header block of the second attempt")
					arrives(t, events, tt.first, tt.second == nil)
				}
				if tt.second != nil {
					check(t, c.Data(id, true, tt.second))
					arrives(t, events, tt.second, true)
				}
				check(t, head.Headers(head.StreamID, true, rawpeer.TrailersOnly("0", "")...))
				must(c.Until(rawpeer.Is(http2.FrameHeaders, id)))(t)
			}
		})
	}
}

// arrives takes the next frame, which is to be DATA with those octets.
func arrives(t *testing.T, events <-chan event, p []byte, end bool) {
	t.Helper()
	if f := wait(t, events, "DATA"); f.Type != http2.FrameData || !bytes.Equal(f.Payload, p) || f.End() != end {
		t.Fatalf("%v with %q arrives, want DATA with %q", f.Frame, f.Payload, p)
	}
}

// upTo40 returns a client's end to play by hand, of a relay that takes messages of up to 40 octets, and what its calls end with.
func upTo40(t *testing.T, backend string) (*rawpeer.Peer, <-chan relay.CallStats) {
	ended := make(chan relay.CallStats, 1)
	r := start(t, rigConfig{server: func(s *relay.Server) {
		s.Limits.MaxRequestMessage = 40
		s.Hooks.CallEnded = func(_ *relay.Call, st relay.CallStats) { ended <- st }
	}}, backend)
	return rawDial(t, r.addr), ended
}

// A message that is too large is seen before anything goes to the upstream.
func TestLeadTooLarge(t *testing.T) {
	b, events := played(t)
	c, ended := upTo40(t, b.Addr())
	block := steady(rawpeer.Request("/a.B/C")...)
	for id := uint32(1); id < 16; id += 2 {
		check(t, c.Raw(lead(id, block, rawpeer.Message(make([]byte, 41))[:20], false)))
		if st := wait(t, ended, "the end"); st.Code != codes.ResourceExhausted || st.Reason != relay.ReasonMessageTooLarge || st.Attempts != 0 {
			t.Errorf("the call ended with %v, %q, after %d attempts", st.Code, st.Reason, st.Attempts)
		}
	}
	select {
	case f := <-events:
		t.Errorf("the upstream got %v", f.Frame)
	default:
	}
}
