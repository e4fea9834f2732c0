// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package relay_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	"github.com/manifold-grpc/manifold/internal/memnet"
	"github.com/manifold-grpc/manifold/internal/rawpeer"
	"github.com/manifold-grpc/manifold/relay"
)

// The tests of this file run on a network in memory by a clock that jumps when
// everybody waits (testing/synctest).

// forever is the patience of peers whose clock jumps.
const forever = 10_000 * time.Hour

// memory is a relay whose clients and one backend are in memory.
type memory struct {
	*rig
	front, back *memnet.Listener

	mu    sync.Mutex
	dials []time.Time       // of the relay to the backend
	dial  func(n int) error // what becomes of the nth dial from 0; nil: it succeeds
	conns []*memnet.Conn    // the relay's ends of connections to the backend
}

// inMemory starts one before the backend that play plays, connection by connection.
func inMemory(t *testing.T, cfg rigConfig, dial func(n int) error, play func(*rawpeer.Peer)) *memory {
	return inMemoryBefore(t, cfg, dial, func(l net.Listener) {
		b := rawpeer.Serve(l, func(p *rawpeer.Peer) {
			p.Patience = forever
			play(p)
		})
		t.Cleanup(b.Close)
	})
}

// inMemoryBefore starts one before the backend that serve serves.
func inMemoryBefore(t *testing.T, cfg rigConfig, dial func(n int) error, serve func(net.Listener)) *memory {
	m := &memory{front: memnet.Listen("front"), back: memnet.Listen("back"), dial: dial}
	serve(m.back)
	cfg.listener = m.front
	cfg.endpoint.Dial = m.connect
	t.Cleanup(func() { m.back.Close() })
	m.rig = start(t, cfg, "back")
	return m
}

func (m *memory) connect(ctx context.Context) (net.Conn, error) {
	m.mu.Lock()
	n := len(m.dials)
	m.dials = append(m.dials, time.Now())
	m.mu.Unlock()
	if m.dial != nil {
		if err := m.dial(n); err != nil {
			if err == errBlackHole {
				<-ctx.Done()
			}
			return nil, err
		}
	}
	nc, err := m.back.DialContext(ctx)
	if err == nil {
		m.mu.Lock()
		m.conns = append(m.conns, nc.(*memnet.Conn))
		m.mu.Unlock()
	}
	return nc, err
}

// errBlackHole has a dial wait as long as it may.
var errBlackHole = errors.New("nobody answers")

// cut breaks every connection to the backend.
func (m *memory) cut() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, nc := range m.conns {
		nc.Cut()
	}
}

func (m *memory) dialled() []time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]time.Time(nil), m.dials...)
}

// client returns a client's end to play by hand.
func (m *memory) client(t *testing.T) *rawpeer.Peer {
	p := must(rawpeer.Client(must(m.front.DialContext(t.Context()))(t)))(t)
	p.Patience = forever
	t.Cleanup(func() { p.Close() })
	return p
}

// channel returns a channel of grpc-go's to the relay.
func (m *memory) channel(t *testing.T, opts ...grpc.DialOption) *grpc.ClientConn {
	return dial(t, "front", append(opts, grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
		return m.front.DialContext(ctx)
	}))...)
}

// answering answers every request with success.
var answering = frames(func(p *rawpeer.Peer, f rawpeer.Frame) error {
	if f.Type == http2.FrameHeaders {
		return p.Headers(f.StreamID, true, rawpeer.TrailersOnly("0", "")...)
	}
	return nil
})

// silent takes requests and never answers.
var silent = frames(func(*rawpeer.Peer, rawpeer.Frame) error { return nil })

// Attempts to connect come at growing intervals, and at once again after a success.
func TestBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const fails = 8
		m := inMemory(t, rigConfig{}, func(n int) error {
			if n < fails {
				return fmt.Errorf("attempt %d failed", n)
			}
			return nil
		}, answering)
		e := m.backend.Endpoints[0]
		awaitReady(t, e)
		dials := m.dialled()
		if len(dials) != fails+1 {
			t.Fatalf("%d attempts, want %d", len(dials), fails+1)
		}
		for i, want := 0, time.Second; i < fails; i++ {
			pause := dials[i+1].Sub(dials[i])
			if pause < want-want/5 || pause > want+want/5 {
				t.Errorf("pause %d was %v, want %v give or take a fifth", i, pause, want)
			}
			want = min(2*want, 15*time.Second)
		}
	})
}

