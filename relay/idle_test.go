// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package relay_test

import (
	"context"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/manifold-grpc/manifold/internal/rawpeer"
	"github.com/manifold-grpc/manifold/relay"
)

// idling is a relay in memory whose route sets an idle timeout of a minute, and what else route does.
func idling(t *testing.T, route func(*relay.Call), handler grpc.StreamHandler) (*memory, chan relay.CallStats) {
	stats := make(chan relay.CallStats, 10)
	m := inMemoryBefore(t, rigConfig{server: func(s *relay.Server) {
		forward := s.Route
		s.Route = func(c *relay.Call) {
			c.SetIdleTimeout(time.Minute)
			if route != nil {
				route(c)
			}
			forward(c)
		}
		s.Hooks.CallEnded = func(_ *relay.Call, st relay.CallStats) { stats <- st }
	}}, nil, func(l net.Listener) { serveOn(t, l, handler) })
	return m, stats
}

// saysNothing says nothing until its call is over.
func saysNothing(_ any, st grpc.ServerStream) error {
	<-st.Context().Done()
	return nil
}

// every sends a message each 40 seconds, ten times.
func every(send func() error) error {
	for range 10 {
		time.Sleep(40 * time.Second) // of a clock that jumps
		if err := send(); err != nil {
			return err
		}
	}
	return nil
}

// A call that is idle for too long ends; one of which something moves, either way, does not, and then it
// counts from there.
func TestIdleTimeout(t *testing.T) {
	tests := []struct {
		name    string
		handler grpc.StreamHandler
		client  func(grpc.ClientStream) error
		want    time.Duration
	}{
		{"from the start", saysNothing, nil, time.Minute},
		{"after the upstream's messages", func(srv any, st grpc.ServerStream) error {
			if err := every(func() error { return send(st, "m") }); err != nil {
				return err
			}
			return saysNothing(srv, st)
		}, nil, 400*time.Second + time.Minute},
		{"after the client's messages", saysNothing, func(st grpc.ClientStream) error {
			return every(func() error { return send(st, "m") })
		}, 400*time.Second + time.Minute},
		{"after the response's headers", func(srv any, st grpc.ServerStream) error {
			time.Sleep(40 * time.Second)
			if err := st.SendHeader(nil); err != nil {
				return err
			}
			return saysNothing(srv, st)
		}, nil, 100 * time.Second},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m, stats := idling(t, nil, tt.handler)
				st := must(m.channel(t).NewStream(t.Context(), bidi, "/a.B/C"))(t)
				if tt.client != nil {
					check(t, tt.client(st))
				}
				var err error
				for err == nil {
					_, err = recv(st)
				}
				s := <-stats
				if status.Code(err) != codes.DeadlineExceeded || !strings.Contains(err.Error(), "nothing moved for 1m0s") || s.Reason != relay.ReasonIdle {
					t.Errorf("error = %v, reason %s", err, s.Reason)
				}
				if s.Duration != tt.want {
					t.Errorf("it ended after %v, want %v", s.Duration, tt.want)
				}
			})
		})
	}
}

// A call that ends by itself, however late, has its own end.
func TestIdleTimeoutUnneeded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, _ := idling(t, nil, func(_ any, st grpc.ServerStream) error {
			return every(func() error { return send(st, "m") })
		})
		st := must(m.channel(t).NewStream(t.Context(), bidi, "/a.B/C"))(t)
		n, err := 0, error(nil)
		for ; err == nil; n++ {
			_, err = recv(st)
		}
		if err != io.EOF || n != 11 {
			t.Errorf("error = %v after %d messages", err, n-1)
		}
	})
}

