// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package relay_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/manifold-grpc/manifold/internal/memnet"
	"github.com/manifold-grpc/manifold/internal/rawpeer"
	"github.com/manifold-grpc/manifold/relay"
)

// headersFrame returns a response's HEADERS frame as octets.
func headersFrame(id uint32, pairs ...string) []byte {
	var block strings.Builder
	enc := hpack.NewEncoder(&block)
	for i := 0; i < len(pairs); i += 2 {
		enc.WriteField(hpack.HeaderField{Name: pairs[i], Value: pairs[i+1]}) //nolint:errcheck // into memory
	}
	return frameOctets(http2.FrameHeaders, http2.FlagHeadersEndHeaders, id, block.String())
}

func frameOctets(t http2.FrameType, flags http2.Flags, id uint32, payload string) []byte {
	n := len(payload)
	return append([]byte{byte(n >> 16), byte(n >> 8), byte(n), byte(t), byte(flags), byte(id >> 24), byte(id >> 16), byte(id >> 8), byte(id)}, payload...)
}

// A moment is how far a backend comes with a response before something happens to it.
type moment struct {
	name string
	play func(p *rawpeer.Peer, id uint32)
	// began: the client has the response's start, so that a retry is out of the question.
	began bool
	// any: half of a frame whose rest may be any octets.
	any bool
}

var moments = []moment{
	{name: "request came", play: func(*rawpeer.Peer, uint32) {}},
	{name: "half a frame header", play: func(p *rawpeer.Peer, id uint32) { p.Raw(headersFrame(id, rawpeer.Response()...)[:5]) }},
	{name: "half of HEADERS", play: func(p *rawpeer.Peer, id uint32) { p.Raw(headersFrame(id, rawpeer.Response()...)[:20]) }},
	{name: "HEADERS", play: func(p *rawpeer.Peer, id uint32) { p.Headers(id, false, rawpeer.Response()...) }, began: true},
	{name: "half of DATA", play: func(p *rawpeer.Peer, id uint32) {
		p.Headers(id, false, rawpeer.Response()...)
		p.Raw(frameOctets(http2.FrameData, 0, id, string(rawpeer.Message([]byte("half"))))[:12])
	}, began: true},
	{name: "DATA with half of a message", play: func(p *rawpeer.Peer, id uint32) {
		p.Headers(id, false, rawpeer.Response()...)
		p.Data(id, false, rawpeer.Message([]byte("half"))[:7])
	}, began: true},
	{name: "DATA", play: func(p *rawpeer.Peer, id uint32) {
		p.Headers(id, false, rawpeer.Response()...)
		p.Data(id, false, rawpeer.Message([]byte("whole")))
	}, began: true},
	{name: "half of SETTINGS", play: partial(http2.FrameSettings, 0, 6)},
	{name: "half of PING", play: partial(http2.FramePing, 0, 8)},
	{name: "half of WINDOW_UPDATE", play: partial(http2.FrameWindowUpdate, 1, 4)},
	{name: "half of RST_STREAM", play: partial(http2.FrameRSTStream, 1, 4), any: true},
	{name: "half of GOAWAY", play: partial(http2.FrameGoAway, 0, 8), any: true},
	{name: "half of the trailers", play: func(p *rawpeer.Peer, id uint32) {
		p.Headers(id, false, rawpeer.Response()...)
		p.Data(id, false, rawpeer.Message([]byte("whole")))
		p.Raw(headersFrame(id, "grpc-status", "0")[:10])
	}, began: true},
}

// partial sends a frame's header and half of its n octets.
func partial(t http2.FrameType, id uint32, n int) func(*rawpeer.Peer, uint32) {
	return func(p *rawpeer.Peer, _ uint32) { p.Raw(frameOctets(t, 0, id, strings.Repeat("\x00", n))[:9+n/2]) }
}

// A fault ends what a backend does.
type fault struct {
	name string
	play func(p *rawpeer.Peer, id uint32)
	// frame: it begins with a frame, which would be part of half a one.
	frame bool
	// noise: it is any octets.
	noise bool
	// code is the status where there is no other attempt; empty: UNAVAILABLE.
	code string
	// retried: the call provably was not acted upon, unless its response had begun.
	retried bool
}

