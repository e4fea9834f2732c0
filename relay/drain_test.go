// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package relay_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"
	"google.golang.org/grpc/status"

	"github.com/manifold-grpc/manifold/internal/certtest"
	"github.com/manifold-grpc/manifold/internal/memnet"
	"github.com/manifold-grpc/manifold/internal/rawpeer"
	"github.com/manifold-grpc/manifold/relay"
)

// The two steps of RFC 9113 section 6.8: a GOAWAY that leaves nobody out, a round trip, and one
// that names the last stream. What runs ends in peace.
func TestDrainSteps(t *testing.T) {
	b, events := played(t)
	r := start(t, rigConfig{}, b.Addr())
	c := rawDial(t, r.addr)
	c.Mute = true
	check(t, c.Headers(1, true, rawpeer.Request("/a.B/C")...))
	first := wait(t, events, "the first call")

	done := make(chan error, 1)
	go func() { done <- r.Shutdown(within(t)) }()
	if f := must(c.Until(rawpeer.Is(http2.FrameGoAway, 0)))(t); f.Last != 1<<31-1 || f.Code != http2.ErrCodeNo {
		t.Fatalf("the first step is %v", f)
	}
	ping := must(c.Until(rawpeer.Is(http2.FramePing, 0)))(t)

	check(t, c.Headers(3, true, rawpeer.Request("/a.B/C")...)) // was on its way
	second := wait(t, events, "the call that was on its way")

	check(t, c.Ping(true, [8]byte(ping.Payload)))
	if f := must(c.Until(rawpeer.Is(http2.FrameGoAway, 0)))(t); f.Last != 3 || f.Code != http2.ErrCodeNo {
		t.Fatalf("the second step is %v", f)
	}
	check(t, c.Headers(5, true, rawpeer.Request("/a.B/C")...)) // against the rule: nobody hears of it
	for _, e := range []event{first, second} {
		e.ok(t)
		if f := must(c.Until(rawpeer.Is(http2.FrameHeaders, e.StreamID)))(t); f.Field("grpc-status") != "0" {
			t.Errorf("a call ended with %v", f)
		}
	}
	if f, err := c.Until(rawpeer.Is(http2.FrameHeaders, 5)); !errors.Is(err, io.EOF) {
		t.Errorf("after the last call came %v, %v", f, err)
	}
	if err := wait(t, done, "Shutdown"); err != nil {
		t.Error(err)
	}
	if len(events) > 0 {
		t.Errorf("the backend got %v", (<-events).Frame)
	}
}

// A drain under load: compliant clients, which have somewhere else to go, see no call fail.
func TestDrainUnderLoad(t *testing.T) {
	const drains = 3
	backend := serve(t, echo)
	rigs := []*rig{start(t, rigConfig{}, backend)}
	where := manual.NewBuilderWithScheme("drain")
	point := func() {
		where.UpdateState(resolver.State{Addresses: []resolver.Address{{Addr: rigs[len(rigs)-1].addr}}})
	}
	where.InitialState(resolver.State{Addresses: []resolver.Address{{Addr: rigs[0].addr}}})
	cc := must(grpc.NewClient("drain:///x", grpc.WithResolvers(where), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.ForceCodec(octets{"octets"}), grpc.WaitForReady(true))))(t)
	defer cc.Close()

	var stop atomic.Bool
	var calls, streams atomic.Int64
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for !stop.Load() {
				if out, err := unary(within(t), cc, "/a.B/C", "load"); err != nil || out != "load" {
					t.Errorf("a call failed: %v", err)
				}
				calls.Add(1)
			}
		})
		wg.Go(func() {
			for !stop.Load() {
				if err := talk(within(t), cc, 50); err != nil {
					t.Errorf("a stream failed: %v", err)
				}
				streams.Add(1)
			}
		})
	}
	for range drains {
		for n := calls.Load(); calls.Load() < n+50; {
			must(unary(within(t), cc, "/a.B/C", "wait"))(t)
		}
		old := rigs[len(rigs)-1]
		rigs = append(rigs, start(t, rigConfig{}, backend))
		point()
		check(t, old.Shutdown(within(t)))
	}
	stop.Store(true)
	wg.Wait()
	t.Logf("%d calls and %d streams over %d drains, none failed", calls.Load(), streams.Load(), drains)
}