// An upstream that takes one connection and no more is not dialled for every call that waits.
func TestGrowthBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		oneStream := func(p *rawpeer.Peer) {
			p.Greet(http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: 1})
			for {
				if _, err := p.Read(); err != nil {
					return
				}
			}
		}
		m := inMemory(t, rigConfig{}, func(n int) error {
			if n > 0 {
				return errors.New("one is enough")
			}
			return nil
		}, oneStream)
		c := m.client(t)
		for i := range 100 {
			check(t, c.Headers(uint32(2*i+1), true, rawpeer.Request("/a.B/C")...))
			time.Sleep(100 * time.Millisecond) // 10 s in all, by the clock that jumps
		}
		if n := len(m.dialled()); n > 6 {
			t.Errorf("%d attempts to connect in 10 s", n)
		}
		if s := m.backend.Endpoints[0].State(); s != relay.Ready {
			t.Errorf("with one good connection the endpoint is %v", s)
		}
	})
}

// An upstream that accepts a connection and says nothing, or nothing that is a connection, counts as failed after
// the connect timeout; calls that waited for it do not wait longer.
func TestConnectTimeout(t *testing.T) {
	for _, kind := range []string{"black hole", "no SETTINGS"} {
		t.Run(kind, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const timeout = 5 * time.Second
				m := &memory{front: memnet.Listen("front"), back: memnet.Listen("back")}
				if kind == "black hole" {
					m.dial = func(int) error { return errBlackHole }
				}
				backend := rawpeer.Serve(m.back, func(p *rawpeer.Peer) { io.Copy(io.Discard, p.Conn) })
				defer backend.Close()
				e := relay.NewEndpoint("back", relay.EndpointConfig{Dial: m.connect, ConnectTimeout: timeout})
				defer e.Close()
				b := &relay.Backend{Name: "b", Endpoints: []*relay.Endpoint{e}}
				m.rig = start(t, rigConfig{listener: m.front, server: func(s *relay.Server) {
					s.Route = func(c *relay.Call) { c.Forward(b) }
				}})
				c := m.client(t)
				begin := time.Now()
				check(t, c.Headers(1, true, rawpeer.Request("/a.B/C")...))
				f := must(c.Until(rawpeer.Is(http2.FrameHeaders, 1)))(t)
				if took := time.Since(begin); f.Field("grpc-status") != "14" || took < timeout-time.Second || took > timeout+2*time.Second {
					t.Errorf("after %v came %v", took, f)
				}
				if e.State() != relay.Failing {
					t.Errorf("the endpoint is %v", e.State())
				}
			})
		})
	}
}

// A connection whose other end is gone without a word (half-open, black-holed, stopped) is found out by a
// PING, and its calls end.
func TestUpstreamKeepalive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := inMemory(t, rigConfig{}, nil, answering)
		c := m.client(t)
		call := func(id uint32) rawpeer.Frame {
			check(t, c.Headers(id, true, rawpeer.Request("/a.B/C")...))
			return must(c.Until(rawpeer.Is(http2.FrameHeaders, id)))(t)
		}
		call(1)
		m.conns[0].Freeze()
		begin := time.Now()
		f := call(3)
		took := time.Since(begin)
		if f.Field("grpc-status") != "14" || !strings.Contains(f.Field("grpc-message"), "keepalive") || took > 45*time.Second {
			t.Errorf("after %v came %v", took, f)
		}
		t.Logf("a connection that went silent was given up after %v", took)
		if f := call(5); f.Field("grpc-status") != "0" {
			t.Errorf("the next call ended with %v", f)
		}
	})
}