var faults = []fault{
	{name: "closed", play: func(p *rawpeer.Peer, _ uint32) { p.Close() }},
	{name: "reset by its kernel", play: func(p *rawpeer.Peer, _ uint32) {
		p.Conn.(*net.TCPConn).SetLinger(0)
		p.Close()
	}},
	{name: "octets that are no frame", noise: true, play: func(p *rawpeer.Peer, _ uint32) { p.Raw([]byte(strings.Repeat("\xff", 100))) }},
	{name: "GOAWAY that leaves it out, closed", frame: true, play: func(p *rawpeer.Peer, _ uint32) {
		p.GoAway(0, http2.ErrCodeNo)
		p.Close()
	}, retried: true},
	{name: "GOAWAY that leaves it out, silent", frame: true, play: func(p *rawpeer.Peer, _ uint32) { p.GoAway(0, http2.ErrCodeNo) }, retried: true},
	{name: "GOAWAY that takes it, closed", frame: true, play: func(p *rawpeer.Peer, id uint32) {
		p.GoAway(id, http2.ErrCodeInternal)
		p.Close()
	}},
	{name: "GOAWAY that takes it, then reset", frame: true, code: "13", play: func(p *rawpeer.Peer, id uint32) {
		p.GoAway(id, http2.ErrCodeNo)
		p.Reset(id, http2.ErrCodeInternal)
	}},
	{name: "RST_STREAM", frame: true, code: "13", play: func(p *rawpeer.Peer, id uint32) { p.Reset(id, http2.ErrCodeInternal) }},
	{name: "RST_STREAM that refuses", frame: true, play: func(p *rawpeer.Peer, id uint32) { p.Reset(id, http2.ErrCodeRefusedStream) }, retried: true},
}

// Whatever happens to a backend at whatever moment: the call ends, with success where it was
// provably not acted upon and with UNAVAILABLE elsewhere, and the next one is served.
func TestBackendFaults(t *testing.T) {
	for _, m := range moments {
		for _, f := range faults {
			if strings.HasPrefix(m.name, "half") && f.frame || m.any && f.noise {
				continue
			}
			t.Run(m.name+", "+f.name, func(t *testing.T) {
				t.Parallel()
				var hits atomic.Int32
				b := raw(t, frames(func(p *rawpeer.Peer, fr rawpeer.Frame) error {
					switch {
					case fr.Type != http2.FrameHeaders:
						return nil
					case hits.Add(1) == 1:
						m.play(p, fr.StreamID)
						f.play(p, fr.StreamID)
						return nil
					}
					return p.Headers(fr.StreamID, true, rawpeer.TrailersOnly("0", "")...)
				}))
				c := openerTo(t, start(t, rigConfig{}, b.Addr()).addr)
				c.open(t)
				want, attempts := f.code, int32(1)
				if want == "" {
					want = "14"
				}
				if f.retried && !m.began {
					want, attempts = "0", 2
				}
				if fr := c.end(t); fr.Field("grpc-status") != want {
					t.Errorf("the call ended with %v, want status %s", fr, want)
				}
				if n := hits.Load(); n != attempts {
					t.Errorf("the backend saw %d attempts, want %d", n, attempts)
				}
				c.open(t)
				if fr := c.end(t); fr.Field("grpc-status") != "0" {
					t.Errorf("the next call ended with %v", fr)
				}
			})
		}
	}
}

