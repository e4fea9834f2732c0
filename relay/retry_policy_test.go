// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package relay_test

import (
	"bytes"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"
	"google.golang.org/grpc/codes"

	"github.com/manifold-grpc/manifold/internal/rawpeer"
	"github.com/manifold-grpc/manifold/relay"
)

// failing answers the first fails requests with what fail writes, at the end of the request, and all others with success. It
// notes the requests.
type failing struct {
	fails int
	fail  func(p *rawpeer.Peer, id uint32) error

	mu    sync.Mutex
	seen  []rawpeer.Frame
	times []time.Time
}

func (s *failing) play(p *rawpeer.Peer) {
	p.Refill = true
	heads := map[uint32]rawpeer.Frame{}
	frames(func(p *rawpeer.Peer, f rawpeer.Frame) error {
		if f.Type == http2.FrameHeaders {
			heads[f.StreamID] = f
		}
		if f.StreamID == 0 || !f.End() {
			return nil
		}
		s.mu.Lock()
		s.seen, s.times = append(s.seen, heads[f.StreamID]), append(s.times, time.Now())
		n := len(s.seen)
		s.mu.Unlock()
		if n <= s.fails {
			return s.fail(p, f.StreamID)
		}
		return p.Headers(f.StreamID, true, rawpeer.TrailersOnly("0", "")...)
	})(p)
}

func (s *failing) requests() []rawpeer.Frame {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.seen)
}

// always retries up to max times, after a pause; it notes what it is asked.
func always(max int, pause time.Duration, asked *[]relay.FailedAttempt) func(*relay.Call, relay.FailedAttempt) (time.Duration, bool) {
	var mu sync.Mutex
	return func(_ *relay.Call, a relay.FailedAttempt) (time.Duration, bool) {
		mu.Lock()
		defer mu.Unlock()
		*asked = append(*asked, a)
		return pause, a.Retries < max
	}
}

// A failure before the response is tried again as the policy says: the request whole, with the header that counts, and the
// client sees the last attempt alone.
func TestRetryPolicy(t *testing.T) {
	unavailable := func(p *rawpeer.Peer, id uint32) error {
		return p.Headers(id, true, append(rawpeer.TrailersOnly("14", "not now"), "grpc-retry-pushback-ms", "7")...)
	}
	tests := []struct {
		name     string
		fail     func(*rawpeer.Peer, uint32) error
		fails    int
		status   string
		code     codes.Code
		reason   string
		pushback time.Duration
	}{
		{"trailers-only", unavailable, 2, "0", codes.Unavailable, "", 7 * time.Millisecond},
		{"more often than allowed", unavailable, 4, "14", codes.Unavailable, "", 7 * time.Millisecond},
		{"reset", func(p *rawpeer.Peer, id uint32) error { return p.Reset(id, http2.ErrCodeInternal) }, 2, "0", codes.Internal, relay.ReasonUpstreamReset, 0},
		{"no gRPC", func(p *rawpeer.Peer, id uint32) error {
			return p.Headers(id, false, ":status", "503", "content-type", "text/html")
		}, 2, "0", codes.Unavailable, relay.ReasonUpstreamNotGRPC, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			up := &failing{fails: tt.fails, fail: tt.fail}
			var asked []relay.FailedAttempt
			var ended []relay.AttemptStats
			stats := make(chan relay.CallStats, 1)
			r := start(t, rigConfig{server: func(s *relay.Server) {
				s.Hooks.CallEnded = func(_ *relay.Call, st relay.CallStats) { stats <- st }
			}}, raw(t, up.play).Addr())
			r.backend.Retry = always(3, time.Millisecond, &asked)
			r.backend.AttemptEnded = func(_ *relay.Call, a relay.AttemptStats) { ended = append(ended, a) }
			c := rawDial(t, r.addr)
			check(t, c.Headers(1, false, rawpeer.Request("/a.B/C")...))
			check(t, c.Data(1, true, rawpeer.Message(bytes.Repeat([]byte("x"), 20_000))))
			if f := must(c.Until(rawpeer.Is(http2.FrameHeaders, 1)))(t); f.Field("grpc-status") != tt.status {
				t.Errorf("the client got %v, want status %s", f, tt.status)
			}
			s := wait(t, stats, "the stats")
			if s.RequestBytes != 20_005 {
				t.Errorf("stats %+v", s)
			}
			for i, f := range up.requests() {
				want := []string{"", "1", "2", "3"}[i]
				if got := f.Field("grpc-previous-rpc-attempts"); got != want {
					t.Errorf("attempt %d says %q previous attempts", i, got)
				}
			}
			if n := min(tt.fails, 4); len(asked) != n || asked[0].Code != tt.code || asked[0].Reason != tt.reason || asked[0].Pushback != tt.pushback {
				t.Errorf("asked %+v", asked)
			}
			if len(ended) != len(up.requests()) {
				t.Errorf("%d attempts ended, of %d", len(ended), len(up.requests()))
			}
		})
	}
}