// The deadline of a call and its idle timeout share a timer: what comes first ends it.
func TestIdleTimeoutAndDeadline(t *testing.T) {
	timeout := func(d time.Duration) func(*relay.Call) {
		return func(c *relay.Call) { c.SetTimeout(d) }
	}
	tests := []struct {
		name   string
		caller time.Duration // 0: none
		route  func(*relay.Call)
		reason string
		want   time.Duration
	}{
		{"the caller's first", 30 * time.Second, nil, relay.ReasonDeadline, 30 * time.Second},
		{"the caller's later", time.Hour, nil, relay.ReasonIdle, time.Minute},
		{"the caller's has no end", 90_000 * time.Hour, nil, relay.ReasonIdle, time.Minute},
		{"the route's first", 0, timeout(30 * time.Second), relay.ReasonDeadline, 30 * time.Second},
		{"the route's later", 0, timeout(time.Hour), relay.ReasonIdle, time.Minute},
		{"the route's last word", 0, func(c *relay.Call) { c.SetIdleTimeout(time.Second) }, relay.ReasonIdle, time.Second},
		{"no word", 0, func(c *relay.Call) { c.SetIdleTimeout(0) }, relay.ReasonIdle, time.Minute},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				over := make(chan struct{})
				m, stats := idling(t, tt.route, func(any, grpc.ServerStream) error { <-over; return nil })
				t.Cleanup(func() { close(over) })
				ctx, cancel := t.Context(), context.CancelFunc(func() {})
				if tt.caller > 0 {
					ctx, cancel = context.WithTimeout(ctx, tt.caller)
				}
				defer cancel()
				if err := call(ctx, t, m.channel(t)); status.Code(err) != codes.DeadlineExceeded {
					t.Errorf("error = %v", err)
				}
				// The client's clock is as fast as the relay's, and it may be the first to give up.
				if s := <-stats; s.Duration != tt.want || s.Reason != tt.reason && (tt.caller == 0 || s.Reason != relay.ReasonCanceled) {
					t.Errorf("it ended after %v with %s, want %v with %s", s.Duration, s.Reason, tt.want, tt.reason)
				}
			})
		})
	}
}

// Waiting for a connection is idle too.
func TestIdleTimeoutConnecting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stats := make(chan relay.CallStats, 1)
		m := inMemory(t, rigConfig{
			endpoint: relay.EndpointConfig{ConnectTimeout: time.Hour},
			server: func(s *relay.Server) {
				forward := s.Route
				s.Route = func(c *relay.Call) { c.SetIdleTimeout(time.Minute); forward(c) }
				s.Hooks.CallEnded = func(_ *relay.Call, st relay.CallStats) { stats <- st }
			},
		}, func(int) error { return errBlackHole }, silent)
		if err := call(t.Context(), t, m.channel(t)); status.Code(err) != codes.DeadlineExceeded {
			t.Errorf("error = %v", err)
		}
		if s := <-stats; s.Reason != relay.ReasonIdle || s.Duration != time.Minute {
			t.Errorf("it ended after %v with %s", s.Duration, s.Reason)
		}
	})
}

// A client that takes octets, however slowly, keeps a call from being idle, although nothing arrives any more.
func TestIdleTimeoutSlowReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, stats := idling(t, nil, func(srv any, st grpc.ServerStream) error {
			if err := send(st, strings.Repeat("x", 120_000)); err != nil { // the client's window has half of it
				return err
			}
			return saysNothing(srv, st)
		})
		c := m.client(t)
		check(t, c.WideOpen())
		check(t, c.Headers(1, false, rawpeer.Request("/a.B/C")...))
		for range 5 {
			time.Sleep(40 * time.Second)
			check(t, c.Window(1, 10_000))
		}
		if s := <-stats; s.Reason != relay.ReasonIdle || s.Duration != 260*time.Second {
			t.Errorf("it ended after %v with %s", s.Duration, s.Reason)
		}
	})
}

// An upstream that takes octets, however slowly, does so too.
func TestIdleTimeoutSlowUpstream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stats := make(chan relay.CallStats, 1)
		m := inMemory(t, rigConfig{server: func(s *relay.Server) {
			forward := s.Route
			s.Route = func(c *relay.Call) { c.SetIdleTimeout(time.Minute); forward(c) }
			s.Hooks.CallEnded = func(_ *relay.Call, st relay.CallStats) { stats <- st }
		}}, nil, frames(func(p *rawpeer.Peer, f rawpeer.Frame) error {
			if f.Type != http2.FrameHeaders {
				return nil
			}
			if err := p.WideOpen(); err != nil {
				return err
			}
			for range 5 {
				time.Sleep(40 * time.Second)
				if err := p.Window(f.StreamID, 10_000); err != nil {
					return err
				}
			}
			return nil
		}))
		st := must(m.channel(t).NewStream(t.Context(), bidi, "/a.B/C"))(t)
		check(t, send(st, strings.Repeat("x", 120_000))) // the upstream's window has half of it
		if s := <-stats; s.Reason != relay.ReasonIdle || s.Duration != 260*time.Second {
			t.Errorf("it ended after %v with %s", s.Duration, s.Reason)
		}
	})
}
