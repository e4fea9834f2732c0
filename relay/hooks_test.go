// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package relay_test

import (
	"context"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/manifold-grpc/manifold/internal/rawpeer"
	"github.com/manifold-grpc/manifold/relay"
)

// recorded has the hooks put what they are told into channels.
type recorded struct {
	opened, closed chan net.Addr
	errs           chan error
	calls          chan ended
	stats          chan relay.CallStats
}

// ended is what a hook could read of a call. The call itself is not for later.
type ended struct {
	host   string
	remote net.Addr
	start  time.Time
}

func record(s *relay.Server) *recorded {
	r := &recorded{
		opened: make(chan net.Addr, 100), closed: make(chan net.Addr, 100), errs: make(chan error, 100),
		calls: make(chan ended, 100), stats: make(chan relay.CallStats, 100),
	}
	s.Hooks.ConnOpened = func(a net.Addr) { r.opened <- a }
	s.Hooks.ConnClosed = func(a net.Addr, err error) { r.closed <- a; r.errs <- err }
	s.Hooks.CallEnded = func(c *relay.Call, st relay.CallStats) {
		r.calls <- ended{c.Host(), c.RemoteAddr(), c.Start()}
		r.stats <- st
	}
	return r
}

// byMethod fails or hangs where the method says so, and else echoes.
func byMethod(srv any, st grpc.ServerStream) error {
	switch method, _ := grpc.MethodFromServerStream(st); method {
	case "/a.B/Fail":
		if _, err := recv(st); err != nil {
			return err
		}
		return status.Error(codes.NotFound, "")
	case "/a.B/Hang":
		<-st.Context().Done()
		return nil
	}
	return echo(srv, st)
}

// Every call ends in the hook once, with what became of it.
func TestCallStats(t *testing.T) {
	addr := serve(t, byMethod)
	var rec *recorded
	r := start(t, rigConfig{server: func(s *relay.Server) { rec = record(s) }}, addr)
	cc := dial(t, r.addr)
	tests := []struct {
		name     string
		call     func(ctx context.Context) error
		code     codes.Code
		reason   string
		up, down [2]int64 // messages and octets
		attempts int
	}{
		{"unary", func(ctx context.Context) error {
			_, err := unary(ctx, cc, "/a.B/C", "12345")
			return err
		}, codes.OK, "", [2]int64{1, 10}, [2]int64{1, 10}, 1},
		{"streams", func(ctx context.Context) error { return talk(ctx, cc, 3) }, codes.OK, "", [2]int64{3, 18}, [2]int64{3, 18}, 1},
		{"failed by the backend", func(ctx context.Context) error {
			_, err := unary(ctx, cc, "/a.B/Fail", "1")
			return err
		}, codes.NotFound, "", [2]int64{1, 6}, [2]int64{}, 1},
		{"cancelled", func(ctx context.Context) error {
			ctx, cancel := context.WithCancel(ctx)
			st, err := cc.NewStream(ctx, bidi, "/a.B/C")
			if err == nil {
				err = send(st, "1")
			}
			if err == nil {
				_, err = recv(st)
			}
			cancel()
			return err
		}, codes.Canceled, relay.ReasonCanceled, [2]int64{1, 6}, [2]int64{1, 6}, 1},
		{"no such path", func(ctx context.Context) error {
			_, err := unary(ctx, cc, "/a.B/C/D", "")
			return err
		}, codes.Unimplemented, relay.ReasonMalformedPath, [2]int64{}, [2]int64{}, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			begin := time.Now()
			if err := tt.call(within(t)); tt.code != codes.Canceled && status.Code(err) != tt.code {
				t.Errorf("the caller got %v", err)
			}
			s := wait(t, rec.stats, "the stats")
			c := <-rec.calls
			if s.Code != tt.code || s.Reason != tt.reason || s.Attempts != tt.attempts || (s.Endpoint == addr) != (tt.attempts > 0) {
				t.Errorf("stats %+v", s)
			}
			if s.RequestMessages != tt.up[0] || s.RequestBytes != tt.up[1] || s.ResponseMessages != tt.down[0] || s.ResponseBytes != tt.down[1] {
				t.Errorf("counts %+v, want %v and %v", s, tt.up, tt.down)
			}
			if s.Start.Before(begin) || s.Duration <= 0 || s.Duration > time.Since(begin) {
				t.Errorf("start %v, duration %v", s.Start, s.Duration)
			}
			if c.host == "" || c.remote == nil || c.start != s.Start {
				t.Errorf("call %+v", c)
			}
		})
	}
	select {
	case s := <-rec.stats:
		t.Errorf("a call ended twice: %+v", s)
	default:
	}
	if n := r.InFlight(); n != 0 {
		t.Errorf("%d calls in flight", n)
	}
}

