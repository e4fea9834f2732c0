// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package relay_test

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/manifold-grpc/manifold/internal/rawpeer"
	"github.com/manifold-grpc/manifold/relay"
)

// holding has calls wait in a channel until the test decides.
func holding(calls chan<- *relay.Call) rigConfig {
	return rigConfig{server: func(s *relay.Server) { s.Route = func(c *relay.Call) { calls <- c } }}
}

// A decision may come late and from another goroutine, whatever of the request has
// arrived meanwhile: nothing is lost, and nothing more is taken than a window.
func TestRouteLater(t *testing.T) {
	tests := []struct {
		name     string
		messages []int
		end      bool // the client has ended its side before the decision
	}{
		{"nothing yet", nil, false},
		{"only the end", nil, true},
		{"one message", []int{10}, true},
		{"some messages, more to come", []int{0, 100, 5000}, false},
		{"a window full", []int{30_000, 30_000, 5000}, true},
		{"more than a window", []int{100_000, 200_000}, true},
	}
	calls := make(chan *relay.Call, 1)
	r := start(t, holding(calls), serve(t, echo))
	cc := dial(t, r.addr)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			st := must(cc.NewStream(within(t), bidi, "/a.B/C"))(t)
			sent := make(chan struct{})
			go func() { // ends with the stream
				defer close(sent)
				for _, n := range tt.messages {
					send(st, strings.Repeat("m", n)) //nolint:errcheck // the answers tell
				}
				if tt.end {
					st.CloseSend() //nolint:errcheck // always nil
				}
			}()
			c := wait(t, calls, "the call")
			if total := sum(tt.messages); total < 60_000 {
				wait(t, sent, "the request to be under way")
			}
			if !c.Forward(r.backend) {
				t.Error("Forward was refused")
			}
			wait(t, sent, "the request to be taken")
			for i, n := range tt.messages {
				if m := must(recv(st))(t); len(m) != n {
					t.Errorf("message %d has %d octets, want %d", i, len(m), n)
				}
			}
			if !tt.end {
				check(t, send(st, "after"))
				if m := must(recv(st))(t); m != "after" {
					t.Errorf("got %q", m)
				}
				check(t, st.CloseSend())
			}
			if _, err := recv(st); err != io.EOF {
				t.Error(err)
			}
		})
	}
}

func sum(ns []int) (total int) {
	for _, n := range ns {
		total += n
	}
	return total
}

// While a decision is awaited the client gets no more than its window: what is held has a bound.
func TestRouteLaterHoldsAWindow(t *testing.T) {
	calls := make(chan *relay.Call, 1)
	r := start(t, holding(calls), serve(t, echo))
	c := rawDial(t, r.addr)
	check(t, c.Headers(1, false, rawpeer.Request("/a.B/C")...))
	call := wait(t, calls, "the call")
	for range 4 {
		check(t, c.Data(1, false, make([]byte, 16<<10))) // the whole window of 64 KiB
	}
	check(t, c.Ping(false, [8]byte{1}))
	f := must(c.Until(func(f rawpeer.Frame) bool {
		return f.Type == http2.FramePing || f.Type == http2.FrameWindowUpdate && f.StreamID == 1
	}))(t)
	if f.Type != http2.FramePing {
		t.Errorf("a held stream was granted %d octets", f.Increment)
	}
	call.Forward(r.backend)
	if f := must(c.Until(rawpeer.Is(http2.FrameWindowUpdate, 1)))(t); f.Increment < 16<<10 {
		t.Errorf("after the decision %d octets were granted", f.Increment)
	}
}

func TestReject(t *testing.T) {
	st, err := status.New(codes.PermissionDenied, "not you: 50% 世").WithDetails(&errdetails.ErrorInfo{Reason: "WHY", Domain: "test"})
	check(t, err)
	stats := make(chan relay.CallStats, 10)
	later := false
	r := start(t, rigConfig{server: func(s *relay.Server) {
		s.Hooks.CallEnded = func(_ *relay.Call, st relay.CallStats) { stats <- st }
		s.Route = func(c *relay.Call) {
			reject := func() {
				if !c.Reject(st, "why") || c.Reject(st, "again") || c.Forward(nil) {
					t.Error("a call is decided once")
				}
			}
			if later {
				time.AfterFunc(time.Millisecond, reject)
			} else {
				reject()
			}
		}
	}})
	cc := dial(t, r.addr)
	for _, later = range []bool{false, true} {
		_, err := unary(within(t), cc, "/a.B/C", strings.Repeat("x", 1000))
		got := status.Convert(err)
		if got.Code() != codes.PermissionDenied || got.Message() != st.Message() || len(got.Details()) != 1 {
			t.Errorf("later %t: got %v", later, err)
		}
		if s := wait(t, stats, "the end"); s.Code != codes.PermissionDenied || s.Reason != "why" || s.Endpoint != "" || s.Attempts != 0 {
			t.Errorf("later %t: stats %+v", later, s)
		}
	}
}

