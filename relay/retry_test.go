// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package relay_test

import (
	"bytes"
	"context"
	"errors"
	"net"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/net/http2"

	"github.com/manifold-grpc/manifold/internal/memnet"
	"github.com/manifold-grpc/manifold/internal/rawpeer"
	"github.com/manifold-grpc/manifold/relay"
)

// collected is a backend that takes whole requests: their header blocks and bodies.
type collected struct {
	rawpeer.Frame // the header block
	*rawpeer.Peer
	body []byte
}

// collecting plays connections of which refuse may end a request's stream or the connection at any
// frame, by returning true; requests that come to their end go to the channel.
func collecting(t *testing.T, refuse func(*rawpeer.Peer, rawpeer.Frame) bool) (*rawpeer.Backend, <-chan collected) {
	ch := make(chan collected, 100)
	return raw(t, func(p *rawpeer.Peer) {
		p.Refill = true
		open, refused := map[uint32]*collected{}, map[uint32]bool{}
		frames(func(p *rawpeer.Peer, f rawpeer.Frame) error {
			if f.StreamID == 0 || refused[f.StreamID] {
				return nil
			}
			if refuse != nil && refuse(p, f) {
				refused[f.StreamID] = true
				return nil
			}
			switch f.Type {
			case http2.FrameHeaders:
				open[f.StreamID] = &collected{Frame: f, Peer: p}
			case http2.FrameData:
				if c := open[f.StreamID]; c != nil {
					c.body = append(c.body, f.Payload...)
				}
			}
			if c := open[f.StreamID]; c != nil && f.End() {
				ch <- *c
			}
			return nil
		})(p)
	}), ch
}

// What an upstream provably did not touch is tried again, invisibly: with all of the
// request, whatever part of it had been sent.
func TestRetryRefused(t *testing.T) {
	body := rawpeer.Message(bytes.Repeat([]byte("retry "), 3000)) // 18 KiB in several frames
	for _, when := range []string{"at the headers", "in the middle", "at the end"} {
		t.Run(when, func(t *testing.T) {
			var refused atomic.Int32
			b, requests := collecting(t, func(p *rawpeer.Peer, f rawpeer.Frame) bool {
				now := when == "at the headers" && f.Type == http2.FrameHeaders ||
					when == "in the middle" && f.Type == http2.FrameData && !f.End() ||
					when == "at the end" && f.End()
				if !now || refused.Load() == 3 {
					return false
				}
				refused.Add(1)
				p.Reset(f.StreamID, http2.ErrCodeRefusedStream) //nolint:errcheck // the test ends by it
				return true
			})
			stats := make(chan relay.CallStats, 1)
			r := start(t, rigConfig{server: func(s *relay.Server) {
				s.Hooks.CallEnded = func(_ *relay.Call, st relay.CallStats) { stats <- st }
			}}, b.Addr())
			c := rawDial(t, r.addr)
			check(t, c.Headers(1, false, rawpeer.Request("/a.B/C", "x-a", "1")...))
			check(t, c.Data(1, false, body[:100]))
			check(t, c.Data(1, false, body[100:10_000]))
			check(t, c.Data(1, true, body[10_000:]))
			up := wait(t, requests, "the request that is not refused")
			if !bytes.Equal(up.body, body) || up.Field("x-a") != "1" {
				t.Errorf("the last attempt brought %d octets of %d", len(up.body), len(body))
			}
			check(t, up.Headers(up.StreamID, true, rawpeer.TrailersOnly("0", "")...))
			if f := must(c.Until(rawpeer.Is(http2.FrameHeaders, 1)))(t); f.Field("grpc-status") != "0" {
				t.Errorf("the client got %v", f)
			}
			if s := wait(t, stats, "the stats"); s.Attempts != 4 || s.Reason != "" || s.RequestBytes != int64(len(body)) {
				t.Errorf("stats %+v", s)
			}
		})
	}
}