// Connections are told of from their start to their end, with why.
func TestConnectionHooks(t *testing.T) {
	tests := []struct {
		name string
		play func(p *rawpeer.Peer)
		ok   func(err error) bool
	}{
		{"closed in peace", func(p *rawpeer.Peer) { p.Close() }, func(err error) bool { return err == io.EOF }},
		{"closed in the middle of a frame", func(p *rawpeer.Peer) { p.Raw([]byte{0, 0, 4}); p.Close() }, func(err error) bool { return err == io.ErrUnexpectedEOF }},
		{"broke a rule", func(p *rawpeer.Peer) { p.Frame(http2.FrameData, 0, 0, nil) }, func(err error) bool {
			return err != nil && strings.Contains(err.Error(), "PROTOCOL_ERROR (data_on_stream_zero)")
		}},
		{"spoke something else", func(p *rawpeer.Peer) { p.Raw([]byte("not a frame, not even nearly")) }, func(err error) bool { return err != nil && err != io.EOF }},
	}
	var rec *recorded
	r := start(t, rigConfig{server: func(s *relay.Server) { rec = record(s) }})
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := rawDial(t, r.addr)
			if a := wait(t, rec.opened, "the opening"); a.String() != p.LocalAddr().String() {
				t.Errorf("%v was opened, want %v", a, p.LocalAddr())
			}
			must(p.Until(func(f rawpeer.Frame) bool { // the last that comes: a close with unread input would be a reset
				return f.Type == http2.FrameSettings && f.Flags.Has(http2.FlagSettingsAck)
			}))(t)
			tt.play(p)
			if a := wait(t, rec.closed, "the end"); a.String() != p.LocalAddr().String() {
				t.Errorf("%v was closed, want %v", a, p.LocalAddr())
			}
			if err := <-rec.errs; !tt.ok(err) {
				t.Errorf("it ended because of %v", err)
			}
		})
	}
}

// OnState tells of each change, in order, with the error that made the endpoint Failing.
func TestEndpointStates(t *testing.T) {
	type change struct {
		state relay.State
		err   error
	}
	changes := make(chan change, 100)
	l := listen(t)
	addr := l.Addr().String()
	b := rawpeer.Serve(l, func(p *rawpeer.Peer) {
		p.Greet() //nolint:errcheck // the test ends by it
		for {
			if _, err := p.Read(); err != nil {
				return
			}
		}
	})
	e := relay.NewEndpoint(addr, relay.EndpointConfig{
		BackoffBase: 10 * time.Millisecond,
		OnState:     func(_ *relay.Endpoint, s relay.State, err error) { changes <- change{s, err} },
	})
	defer e.Close()
	expect := func(want relay.State, failed bool) {
		t.Helper()
		if c := wait(t, changes, want.String()); c.state != want || (c.err != nil) != failed {
			t.Fatalf("%v, %v; want %v", c.state, c.err, want)
		}
	}
	expect(relay.Ready, false)
	time.AfterFunc(0, b.Close)
	expect(relay.Connecting, false)
	expect(relay.Failing, true)
	if err := e.Err(); err == nil || !strings.Contains(err.Error(), addr) {
		t.Errorf("Err is %v", err)
	}
	again := must(net.Listen("tcp", addr))(t)
	b = rawpeer.Serve(again, func(p *rawpeer.Peer) {
		p.Greet() //nolint:errcheck // the test ends by it
		for {
			if _, err := p.Read(); err != nil {
				return
			}
		}
	})
	defer b.Close()
	expect(relay.Ready, false)
	if e.Err() != nil || e.Connections() != 1 || e.Addr() != addr {
		t.Errorf("%v, %d connections, %s", e.Err(), e.Connections(), e.Addr())
	}
	e.Close()
	expect(relay.Closed, false)
	if e.WaitForStateChange(within(t), relay.Ready) != true {
		t.Error("a wait for what has happened")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if e.WaitForStateChange(ctx, relay.Closed) {
		t.Error("a wait for what cannot happen")
	}
}