// Our PINGs must not annoy an upstream that keeps gRPC's rules for them (gRFC A8): grpc-go's
// server with its defaults allows one in 5 minutes while it sends nothing.
func TestUpstreamKeepaliveManners(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		over := make(chan struct{})
		quiet := func(_ any, st grpc.ServerStream) error {
			if err := send(st, "hello"); err != nil {
				return err
			}
			select {
			case <-over:
				return nil
			case <-st.Context().Done():
				return st.Context().Err()
			}
		}
		m := inMemoryBefore(t, rigConfig{server: func(s *relay.Server) { s.Limits.MaxAge = -1 }}, nil,
			func(l net.Listener) { serveOn(t, l, quiet) })
		st := must(m.channel(t).NewStream(t.Context(), bidi, "/a.B/C"))(t)
		if out := must(recv(st))(t); out != "hello" {
			t.Errorf("got %q", out)
		}
		time.AfterFunc(3*time.Hour, func() { close(over) })
		begin := time.Now()
		if _, err := recv(st); err != io.EOF {
			t.Errorf("after %v of silence the stream ended with %v", time.Since(begin), err)
		}
		if n := len(m.dialled()); n != 1 {
			t.Errorf("%d connections were made", n)
		}
	})
}

// A client that keeps grpc-go's own lower bound for PINGs is never sent away for them.
func TestClientKeepaliveManners(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ended := make(chan error, 10)
		m := inMemory(t, rigConfig{server: func(s *relay.Server) {
			s.Limits.MaxAge, s.Limits.IdleTimeout = -1, -1
			s.Hooks.ConnClosed = func(_ net.Addr, err error) { ended <- err }
		}}, nil, answering)
		cc := m.channel(t, grpc.WithIdleTimeout(0), grpc.WithKeepaliveParams(keepalive.ClientParameters{
			Time: 10 * time.Second, Timeout: 5 * time.Second, PermitWithoutStream: true,
		}))
		cc.Connect()
		time.Sleep(time.Hour) // by the clock that jumps
		select {
		case err := <-ended:
			t.Errorf("the connection ended: %v", err)
		default:
		}
	})
}

// Nobody's PINGs may come faster for long.
func TestClientPings(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := inMemory(t, rigConfig{}, nil, silent)
		c := m.client(t)
		c.Mute = true
		for range 10 {
			c.Ping(false, [8]byte{1}) //nolint:errcheck // the reads tell
			time.Sleep(time.Second)
		}
		f := must(c.Until(rawpeer.Is(http2.FrameGoAway, 0)))(t)
		if f.Code != http2.ErrCodeEnhanceYourCalm || string(f.Payload) != "too_many_pings" {
			t.Errorf("got %v", f)
		}
	})
}

// Clients' connections end after a time without calls, or of any kind, with two-step GOAWAY; a
// call that outlives the grace is cut.
func TestClientConnectionAges(t *testing.T) {
	tests := []struct {
		name     string
		call     bool // one is open all the time
		from, to time.Duration
		cut      bool
	}{
		{"idle", false, 5 * time.Minute, 5*time.Minute + 5*time.Second, false},
		{"old", true, 59 * time.Minute, 72 * time.Minute, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ended := make(chan error, 1)
				m := inMemory(t, rigConfig{server: func(s *relay.Server) {
					s.Hooks.ConnClosed = func(_ net.Addr, err error) { ended <- err }
				}}, nil, silent)
				begin := time.Now()
				c := m.client(t)
				if tt.call {
					check(t, c.Headers(1, true, rawpeer.Request("/a.B/C")...))
				}
				f := must(c.Until(rawpeer.Is(http2.FrameGoAway, 0)))(t)
				if f.Code != http2.ErrCodeNo || f.Last != 1<<31-1 {
					t.Errorf("the first word is %v", f)
				}
				for err := error(nil); err == nil; _, err = c.Read() {
				}
				took := time.Since(begin)
				if took < tt.from || took > tt.to {
					t.Errorf("it ended after %v, want %v to %v", took, tt.from, tt.to)
				}
				if err := <-ended; (err != nil && strings.Contains(err.Error(), "age")) != tt.cut {
					t.Errorf("it ended because of %v", err)
				}
			})
		})
	}
}