// A backend that is killed under load: what is at it ends with UNAVAILABLE that names it, everything
// else is served by the other, and once it is back it takes its part again.
func TestBackendKilled(t *testing.T) {
	l := listen(t)
	victim := l.Addr().String()
	s := serveOn(t, l, named("victim"))
	survivor := serve(t, named("survivor"))
	r := start(t, rigConfig{endpoint: relay.EndpointConfig{BackoffBase: 20e6, BackoffMax: 50e6}}, victim, survivor)
	cc := dial(t, r.addr)
	var stop atomic.Bool
	var served, lost atomic.Int64
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for !stop.Load() {
				_, err := unary(within(t), cc, "/a.B/C", "m")
				switch {
				case err == nil:
					served.Add(1)
				case status.Code(err) == codes.Unavailable && strings.Contains(err.Error(), "endpoint "+victim):
					lost.Add(1)
				default:
					t.Errorf("a call failed with %v", err)
				}
			}
		})
	}
	var rounds int
	for rounds = range 3 {
		n := served.Load()
		eventually(t, func() bool { return served.Load() > n+100 }, "calls to be served by both")
		s.Stop()
		n = served.Load()
		eventually(t, func() bool { return served.Load() > n+100 }, "calls to be served by one")
		s = serveOn(t, must(net.Listen("tcp", victim))(t), named("victim"))
		eventually(t, func() bool { return r.backend.Endpoints[0].State() == relay.Ready }, "the endpoint to come back")
	}
	stop.Store(true)
	wg.Wait()
	t.Logf("killed %d times: %d calls served, %d lost that were at it", rounds+1, served.Load(), lost.Load())
	if lost.Load() > int64(8*(rounds+1)) {
		t.Errorf("%d calls were lost, at most those in flight may be", lost.Load())
	}
}

// slowWriter is a connection whose writes return only when the test lets them, after their
// octets have left.
type slowWriter struct {
	net.Conn
	armed   atomic.Bool
	written chan struct{}
	release chan struct{}
}

func (c *slowWriter) TryWrite(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	if c.armed.Swap(false) {
		c.written <- struct{}{}
		<-c.release
	}
	return n, err
}

// A request that has left is not sent again, though its connection was lost before whoever wrote
// it came to say so.
func TestNoRetryOfWhatLeft(t *testing.T) {
	l := memnet.Listen("quick")
	var requests atomic.Int32
	b := rawpeer.Serve(l, frames(func(p *rawpeer.Peer, f rawpeer.Frame) error {
		if f.Type != http2.FrameHeaders {
			return nil
		}
		if requests.Add(1) == 2 {
			return io.EOF // taken, perhaps acted upon, and gone
		}
		return p.Headers(f.StreamID, true, rawpeer.TrailersOnly("0", "")...)
	}))
	t.Cleanup(b.Close)
	conns := make(chan *slowWriter, 10)
	r := start(t, rigConfig{endpoint: relay.EndpointConfig{Dial: func(ctx context.Context) (net.Conn, error) {
		nc, err := l.DialContext(ctx)
		c := &slowWriter{Conn: nc, written: make(chan struct{}), release: make(chan struct{})}
		conns <- c
		return c, err
	}}}, "mem")
	c := openerTo(t, r.addr)
	c.open(t)
	c.end(t)
	nc := wait(t, conns, "the connection")
	nc.armed.Store(true)
	c.open(t)
	wait(t, nc.written, "the request to leave")
	if f := c.end(t); f.Field("grpc-status") != "14" {
		t.Errorf("the call ended with %v, want UNAVAILABLE", f)
	}
	close(nc.release)
	if n := requests.Load(); n != 2 {
		t.Errorf("the backend got %d requests, want 2", n)
	}
}

// answer is what an upstream sends for a request.
type answer func(p *rawpeer.Peer, id uint32)

// brokenAnswer is an answer, and the status that the client gets for it.
type brokenAnswer struct {
	name   string
	answer answer
	want   string
}