// An upstream that refuses for ever is left in peace after a few attempts.
func TestRetryBounded(t *testing.T) {
	var refused atomic.Int32
	b, _ := collecting(t, func(p *rawpeer.Peer, f rawpeer.Frame) bool {
		if f.Type == http2.FrameHeaders {
			refused.Add(1)
			p.Reset(f.StreamID, http2.ErrCodeRefusedStream) //nolint:errcheck // the test ends by it
		}
		return true
	})
	c := openerTo(t, start(t, rigConfig{}, b.Addr()).addr)
	c.open(t)
	if f := c.end(t); f.Field("grpc-status") != "14" || !strings.Contains(f.Field("grpc-message"), "REFUSED_STREAM") {
		t.Errorf("the client got %v", f)
	}
	if n := refused.Load(); n != 4 {
		t.Errorf("%d attempts, want 4", n)
	}
}

// A retry goes to another endpoint.
func TestRetryElsewhere(t *testing.T) {
	refuser, _ := collecting(t, func(p *rawpeer.Peer, f rawpeer.Frame) bool {
		if f.Type == http2.FrameHeaders {
			p.Reset(f.StreamID, http2.ErrCodeRefusedStream) //nolint:errcheck // the test ends by it
		}
		return true
	})
	r := start(t, rigConfig{}, refuser.Addr(), serve(t, echo))
	cc := dial(t, r.addr)
	for range 20 {
		if out := must(unary(within(t), cc, "/a.B/C", "m"))(t); out != "m" {
			t.Errorf("got %q", out)
		}
	}
}

// What may have been acted on is not tried again.
func TestNoRetry(t *testing.T) {
	type script func(p *rawpeer.Peer, f rawpeer.Frame)
	reset := func(code http2.ErrCode) script {
		return func(p *rawpeer.Peer, f rawpeer.Frame) { p.Reset(f.StreamID, code) }
	}
	tests := []struct {
		name   string
		body   int // octets of the request
		answer script
		status string
	}{
		{"another code", 10, reset(http2.ErrCodeInternal), "13"},
		{"cancelled", 10, reset(http2.ErrCodeCancel), "1"},
		{"connection lost", 10, func(p *rawpeer.Peer, _ rawpeer.Frame) { p.Close() }, "14"},
		{"GOAWAY that includes it, then lost", 10, func(p *rawpeer.Peer, f rawpeer.Frame) {
			p.GoAway(f.StreamID, http2.ErrCodeNo)
			p.Close()
		}, "14"},
		{"refused after the response began", 10, func(p *rawpeer.Peer, f rawpeer.Frame) {
			p.Headers(f.StreamID, false, rawpeer.Response()...)
			p.Reset(f.StreamID, http2.ErrCodeRefusedStream)
		}, "14"},
		{"a trailers-only UNAVAILABLE is the backend's word", 10, func(p *rawpeer.Peer, f rawpeer.Frame) {
			p.Headers(f.StreamID, true, rawpeer.TrailersOnly("14", "busy")...)
		}, "14"},
		{"more was sent than is kept", 40_000, reset(http2.ErrCodeRefusedStream), "14"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var requests atomic.Int32
			b, _ := collecting(t, func(p *rawpeer.Peer, f rawpeer.Frame) bool {
				if f.Type == http2.FrameHeaders {
					requests.Add(1)
				}
				if f.End() {
					tt.answer(p, f)
				}
				return f.End()
			})
			c := openerTo(t, start(t, rigConfig{}, b.Addr()).addr)
			check(t, c.Headers(1, false, rawpeer.Request("/a.B/C")...))
			for n := tt.body; n > 0; n -= 10_000 {
				check(t, c.Data(1, n <= 10_000, make([]byte, min(n, 10_000))))
			}
			if f := c.end(t); f.Field("grpc-status") != tt.status {
				t.Errorf("the client got %v, want status %s", f, tt.status)
			}
			if n := requests.Load(); n != 1 {
				t.Errorf("the backend got %d requests", n)
			}
		})
	}
}