// What must not be tried again is not: with a response that has begun, or a request that is not kept whole.
func TestRetryPolicyNotAsked(t *testing.T) {
	tests := []struct {
		name string
		body int
		fail func(*rawpeer.Peer, uint32) error
	}{
		{"response begun", 10, func(p *rawpeer.Peer, id uint32) error {
			if err := p.Headers(id, false, ":status", "200", "content-type", "application/grpc"); err != nil {
				return err
			}
			return p.Headers(id, true, "grpc-status", "14")
		}},
		{"large request", 40_000, func(p *rawpeer.Peer, id uint32) error {
			return p.Headers(id, true, rawpeer.TrailersOnly("14", "")...)
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			up := &failing{fails: 1, fail: tt.fail}
			var asked []relay.FailedAttempt
			r := start(t, rigConfig{}, raw(t, up.play).Addr())
			r.backend.Retry = always(3, 0, &asked)
			c := rawDial(t, r.addr)
			c.Refill = true
			check(t, c.Headers(1, false, rawpeer.Request("/a.B/C")...))
			check(t, c.Data(1, true, rawpeer.Message(make([]byte, tt.body))))
			f := must(c.Until(func(f rawpeer.Frame) bool { return f.Type == http2.FrameHeaders && f.End() }))(t)
			if f.Field("grpc-status") != "14" || len(asked) > 0 || len(up.requests()) != 1 {
				t.Errorf("the client got %v, the policy was asked %v, %d requests", f, asked, len(up.requests()))
			}
		})
	}
}

// The pause is kept, data that comes meanwhile is sent, and a call whose time would be up fails at once with what it has.
func TestRetryPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		up := &failing{fails: 1, fail: func(p *rawpeer.Peer, id uint32) error {
			return p.Headers(id, true, rawpeer.TrailersOnly("14", "")...)
		}}
		var asked []relay.FailedAttempt
		m := inMemory(t, rigConfig{}, nil, up.play)
		m.backend.Retry = always(1, 3*time.Second, &asked)
		c := m.client(t)
		check(t, c.Headers(1, true, rawpeer.Request("/a.B/C")...))
		if f := must(c.Until(rawpeer.Is(http2.FrameHeaders, 1)))(t); f.Field("grpc-status") != "0" {
			t.Errorf("the client got %v", f)
		}
		if pause := up.times[1].Sub(up.times[0]); pause != 3*time.Second {
			t.Errorf("pause of %v", pause)
		}

		up.mu.Lock()
		up.fails = 100
		up.mu.Unlock()
		began := time.Now()
		check(t, c.Headers(3, true, rawpeer.Request("/a.B/C", "grpc-timeout", "2S")...))
		if f := must(c.Until(rawpeer.Is(http2.FrameHeaders, 3)))(t); f.Field("grpc-status") != "14" || time.Since(began) > 0 {
			t.Errorf("the client got %v after %v", f, time.Since(began))
		}
		// A client that gives up in the pause leaves nothing behind.
		check(t, c.Headers(5, true, rawpeer.Request("/a.B/C")...))
		time.Sleep(time.Second)
		check(t, c.Reset(5, http2.ErrCodeCancel))
		time.Sleep(time.Minute)
		if n := len(up.requests()); n != 4 || m.InFlight() != 0 {
			t.Errorf("%d requests, %d calls in flight", n, m.InFlight())
		}
	})
}

// An endpoint that answers nothing at all is left in peace while its connection lives on, and used again
// as soon as it answers.
func TestSilentEndpoint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var states []relay.State
		m := inMemory(t, rigConfig{endpoint: relay.EndpointConfig{
			KeepaliveTime: 2 * time.Second, KeepaliveTimeout: 10 * time.Second,
			OnState: func(_ *relay.Endpoint, s relay.State, _ error) { states = append(states, s) },
		}}, nil, answering)
		e := m.backend.Endpoints[0]
		m.conns[0].Freeze()
		began := time.Now()
		c := m.client(t)
		check(t, c.Headers(1, true, rawpeer.Request("/a.B/C")...))
		if !e.WaitForStateChange(t.Context(), relay.Ready) || e.State() != relay.Silent || time.Since(began) > 5*time.Second {
			t.Fatalf("%v after %v", e.State(), time.Since(began))
		}
		m.conns[0].Thaw()
		if f := must(c.Until(rawpeer.Is(http2.FrameHeaders, 1)))(t); f.Field("grpc-status") != "0" {
			t.Errorf("the client got %v: a pause must not cost a call", f)
		}
		e.WaitForStateChange(t.Context(), relay.Silent)
		if want := []relay.State{relay.Ready, relay.Silent, relay.Ready}; !slices.Equal(states, want) || len(m.dialled()) != 1 {
			t.Errorf("states %v, want %v; %d connections", states, want, len(m.dialled()))
		}
	})
}

// A drained endpoint takes no calls, and runs those that are at it to their end.
func TestEndpointShutdown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := inMemory(t, rigConfig{}, nil, frames(func(p *rawpeer.Peer, f rawpeer.Frame) error {
			if f.Type != http2.FrameHeaders {
				return nil
			}
			time.Sleep(20 * time.Second)
			return p.Headers(f.StreamID, true, rawpeer.TrailersOnly("0", "")...)
		}))
		e := m.backend.Endpoints[0]
		c := m.client(t)
		check(t, c.Headers(1, true, rawpeer.Request("/a.B/C")...))
		synctest.Wait()
		began := time.Now()
		if err := e.Shutdown(t.Context()); err != nil || time.Since(began) != 20*time.Second || e.State() != relay.Closed {
			t.Errorf("Shutdown: %v after %v, %v", err, time.Since(began), e.State())
		}
		if f := must(c.Until(rawpeer.Is(http2.FrameHeaders, 1)))(t); f.Field("grpc-status") != "0" {
			t.Errorf("the client got %v", f)
		}
		check(t, c.Headers(3, true, rawpeer.Request("/a.B/C")...))
		if f := must(c.Until(rawpeer.Is(http2.FrameHeaders, 3)))(t); f.Field("grpc-status") != "14" {
			t.Errorf("after it the client got %v", f)
		}
	})
}