func brokenAnswers() []brokenAnswer {
	large, huge := strings.Repeat("x", 100<<10), strings.Repeat("x", 1<<20)
	headers := func(end bool, pairs ...string) answer {
		return func(p *rawpeer.Peer, id uint32) { p.Headers(id, end, pairs...) }
	}
	html := func(status string) answer {
		return func(p *rawpeer.Peer, id uint32) {
			p.Headers(id, false, ":status", status, "content-type", "text/html")
			p.Data(id, true, []byte("<html>sorry</html>"))
		}
	}
	return []brokenAnswer{
		{"400", html("400"), "13"},
		{"401", html("401"), "16"},
		{"403", html("403"), "7"},
		{"404", html("404"), "12"},
		{"429", html("429"), "14"},
		{"502", html("502"), "14"},
		{"503", html("503"), "14"},
		{"504", html("504"), "14"},
		{"500", html("500"), "2"},
		{"200 of text/html", html("200"), "2"},
		{"status 99", headers(true, ":status", "99", "content-type", "application/grpc"), "13"},
		{"status 999", headers(true, ":status", "999", "content-type", "application/grpc"), "2"},
		{"status abc", headers(true, ":status", "abc"), "13"},
		{"no status", headers(true, "content-type", "application/grpc"), "13"},
		{"no content-type", headers(true, ":status", "200", "grpc-status", "0"), "2"},
		{"upper case", headers(true, ":status", "200", "content-type", "application/grpc", "Grpc-Status", "0"), "13"},
		{"connection header", headers(true, append(rawpeer.TrailersOnly("0", ""), "connection", "close")...), "13"},
		{"line break in a value", headers(true, append(rawpeer.TrailersOnly("0", ""), "x-a", "b\r\nc: d")...), "13"},
		{"large headers", func(p *rawpeer.Peer, id uint32) {
			p.Headers(id, false, append(rawpeer.Response(), "x-large", large)...)
		}, "8"},
		{"large trailers", func(p *rawpeer.Peer, id uint32) {
			p.Headers(id, false, rawpeer.Response()...)
			p.Headers(id, true, "grpc-status", "0", "x-large", large)
		}, "8"},
		// Over twice the limit no decoder follows: the connection is given up.
		{"headers without end", func(p *rawpeer.Peer, id uint32) {
			p.Headers(id, false, append(rawpeer.Response(), "x-huge", huge)...)
		}, "14"},
		{"trailers of 1 MiB", func(p *rawpeer.Peer, id uint32) {
			p.Headers(id, false, rawpeer.Response()...)
			p.Headers(id, true, "grpc-status", "0", "x-huge", huge)
		}, "14"},
		{"no trailers", func(p *rawpeer.Peer, id uint32) {
			p.Headers(id, false, rawpeer.Response()...)
			p.Data(id, true, rawpeer.Message([]byte("m")))
		}, "13"},
		{"DATA before headers", func(p *rawpeer.Peer, id uint32) { p.Data(id, false, []byte("early")) }, "13"},
		{"two header blocks", func(p *rawpeer.Peer, id uint32) {
			p.Headers(id, false, rawpeer.Response()...)
			p.Headers(id, false, rawpeer.Response()...)
		}, "13"},
		{"interim response without end", func(p *rawpeer.Peer, id uint32) {
			for range 50 {
				p.Headers(id, false, ":status", "100")
			}
			p.Headers(id, true, rawpeer.TrailersOnly("0", "")...)
		}, "0"},
		{"a stream window too large", func(p *rawpeer.Peer, id uint32) { p.Window(id, 1<<31-1) }, "13"},
		{"a window update of 0", func(p *rawpeer.Peer, id uint32) { p.Window(id, 0) }, "13"},
	}
}

// Hostile or broken answers become the status that gRPC maps them to (http-grpc-status-mapping), and
// never more than that: the connection of the client lives on.
func TestBrokenAnswers(t *testing.T) {
	var now atomic.Pointer[answer]
	b := raw(t, frames(func(p *rawpeer.Peer, f rawpeer.Frame) error {
		if f.Type == http2.FrameHeaders {
			(*now.Load())(p, f.StreamID)
		}
		return nil
	}))
	r := start(t, rigConfig{}, b.Addr())
	c := openerTo(t, r.addr)
	for _, tt := range brokenAnswers() {
		t.Run(tt.name, func(t *testing.T) {
			now.Store(&tt.answer)
			id := c.open(t)
			if f := c.endOf(t, id); f.Field("grpc-status") != tt.want {
				t.Errorf("the client got %v, want status %s", f, tt.want)
			}
			fine := answer(func(p *rawpeer.Peer, id uint32) { p.Headers(id, true, rawpeer.TrailersOnly("0", "")...) })
			now.Store(&fine)
			id = c.open(t)
			if f := c.endOf(t, id); f.Field("grpc-status") != "0" {
				t.Errorf("the next call got %v", f)
			}
		})
	}
}

