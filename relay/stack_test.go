// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package relay_test

import (
	"runtime"
	"runtime/metrics"
	"testing"

	"golang.org/x/net/http2"

	"github.com/manifold-grpc/manifold/internal/rawpeer"
	"github.com/manifold-grpc/manifold/relay"
)

// stacks returns the memory of all goroutines' stacks.
func stacks() int {
	runtime.GC()
	s := []metrics.Sample{{Name: "/memory/classes/heap/stacks:bytes"}}
	metrics.Read(s)
	return int(s[0].Value.Uint64())
}

// A goroutine keeps the stack of its deepest call, and most connections are idle: a connection's stays at 4 KiB,
// whatever calls of the usual kind went through it.
func TestStackOfConnection(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector needs more stack")
	}
	const warm, n = 50, 200
	b := raw(t, frames(func(p *rawpeer.Peer, f rawpeer.Frame) error {
		if f.Type != http2.FrameData {
			return nil
		}
		if err := p.Headers(f.StreamID, false, rawpeer.Response("x-leading", "1")...); err != nil || !f.End() {
			return err
		}
		if err := p.Data(f.StreamID, false, rawpeer.Message([]byte("answer"))); err != nil {
			return err
		}
		return p.Headers(f.StreamID, true, "grpc-status", "0")
	}))
	r := start(t, rigConfig{server: func(s *relay.Server) { s.ForwardedFor = true }}, b.Addr())
	before := 0
	for i := range warm + n {
		if i == warm {
			before = stacks()
		}
		c := rawDial(t, r.addr)
		for k := range 6 {
			id, end := streamID(k), k < 5 // the last stays open
			check(t, c.Headers(id, false, rawpeer.Request("/a.B/C", "x-metadata", "value", "grpc-timeout", "100S")...))
			check(t, c.Data(id, end, rawpeer.Message([]byte("question"))))
			must(c.Until(rawpeer.Is(http2.FrameHeaders, id)))(t)
			if end {
				must(c.Until(func(f rawpeer.Frame) bool { return f.StreamID == id && f.End() }))(t)
			}
		}
	}
	if each := (stacks() - before) / n; each > 6<<10 {
		t.Errorf("each connection takes %d octets of stack, expected one of 4096", each)
	}
}