// A client that reads nothing is cut after the write timeout, whatever waits for it.
func TestClientReadsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ended := make(chan error, 1)
		generous := frames(func(p *rawpeer.Peer, f rawpeer.Frame) error {
			if f.Type != http2.FrameHeaders {
				return nil
			}
			p.Headers(f.StreamID, false, rawpeer.Response()...)
			return p.Data(f.StreamID, false, make([]byte, 60_000))
		})
		m := inMemory(t, rigConfig{server: func(s *relay.Server) {
			s.Hooks.ConnClosed = func(_ net.Addr, err error) { ended <- err }
		}}, nil, generous)
		begin := time.Now()
		c := m.client(t)
		check(t, c.WideOpen())
		for id := uint32(1); id < 60; id += 2 {
			check(t, c.Headers(id, true, rawpeer.Request("/a.B/C")...))
		}
		err := <-ended
		if took := time.Since(begin); took < 30*time.Second || took > 40*time.Second || !strings.Contains(err.Error(), "reads nothing") {
			t.Errorf("after %v it ended because of %v", took, err)
		}
		if n := m.Buffered(); n != 0 {
			t.Errorf("%d octets still wait for it", n)
		}
	})
}

// An endpoint that was dead is used again soon after it has come back, however it was dead.
func TestRecovery(t *testing.T) {
	for _, how := range []error{errBlackHole, errors.New("refused")} {
		t.Run(how.Error(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var alive atomic.Bool
				m := inMemory(t, rigConfig{}, func(int) error {
					if alive.Load() {
						return nil
					}
					return how
				}, answering)
				for i := range 20 {
					alive.Store(false)
					m.cut()
					time.Sleep(5*time.Minute + time.Duration(i)*time.Second) // by the clock that jumps
					alive.Store(true)
					back := time.Now()
					e := m.backend.Endpoints[0]
					awaitReady(t, e)
					if took := time.Since(back); took > 30*time.Second {
						t.Errorf("used again %v after it came back", took)
					}
				}
			})
		})
	}
}

// A further connection that could not be made is no reason to turn calls away when, much later, the only one ends and the next is on
// its way: they wait for it.
func TestLostAfterFailedGrowth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		requests := make(chan event, 10)
		m := inMemory(t, rigConfig{}, func(n int) error {
			switch n {
			case 1:
				return errors.New("refused")
			case 2:
				time.Sleep(time.Second) // by the clock that jumps
			}
			return nil
		}, func(p *rawpeer.Peer) {
			for err := p.Greet(http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: 1}); err == nil; {
				var f rawpeer.Frame
				if f, err = p.Read(); f.Type == http2.FrameHeaders {
					requests <- event{f, p}
				}
			}
		})
		cc := m.channel(t)
		ended := make(chan error, 3)
		call := func() { // ends with its answer
			_, err := unary(t.Context(), cc, "/a.B/C", "m")
			ended <- err
		}
		go call()
		up := <-requests
		go call()
		synctest.Wait() // the second has not found a connection with room, and none could be made
		up.ok(t)
		up = <-requests
		up.ok(t)
		<-ended
		<-ended
		time.Sleep(time.Minute)
		up.Close()
		synctest.Wait()
		if s := m.backend.Endpoints[0].State(); s != relay.Connecting {
			t.Errorf("the endpoint is %v, want connecting", s)
		}
		go call()
		select {
		case up = <-requests:
			up.ok(t)
			<-ended
		case err := <-ended:
			t.Errorf("a call did not wait for the connection: %v", err)
		}
	})
}

// Calls with deadlines end on time at a backend that has stopped, and leave nothing there.
func TestStoppedBackend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := inMemory(t, rigConfig{}, nil, answering)
		cc := m.channel(t)
		must(unary(t.Context(), cc, "/a.B/C", "m"))
		m.conns[0].Freeze()
		var wg sync.WaitGroup
		for i := range 50 {
			wg.Go(func() {
				d := time.Duration(i+1) * 100 * time.Millisecond
				ctx, cancel := context.WithTimeout(t.Context(), d)
				defer cancel()
				begin := time.Now()
				_, err := unary(ctx, cc, "/a.B/C", "m")
				if took := time.Since(begin); status.Code(err) != codes.DeadlineExceeded || took > d+50*time.Millisecond {
					t.Errorf("a call with %v ended after %v with %v", d, took, err)
				}
			})
		}
		wg.Wait()
		synctest.Wait()
		if n := m.InFlight() + m.backend.Endpoints[0].InFlight(); n != 0 {
			t.Errorf("%d calls are left", n)
		}
		m.conns[0].Thaw()
		if _, err := unary(t.Context(), cc, "/a.B/C", "m"); err != nil && status.Code(err) != codes.Internal {
			t.Errorf("after it went on: %v", err)
		}
	})
}
