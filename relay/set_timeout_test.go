// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package relay_test

import (
	"context"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/manifold-grpc/manifold/relay"
)

// A Route function's timeout is the call's, towards the upstream as well, where the caller has none or a
// longer one.
func TestSetTimeout(t *testing.T) {
	tests := []struct {
		name   string
		set    time.Duration
		caller time.Duration // 0: none
		left   time.Duration // at most, at the upstream; 0: no deadline
	}{
		{"none", 0, 0, 0},
		{"negative", -1, 0, 0},
		{"the caller has none", 5 * time.Second, 0, 5 * time.Second},
		{"the caller's is longer", 5 * time.Second, patience, 5 * time.Second},
		{"the caller's is shorter", time.Hour, patience, patience},
	}
	lefts := make(chan time.Duration, 1)
	backend := serve(t, func(_ any, st grpc.ServerStream) error {
		left := time.Duration(0)
		if deadline, ok := st.Context().Deadline(); ok {
			left = time.Until(deadline)
		}
		lefts <- left
		return nil
	})
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := start(t, rigConfig{server: func(s *relay.Server) {
				forward := s.Route
				s.Route = func(c *relay.Call) { c.SetTimeout(tt.set); forward(c) }
			}}, backend)
			ctx, cancel := context.WithCancel(t.Context())
			if tt.caller > 0 {
				ctx, cancel = context.WithTimeout(t.Context(), tt.caller)
			}
			defer cancel()
			call(ctx, t, dial(t, r.addr)) //nolint:errcheck // the upstream tells
			if left := wait(t, lefts, "the call"); left > tt.left || tt.left > 0 && left < tt.left/2 {
				t.Errorf("%v left at the upstream, want nearly %v", left, tt.left)
			}
		})
	}
}

// call makes a call without messages, which ends somehow.
func call(ctx context.Context, t *testing.T, cc *grpc.ClientConn) error {
	t.Helper()
	st := must(cc.NewStream(ctx, bidi, "/a.B/C"))(t)
	check(t, st.CloseSend())
	var m []byte
	return st.RecvMsg(&m)
}

// A timeout that is over ends the call whatever its upstream does.
func TestSetTimeoutEnds(t *testing.T) {
	over := make(chan struct{})
	backend := serve(t, func(any, grpc.ServerStream) error {
		<-over // not the end of its context: the upstream's clock may be the faster one
		return nil
	})
	t.Cleanup(func() { close(over) })
	r := start(t, rigConfig{server: func(s *relay.Server) {
		forward := s.Route
		s.Route = func(c *relay.Call) { c.SetTimeout(20 * time.Millisecond); forward(c) }
	}}, backend)
	cc := dial(t, r.addr)
	for range 3 {
		if err := call(t.Context(), t, cc); status.Code(err) != codes.DeadlineExceeded {
			t.Errorf("error = %v, want DeadlineExceeded", err)
		}
	}
}

// What is set when the call is over changes nothing: Route may take its time, and the caller not.
func TestSetTimeoutLate(t *testing.T) {
	calls := make(chan *relay.Call, 1)
	ended := make(chan struct{}, 1)
	cfg := holding(calls)
	route := cfg.server
	cfg.server = func(s *relay.Server) {
		route(s)
		s.Hooks.CallEnded = func(*relay.Call, relay.CallStats) { ended <- struct{}{} }
	}
	r := start(t, cfg, serve(t, echo))
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	st := must(dial(t, r.addr).NewStream(ctx, bidi, "/a.B/C"))(t)
	check(t, st.CloseSend())
	c := wait(t, calls, "the call")
	cancel()
	var m []byte
	if err := st.RecvMsg(&m); status.Code(err) != codes.Canceled {
		t.Errorf("error = %v, want Canceled", err)
	}
	wait(t, ended, "its end")
	before, _ := c.Timeout()
	c.SetTimeout(1)
	if d, _ := c.Timeout(); d != before {
		t.Errorf("timeout = %v, want the caller's %v", d, before)
	}
}