// An upstream that sends more than its window has its stream reset; that it can end the call
// is told at once, though the client takes nothing.
func TestUpstreamOverWindow(t *testing.T) {
	b := raw(t, frames(func(p *rawpeer.Peer, f rawpeer.Frame) error {
		if f.Type != http2.FrameHeaders {
			return nil
		}
		p.Headers(f.StreamID, false, rawpeer.Response()...)
		return p.Data(f.StreamID, false, make([]byte, 200_000))
	}))
	var rec *recorded
	r := start(t, rigConfig{server: func(s *relay.Server) { rec = record(s) }}, b.Addr())
	c := rawDial(t, r.addr)
	check(t, c.Settings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0}))
	check(t, c.Headers(1, true, rawpeer.Request("/a.B/C")...))
	if s := wait(t, rec.stats, "the end"); s.Code != codes.Internal || s.Reason != relay.ReasonUpstreamProtocol {
		t.Errorf("stats %+v", s)
	}
	if n := r.Buffered(); n > 64<<10 {
		t.Errorf("%d octets wait for the client, more than the window", n)
	}
}

// What speaks no HTTP/2 at all, or breaks it from the start, is not a backend; the relay survives
// and says what it met.
func TestBrokenBackends(t *testing.T) {
	tests := []struct {
		name string
		play func(p *rawpeer.Peer)
	}{
		{"HTTP/1.1", func(p *rawpeer.Peer) { fmt.Fprint(p.Conn, "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n") }},
		{"SSH", func(p *rawpeer.Peer) { fmt.Fprint(p.Conn, "SSH-2.0-OpenSSH_9.2\r\n") }},
		{"SETTINGS_MAX_FRAME_SIZE 0", func(p *rawpeer.Peer) { p.Settings(http2.Setting{ID: http2.SettingMaxFrameSize, Val: 0}) }},
		{"SETTINGS_INITIAL_WINDOW_SIZE too large", func(p *rawpeer.Peer) {
			p.Settings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 31})
		}},
		{"SETTINGS_ENABLE_PUSH 1", func(p *rawpeer.Peer) { p.Settings(http2.Setting{ID: http2.SettingEnablePush, Val: 1}) }},
		{"PING before SETTINGS", func(p *rawpeer.Peer) { p.Ping(false, [8]byte{}) }},
		{"a frame of 16 MiB", func(p *rawpeer.Peer) { p.Raw([]byte{0xff, 0xff, 0xff, 4, 0, 0, 0, 0, 0}) }},
		{"closed at once", func(p *rawpeer.Peer) { p.Close() }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := raw(t, func(p *rawpeer.Peer) {
				tt.play(p)
				io.Copy(io.Discard, p.Conn)
			})
			r := start(t, rigConfig{}, b.Addr())
			_, err := unary(within(t), dial(t, r.addr), "/a.B/C", "m")
			if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), b.Addr()) {
				t.Errorf("a call got %v", err)
			}
			t.Log(err)
		})
	}
}

// A name that stands for no address is told as such, at once, and asked for again.
func TestNameWithoutAddress(t *testing.T) {
	var lookups atomic.Int32
	r := start(t, rigConfig{endpoint: relay.EndpointConfig{BackoffBase: 1e6, BackoffMax: 1e6, Dial: func(context.Context) (net.Conn, error) {
		lookups.Add(1)
		return nil, &net.DNSError{Err: "no such host", Name: "backend.example", IsNotFound: true}
	}}}, "backend.example:50051")
	_, err := unary(within(t), dial(t, r.addr), "/a.B/C", "m")
	if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "backend.example") || !strings.Contains(err.Error(), "no such host") {
		t.Errorf("a call got %v", err)
	}
	eventually(t, func() bool { return lookups.Load() > 2 }, "further attempts")
}

// PUSH_PROMISE is against what we said in SETTINGS.
func TestPushedStreams(t *testing.T) {
	b := raw(t, frames(func(p *rawpeer.Peer, f rawpeer.Frame) error {
		if f.Type == http2.FrameHeaders {
			return p.Frame(http2.FramePushPromise, http2.FlagPushPromiseEndHeaders, f.StreamID, []byte{0, 0, 0, 2, 0x82})
		}
		return nil
	}))
	_, err := unary(within(t), dial(t, start(t, rigConfig{}, b.Addr()).addr), "/a.B/C", "m")
	if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "PUSH_PROMISE") {
		t.Errorf("a call got %v", err)
	}
}