// talk has n messages go to and fro on a stream.
func talk(ctx context.Context, cc *grpc.ClientConn, n int) error {
	st, err := cc.NewStream(ctx, bidi, "/a.B/C")
	for i := 0; err == nil && i < n; i++ {
		if err = send(st, fmt.Sprint(i)); err == nil {
			_, err = recv(st)
		}
	}
	if err != nil {
		return err
	}
	st.CloseSend() //nolint:errcheck // always nil
	if _, err = recv(st); err == io.EOF {
		return nil
	}
	return err
}

// What has not ended when time is up is cut, and counted.
func TestDrainCut(t *testing.T) {
	b, events := played(t)
	r := start(t, rigConfig{}, b.Addr())
	c := openerTo(t, r.addr)
	for range 3 {
		c.open(t)
		wait(t, events, "a call")
	}
	if n := r.InFlight(); n != 3 {
		t.Errorf("%d in flight", n)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	var cut *relay.CutError
	if err := r.Shutdown(ctx); !errors.As(err, &cut) || cut.Calls != 3 || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Shutdown returned %v", err)
	}
	if r.Connections() != 0 || r.InFlight() != 0 {
		t.Errorf("%d connections and %d calls are left", r.Connections(), r.InFlight())
	}
	for range 3 {
		if f := wait(t, events, "the end upstream"); f.Type != http2.FrameRSTStream {
			t.Errorf("the backend got %v", f.Frame)
		}
	}
}

// A server that is drained or closed takes no further listener, and may be closed again.
func TestServeAfterShutdown(t *testing.T) {
	l := memnet.Listen("drained")
	r := start(t, rigConfig{listener: l})
	check(t, r.Shutdown(within(t)))
	r.Close()
	r.Close()
	if err := r.Serve(listen(t)); !errors.Is(err, relay.ErrServerClosed) {
		t.Errorf("Serve returned %v", err)
	}
	for ctx := within(t); ; runtime.Gosched() { // Serve closes it, and may have come late
		if nc, err := l.DialContext(ctx); err == nil {
			nc.Close()
		} else if !errors.Is(err, syscall.ECONNREFUSED) {
			t.Fatalf("the old listener still takes connections: %v", err)
		} else {
			break
		}
	}
	if err := new(relay.Server).Serve(listen(t)); err == nil || !strings.Contains(err.Error(), "Route") {
		t.Errorf("without a Route Serve returned %v", err)
	}
}

// A connection that came to nothing yet does not hold up a drain, however long it might have taken otherwise.
func TestDrainBeforePreface(t *testing.T) {
	cert := certtest.New(t).Issue(t, "front").Certificate
	for _, tt := range []struct{ name, sent string }{
		{"nothing", ""}, {"half of a preface", http2.ClientPreface[:12]}, {"a preface", http2.ClientPreface},
		{"TLS", ""}, {"TLS, half of a hello", "\x16\x03\x01\x40\x00"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := inMemory(t, rigConfig{server: func(s *relay.Server) {
					s.Limits.SettingsTimeout, s.Limits.HandshakeTimeout = time.Hour, time.Hour
					if strings.HasPrefix(tt.name, "TLS") {
						s.TLS = &tls.Config{Certificates: []tls.Certificate{cert}}
					}
				}}, nil, silent)
				nc := must(m.front.DialContext(t.Context()))(t)
				defer nc.Close()
				io.WriteString(nc, tt.sent) //nolint:errcheck // the drain tells
				synctest.Wait()
				go io.Copy(io.Discard, nc) //nolint:errcheck // ends with the connection
				begin := time.Now()
				check(t, m.Shutdown(t.Context()))
				if took := time.Since(begin); took > 3*time.Second {
					t.Errorf("the drain took %v", took)
				}
			})
		})
	}
}

