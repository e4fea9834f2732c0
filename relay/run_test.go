// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package relay_test

import (
	"bytes"
	"encoding/binary"
	"testing"

	"golang.org/x/net/http2"
	"google.golang.org/grpc/codes"

	"github.com/manifold-grpc/manifold/internal/rawpeer"
	"github.com/manifold-grpc/manifold/relay"
)

// together returns DATA frames of a stream that are written at once.
func together(id uint32, end bool, messages ...[]byte) (out []byte) {
	for i, m := range messages {
		m = rawpeer.Message(m)
		h := make([]byte, 9, 9+len(m))
		binary.BigEndian.PutUint32(h, uint32(len(m))<<8|uint32(http2.FrameData))
		if end && i == len(messages)-1 {
			h[4] = byte(http2.FlagDataEndStream)
		}
		binary.BigEndian.PutUint32(h[5:], id)
		out = append(append(out, h...), m...)
	}
	return out
}

// runMessages are n messages of which no two are the same.
func runMessages(n int) (out [][]byte) {
	for i := range n {
		out = append(out, bytes.Repeat([]byte{byte(i)}, 10+i))
	}
	return out
}

// Messages that come together, each in a DATA frame of its own, are passed on in few frames and are counted one by one, in
// both directions, and before the response as after it.
func TestMessagesTogether(t *testing.T) {
	const n = 50
	b, events := played(t)
	ended := make(chan relay.CallStats, 1)
	r := start(t, rigConfig{server: func(s *relay.Server) {
		s.Hooks.CallEnded = func(_ *relay.Call, st relay.CallStats) { ended <- st }
	}}, b.Addr())
	c := rawDial(t, r.addr)
	check(t, c.Headers(1, false, rawpeer.Request("/a.B/C")...))
	head := wait(t, events, "the request")
	messages := runMessages(n)
	var whole []byte
	for _, m := range messages {
		whole = append(whole, rawpeer.Message(m)...)
	}
	// arrive takes frames until all messages are there. What comes together is joined, but input may end anywhere.
	arrive := func(next func() []byte) {
		t.Helper()
		var got []byte
		frames := 0
		for ; len(got) < len(whole); frames++ {
			got = append(got, next()...)
		}
		if !bytes.Equal(got, whole) || frames >= n {
			t.Fatalf("%d octets in %d frames, want %d in fewer than %d", len(got), frames, len(whole), n)
		}
	}
	atBackend := func() []byte { return wait(t, events, "a frame").Payload }
	check(t, c.Raw(together(1, false, messages...)))
	arrive(atBackend)
	check(t, head.Headers(head.StreamID, false, rawpeer.Response()...))
	must(c.Until(rawpeer.Is(http2.FrameHeaders, 1)))(t)
	check(t, c.Raw(together(1, true, messages...)))
	arrive(atBackend)
	check(t, head.Raw(together(head.StreamID, false, messages...)))
	check(t, head.Peer.Headers(head.StreamID, true, "grpc-status", "0"))
	arrive(func() []byte { return must(c.Until(rawpeer.Is(http2.FrameData, 1)))(t).Payload })
	must(c.Until(rawpeer.Is(http2.FrameHeaders, 1)))(t)
	if st := wait(t, ended, "the end"); st.RequestMessages != 2*n || st.ResponseMessages != n {
		t.Errorf("%d messages of the request and %d of the response, want %d and %d", st.RequestMessages, st.ResponseMessages, 2*n, n)
	}
}

// One of them that is over the limit ends the call.
func TestMessagesTogetherTooLarge(t *testing.T) {
	for _, responded := range []bool{false, true} {
		b, events := played(t)
		c, ended := upTo40(t, b.Addr())
		check(t, c.Headers(1, false, rawpeer.Request("/a.B/C")...))
		head := wait(t, events, "the request")
		if responded {
			check(t, head.Headers(head.StreamID, false, rawpeer.Response()...))
			must(c.Until(rawpeer.Is(http2.FrameHeaders, 1)))(t)
		}
		check(t, c.Raw(together(1, false, runMessages(50)...)))
		if st := wait(t, ended, "the end"); st.Code != codes.ResourceExhausted || st.Reason != relay.ReasonMessageTooLarge {
			t.Errorf("the call ended with %v, %q", st.Code, st.Reason)
		}
		for e := wait(t, events, "the reset"); e.Type != http2.FrameRSTStream; e = wait(t, events, "the reset") {
			if len(e.Payload) > 5+40 {
				t.Errorf("the backend got a message of %d octets", len(e.Payload)-5)
			}
		}
	}
}