// GOAWAY by an upstream: what it leaves out goes elsewhere, what it takes runs to its
// end, and new calls find another connection at once.
func TestUpstreamGoAway(t *testing.T) {
	b, events := played(t)
	r := start(t, rigConfig{}, b.Addr())
	c := openerTo(t, r.addr)
	c.open(t)
	taken := wait(t, events, "the first call")
	c.open(t)
	out := wait(t, events, "the second call")
	check(t, taken.GoAway(taken.StreamID, http2.ErrCodeNo))
	again := wait(t, events, "the second call again")
	if again.Type != http2.FrameHeaders || again.Field(":path") != out.Field(":path") || again.Peer == taken.Peer {
		t.Fatalf("after GOAWAY came %v", again.Frame)
	}
	again.ok(t)
	if f := c.end(t); f.StreamID != 3 || f.Field("grpc-status") != "0" {
		t.Errorf("the call that was left out ended with %v", f)
	}
	c.open(t)
	next := wait(t, events, "a new call")
	if next.Peer != again.Peer {
		t.Error("a new call went to the connection that is going away")
	}
	next.ok(t)
	c.end(t)
	taken.ok(t)
	if f := c.end(t); f.StreamID != 1 || f.Field("grpc-status") != "0" {
		t.Errorf("the call that was taken ended with %v", f)
	}
}

// Two-step GOAWAY as grpc-go's servers do it, over and over while calls come: none fails.
func TestUpstreamGoAwayUnderLoad(t *testing.T) {
	const rounds, calls = 20, 20
	b := raw(t, func(p *rawpeer.Peer) {
		seen, last := 0, uint32(0)
		frames(func(p *rawpeer.Peer, f rawpeer.Frame) error {
			switch {
			case f.Type == http2.FrameHeaders && (last == 0 || f.StreamID <= last):
				if seen++; seen == calls/2 {
					p.GoAway(1<<31-1, http2.ErrCodeNo)
				}
				if seen == calls {
					last = f.StreamID
					p.GoAway(last, http2.ErrCodeNo)
				}
				return p.Headers(f.StreamID, true, rawpeer.TrailersOnly("0", "")...)
			case f.Type == http2.FrameGoAway && last != 0:
				return errors.New("the relay is done with it")
			}
			return nil
		})(p)
	})
	c := openerTo(t, start(t, rigConfig{}, b.Addr()).addr)
	for range rounds {
		for range calls {
			c.open(t)
		}
		for range calls {
			if f := c.end(t); f.Field("grpc-status") != "0" {
				t.Fatalf("a call ended with %v", f)
			}
		}
	}
	t.Logf("%d calls over %d connections, none failed", rounds*calls, b.Accepted())
	if b.Accepted() < rounds/2 {
		t.Errorf("the connection was replaced %d times only", b.Accepted())
	}
}

// unwritable is a connection that can be told to accept nothing more.
type unwritable struct {
	net.Conn
	broken atomic.Bool
}

var errUnwritable = errors.New("nothing goes out")

func (c *unwritable) Write(p []byte) (int, error) {
	if c.broken.Load() {
		return 0, errUnwritable
	}
	return c.Conn.Write(p)
}

// A connection that breaks before any octet of a call was sent: the call goes elsewhere.
func TestRetryUnsent(t *testing.T) {
	l := memnet.Listen("breaking")
	b := rawpeer.Serve(l, frames(func(p *rawpeer.Peer, f rawpeer.Frame) error {
		if f.Type == http2.FrameHeaders {
			return p.Headers(f.StreamID, true, rawpeer.TrailersOnly("0", "")...)
		}
		return nil
	}))
	t.Cleanup(b.Close)
	conns := make(chan *unwritable, 10)
	r := start(t, rigConfig{endpoint: relay.EndpointConfig{Dial: func(ctx context.Context) (net.Conn, error) {
		nc, err := l.DialContext(ctx)
		u := &unwritable{Conn: nc}
		conns <- u
		return u, err
	}}}, "mem")
	c := openerTo(t, r.addr)
	c.open(t)
	if f := c.end(t); f.Field("grpc-status") != "0" {
		t.Fatalf("the first call ended with %v", f)
	}
	wait(t, conns, "the connection").broken.Store(true)
	c.open(t)
	if f := c.end(t); f.Field("grpc-status") != "0" {
		t.Errorf("the call whose connection broke ended with %v", f)
	}
	if n := b.Accepted(); n != 2 {
		t.Errorf("%d connections were made, want 2", n)
	}
}