func TestRejectWithoutStatus(t *testing.T) {
	r := start(t, rigConfig{server: func(s *relay.Server) {
		s.Route = func(c *relay.Call) { c.Reject(nil, "") }
	}})
	if _, err := unary(within(t), dial(t, r.addr), "/a.B/C", "m"); status.Code(err) != codes.Unknown {
		t.Errorf("got %v", err)
	}
}

// What a Route function starts for a call ends with it.
func TestCallContext(t *testing.T) {
	calls := make(chan *relay.Call, 1)
	r := start(t, holding(calls), serve(t, echo))
	c := rawDial(t, r.addr)
	ended := func(id uint32, what string) {
		t.Helper()
		check(t, c.Headers(id, false, rawpeer.Request("/a.B/C", "grpc-timeout", "1H")...))
		call := wait(t, calls, "the call")
		ctx := call.Context()
		if d, ok := ctx.Deadline(); !ok || time.Until(d) > time.Hour || time.Until(d) < 59*time.Minute {
			t.Errorf("deadline %v, %t", d, ok)
		}
		if ctx.Err() != nil {
			t.Errorf("over at once: %v", ctx.Err())
		}
		switch what {
		case "cancel":
			check(t, c.Reset(id, http2.ErrCodeCancel))
		case "reject":
			call.Reject(status.New(codes.Aborted, ""), "")
		case "served":
			call.Forward(r.backend)
			check(t, c.Data(id, true, nil))
		case "lost":
			c.Close()
		}
		wait(t, ctx.Done(), "the context to end by "+what)
		if call.Context().Err() != context.Canceled || call.Forward(r.backend) {
			t.Errorf("%s: the call lives on", what)
		}
	}
	ended(1, "cancel")
	ended(3, "reject")
	ended(5, "served")
	ended(7, "lost")
}

func TestCallContextDeadline(t *testing.T) {
	calls := make(chan *relay.Call, 1)
	c := rawDial(t, start(t, holding(calls)).addr)
	check(t, c.Headers(1, false, rawpeer.Request("/a.B/C", "grpc-timeout", "20m")...))
	wait(t, wait(t, calls, "the call").Context().Done(), "the deadline")
	if f := must(c.Until(rawpeer.Is(http2.FrameHeaders, 1)))(t); f.Field("grpc-status") != "4" {
		t.Errorf("a call without a decision ended with %v", f)
	}
}

// The route sees all of the request and changes what goes up.
func TestRouteHeaders(t *testing.T) {
	seen := make(chan metadata.MD, 1)
	addr := serve(t, func(_ any, st grpc.ServerStream) error {
		md, _ := metadata.FromIncomingContext(st.Context())
		seen <- md
		return echo(nil, st)
	})
	r := start(t, rigConfig{server: func(s *relay.Server) {
		forward := s.Route
		s.Route = func(c *relay.Call) {
			v, _ := c.Header("x-tenant")
			c.SetHeader("x-route", strings.Join([]string{c.Host(), c.Service(), c.Method(), v, fmt.Sprint(c.TLS() != nil), c.RemoteAddr().Network()}, " "))
			c.SetHeader(":authority", "inner.test")
			c.AddHeader("x-tenant", "2")
			c.DelHeader("x-secret")
			forward(c)
		}
	}}, addr)
	ctx := metadata.AppendToOutgoingContext(within(t), "x-tenant", "1", "x-secret", "s")
	must(unary(ctx, dial(t, r.addr, grpc.WithAuthority("shop.test")), "/a.B/C", "m"))(t)
	md := wait(t, seen, "the request")
	want := map[string][]string{
		"x-route": {"shop.test a.B C 1 false tcp"}, ":authority": {"inner.test"}, "x-tenant": {"1", "2"}, "x-secret": nil,
	}
	for k, v := range want {
		if !slices.Equal(md[k], v) {
			t.Errorf("%s is %q, want %q", k, md[k], v)
		}
	}
}

func TestMaxRequestMessage(t *testing.T) {
	const limit = 1000
	r := start(t, rigConfig{server: func(s *relay.Server) {
		s.Limits.MaxRequestMessage = limit
		forward := s.Route
		s.Route = func(c *relay.Call) {
			if c.Method() == "Large" {
				c.SetMaxRequestMessage(0)
			}
			forward(c)
		}
	}}, serve(t, echo))
	cc := dial(t, r.addr)
	at, over := strings.Repeat("x", limit), strings.Repeat("x", limit+1)
	must(unary(within(t), cc, "/a.B/C", at))(t)
	must(unary(within(t), cc, "/a.B/Large", over))(t)
	_, err := unary(within(t), cc, "/a.B/C", over)
	if st := status.Convert(err); st.Code() != codes.ResourceExhausted || !strings.Contains(st.Message(), "1001") || !strings.Contains(st.Message(), "1000") {
		t.Errorf("over the limit: %v", err)
	}
	st := must(cc.NewStream(within(t), bidi, "/a.B/C"))(t)
	check(t, send(st, at))
	if m := must(recv(st))(t); m != at {
		t.Error("the first message came back wrong")
	}
	check(t, send(st, over))
	if _, err := recv(st); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("the second message over the limit: %v", err)
	}
}
