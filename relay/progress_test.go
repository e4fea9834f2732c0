// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package relay_test

import (
	"net"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"
	"google.golang.org/grpc/codes"

	"github.com/manifold-grpc/manifold/internal/rawpeer"
	"github.com/manifold-grpc/manifold/relay"
)

// A call that goes on for long is told of some time after its start and then at intervals, with the tag
// that Route gave it; one that ends before is not.
func TestCallProgress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		type report struct {
			path     string
			tag      any
			age      time.Duration
			messages int64
		}
		var mu sync.Mutex
		var reports []report
		m := inMemory(t, rigConfig{server: func(s *relay.Server) {
			route := s.Route
			s.Route = func(c *relay.Call) { c.SetTag(c.Method()); route(c) }
			s.Limits.KeepaliveTime = -1
			s.Hooks.CallProgress = func(c *relay.Call, st relay.CallStats) {
				mu.Lock()
				defer mu.Unlock()
				if st.Start != c.Start() || st.Attempts != 1 || c.Backend() == nil {
					t.Errorf("stats %+v", st)
				}
				reports = append(reports, report{c.Path(), c.Tag(), st.Duration.Truncate(time.Second), st.RequestMessages})
			}
			s.Hooks.ProgressAfter, s.Hooks.ProgressEvery = 5*time.Second, time.Minute
		}}, nil, frames(func(p *rawpeer.Peer, f rawpeer.Frame) error {
			if f.Type == http2.FrameHeaders && f.Field(":path") == "/a.B/Short" {
				return p.Headers(f.StreamID, true, rawpeer.TrailersOnly("0", "")...)
			}
			return nil
		}))
		c := m.client(t)
		check(t, c.Headers(1, false, rawpeer.Request("/a.B/Long")...))
		check(t, c.Frame(http2.FrameData, 0, 1, []byte{0, 0, 0, 0, 1, 'x'}))
		check(t, c.Headers(3, true, rawpeer.Request("/a.B/Short")...))
		must(c.Until(rawpeer.Is(http2.FrameHeaders, 3)))(t)
		check(t, c.Headers(5, true, rawpeer.Request("/a.B/Other")...))
		time.Sleep(70 * time.Second)
		check(t, c.Frame(http2.FrameRSTStream, 0, 5, []byte{0, 0, 0, 8}))
		time.Sleep(60 * time.Second)

		mu.Lock()
		defer mu.Unlock()
		var long, other []report
		for _, r := range reports {
			switch r.path {
			case "/a.B/Long":
				long = append(long, r)
			case "/a.B/Other":
				other = append(other, r)
			default:
				t.Errorf("report %+v", r)
			}
			if r.tag != r.path[len("/a.B/"):] {
				t.Errorf("tag %v", r.tag)
			}
		}
		if len(long) != 3 || len(other) != 2 {
			t.Fatalf("%d and %d reports, want 3 and 2: %+v", len(long), len(other), reports)
		}
		for i, want := range []time.Duration{5 * time.Second, 65 * time.Second, 125 * time.Second} {
			if d := long[i].age - want; d < 0 || d > 3*time.Second || long[i].messages != 1 {
				t.Errorf("report %d is %+v, want one after %v", i, long[i], want)
			}
		}
	})
}

// The time to the first response is noted where it is asked for.
func TestFirstResponse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stats := make(chan relay.CallStats, 2)
		m := inMemory(t, rigConfig{server: func(s *relay.Server) {
			s.Hooks.FirstResponse = true
			s.Hooks.CallEnded = func(_ *relay.Call, st relay.CallStats) { stats <- st }
		}}, nil, frames(func(p *rawpeer.Peer, f rawpeer.Frame) error {
			if f.Type != http2.FrameHeaders {
				return nil
			}
			time.Sleep(300 * time.Millisecond)
			if err := p.Headers(f.StreamID, false, rawpeer.Response()...); err != nil {
				return err
			}
			time.Sleep(time.Second)
			return p.Headers(f.StreamID, true, "grpc-status", "0")
		}))
		c := m.client(t)
		check(t, c.Headers(1, true, rawpeer.Request("/a.B/C")...))
		if st := <-stats; st.Code != codes.OK || st.FirstResponse != 300*time.Millisecond || st.Duration != 1300*time.Millisecond {
			t.Errorf("stats %+v", st)
		}
		check(t, c.Headers(3, true, rawpeer.Request("/a.B/C/D")...))
		if st := <-stats; st.FirstResponse != 0 {
			t.Errorf("stats %+v of a call without a response from the upstream", st)
		}
	})
}

// Useless frames are told of by their kind; WINDOW_UPDATE and PING are none.
func TestGlitchHook(t *testing.T) {
	kinds, closed := make(chan string, 100), make(chan struct{}, 1)
	r := start(t, rigConfig{server: func(s *relay.Server) {
		s.Hooks.ConnClosed = func(net.Addr, error) { closed <- struct{}{} }
		s.Hooks.Glitch = func(kind string) { kinds <- kind }
	}})
	p := rawDial(t, r.addr)
	check(t, p.Frame(http2.FrameWindowUpdate, 0, 0, []byte{0, 0, 0, 1}))
	check(t, p.Frame(http2.FramePriority, 0, 7, make([]byte, 5)))
	check(t, p.Frame(http2.FramePing, 0, 0, make([]byte, 8)))
	check(t, p.Data(0x7fffffff, false, nil)) // ends the connection, after all before it was told
	for _, want := range []string{"priority"} {
		if k := wait(t, kinds, want); k != want {
			t.Errorf("glitch %q, want %q", k, want)
		}
	}
	wait(t, closed, "the end of the connection")
	if n := len(kinds); n > 0 {
		t.Errorf("%d glitches more, the first of kind %q", n, <-kinds)
	}
}

// Connections that are made, fail and are lost are counted.
func TestEndpointCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := inMemory(t, rigConfig{}, func(n int) error {
			if n < 3 {
				return errBlackHole
			}
			return nil
		}, answering)
		e := m.backend.Endpoints[0]
		awaitReady(t, e)
		if c := e.Counts(); c != (relay.EndpointCounts{Connected: 1, Failed: 3}) {
			t.Errorf("counts %+v", c)
		}
		m.cut()
		synctest.Wait() // the loss is known: the endpoint waits to dial again or has
		awaitReady(t, e)
		if c := e.Counts(); c != (relay.EndpointCounts{Connected: 2, Failed: 3, Lost: 1}) {
			t.Errorf("counts %+v", c)
		}
	})
}

// Connections look at the clock once a second however often the memory is looked at.
func TestTicksWhileMemoryIsShort(t *testing.T) {
	defer debug.SetMemoryLimit(debug.SetMemoryLimit(1 << 50))
	synctest.Test(t, func(t *testing.T) {
		var ticks atomic.Int64
		m := inMemory(t, rigConfig{server: func(s *relay.Server) {
			s.Limits.MemoryShare = 1e-15 // all that there is, and more, is used
			s.Limits.KeepaliveTime = -1
			s.Hooks.CallProgress = func(*relay.Call, relay.CallStats) { ticks.Add(1) }
			s.Hooks.ProgressAfter, s.Hooks.ProgressEvery = time.Nanosecond, time.Nanosecond
		}}, nil, silent)
		c := m.client(t)
		check(t, c.Headers(1, false, rawpeer.Request("/a.B/Long")...)) // before the memory is looked at
		time.Sleep(20*time.Second + time.Millisecond)
		if n := ticks.Load(); n < 19 || n > 20 {
			t.Errorf("%d reports of a call in 20 s, want one a second", n)
		}
	})
}