// What was on its way when the drain began is still served, and its connection not cut by the bound for those
// that say nothing.
func TestDrainAtPreface(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := inMemory(t, rigConfig{}, nil, frames(func(p *rawpeer.Peer, f rawpeer.Frame) error {
			if f.Type != http2.FrameHeaders {
				return nil
			}
			time.Sleep(20 * time.Second)
			return p.Headers(f.StreamID, true, rawpeer.TrailersOnly("0", "")...)
		}))
		nc := must(m.front.DialContext(t.Context()))(t)
		defer nc.Close()
		synctest.Wait()
		done := make(chan error, 1)
		go func() { done <- m.Shutdown(t.Context()) }()
		time.Sleep(900 * time.Millisecond)
		c := must(rawpeer.Client(nc))(t)
		c.Patience = forever
		check(t, c.Headers(1, true, rawpeer.Request("/a.B/C")...))
		if f := must(c.Until(rawpeer.Is(http2.FrameHeaders, 1)))(t); f.Field("grpc-status") != "0" {
			t.Errorf("the call ended with %v", f)
		}
		check(t, <-done)
	})
}

// Closing an endpoint ends its calls with a status, moves those that wait, and
// leaves nothing behind.
func TestEndpointClose(t *testing.T) {
	b, events := limited(t, http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: 1})
	other := raw(t, frames(func(p *rawpeer.Peer, f rawpeer.Frame) error {
		if f.Type == http2.FrameHeaders {
			return p.Headers(f.StreamID, true, rawpeer.TrailersOnly("0", "")...)
		}
		return nil
	}))
	r := start(t, rigConfig{endpoint: relay.EndpointConfig{MaxConnections: 1}}, b.Addr(), other.Addr())
	closing := r.backend.Endpoints[0]
	r.backend.Pick = func(_ *relay.Call, candidates []*relay.Endpoint) *relay.Endpoint { return candidates[0] }
	c := openerTo(t, r.addr)
	c.open(t)
	wait(t, events, "the call that is served")
	c.open(t)
	eventually(t, func() bool { return closing.InFlight() == 2 }, "the second call to wait")
	closing.Close()
	got := map[uint32]string{}
	for range 2 {
		f := c.end(t)
		got[f.StreamID] = f.Field("grpc-status")
	}
	if got[1] != "14" || got[3] != "0" {
		t.Errorf("the call at the endpoint and the one that waited ended with %v, want 14 and 0", got)
	}
	if closing.State() != relay.Closed || closing.Connections() != 0 || closing.InFlight() != 0 {
		t.Errorf("%v, %d connections, %d in flight", closing.State(), closing.Connections(), closing.InFlight())
	}
	closing.Close()
	c.open(t)
	if f := c.end(t); f.Field("grpc-status") != "0" {
		t.Errorf("afterwards a call ended with %v", f)
	}
}

// Without any endpoint left, a call that waited says why it failed.
func TestEndpointCloseLast(t *testing.T) {
	b, events := limited(t, http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: 1})
	r := start(t, rigConfig{endpoint: relay.EndpointConfig{MaxConnections: 1}}, b.Addr())
	cc := dial(t, r.addr)
	results := make(chan error, 2)
	call := func() {
		_, err := unary(within(t), cc, "/a.B/C", "m")
		results <- err
	}
	go call() // both end with the endpoint
	wait(t, events, "the call that is served")
	go call()
	eventually(t, func() bool { return r.backend.Endpoints[0].InFlight() == 2 }, "the second call to wait")
	r.backend.Endpoints[0].Close()
	for range 2 {
		if err := wait(t, results, "the end of a call"); status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "backend b") {
			t.Errorf("got %v", err)
		}
	}
}
