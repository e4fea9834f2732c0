// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package relay_test

import (
	"fmt"
	"strings"
	"testing"

	"golang.org/x/net/http2"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/manifold-grpc/manifold/internal/rawpeer"
	"github.com/manifold-grpc/manifold/relay"
)

// limited is a played backend whose connections allow as many streams as the settings say.
func limited(t *testing.T, settings ...http2.Setting) (*rawpeer.Backend, <-chan event) {
	ch := make(chan event, 10_000)
	return raw(t, func(p *rawpeer.Peer) {
		if p.Greet(settings...) != nil {
			return
		}
		for {
			f, err := p.Read()
			if err != nil {
				return
			}
			if f.Type == http2.FrameHeaders {
				ch <- event{f, p}
			}
		}
	}), ch
}

// ok answers a call with nothing but success.
func (e event) ok(t *testing.T) {
	t.Helper()
	check(t, e.Headers(e.StreamID, true, rawpeer.TrailersOnly("0", "")...))
}

// opener opens streams on one client connection and tells how each ended.
type opener struct {
	*rawpeer.Peer
	next uint32
	ends chan rawpeer.Frame
}

func openerTo(t *testing.T, addr string) *opener {
	o := &opener{Peer: rawDial(t, addr), next: 1, ends: make(chan rawpeer.Frame, 10_000)}
	go func() { // ends with the connection
		for {
			f, err := o.Read()
			if err != nil {
				return
			}
			if f.End() || f.Type == http2.FrameRSTStream && f.Code != http2.ErrCodeNo {
				o.ends <- f
			}
		}
	}()
	return o
}

// open opens a call whose path has its number, and returns the stream.
func (o *opener) open(t *testing.T, more ...string) uint32 {
	t.Helper()
	id := o.next
	o.next += 2
	check(t, o.Headers(id, true, rawpeer.Request(fmt.Sprintf("/a.B/%d", id), more...)...))
	return id
}

// end waits for the end of a call, of whichever stream.
func (o *opener) end(t *testing.T) rawpeer.Frame {
	t.Helper()
	return wait(t, o.ends, "the end of a call")
}

// endOf waits for the end of one call and forgets those of others.
func (o *opener) endOf(t *testing.T, id uint32) rawpeer.Frame {
	t.Helper()
	for {
		if f := o.end(t); f.StreamID == id {
			return f
		}
	}
}

// When every connection has as many streams as the upstream allows, further ones are made up to
// the bound; then calls wait in their order.
func TestPoolGrowth(t *testing.T) {
	b, events := limited(t, http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: 2})
	r := start(t, rigConfig{endpoint: relay.EndpointConfig{MaxConnections: 3}}, b.Addr())
	e := r.backend.Endpoints[0]
	c := openerTo(t, r.addr)
	var at []event
	perConn := map[*rawpeer.Peer]int{}
	for range 6 {
		c.open(t)
		up := wait(t, events, "a call")
		at = append(at, up)
		perConn[up.Peer]++
	}
	if len(perConn) != 3 || e.Connections() != 3 {
		t.Errorf("6 calls are on %d connections of %d, want 3", len(perConn), e.Connections())
	}
	for _, n := range perConn {
		if n > 2 {
			t.Errorf("a connection that allows 2 streams has %d", n)
		}
	}
	first, second := c.open(t), c.open(t)
	c.open(t, "grpc-timeout", "30m")
	if f := c.end(t); f.StreamID != second+2 || f.Field("grpc-status") != "4" {
		t.Errorf("the call with a deadline ended with %v", f)
	}
	if n := e.InFlight(); n != 8 {
		t.Errorf("%d calls in flight, want 6 and 2 that wait", n)
	}
	for _, want := range []uint32{first, second} {
		at[0].ok(t)
		at = at[1:]
		c.end(t)
		up := wait(t, events, "a call that waited")
		if up.Field(":path") != fmt.Sprintf("/a.B/%d", want) {
			t.Errorf("%s was next, want that of stream %d", up.Field(":path"), want)
		}
		at = append(at, up)
	}
	for _, up := range at {
		up.ok(t)
		if f := c.end(t); f.Field("grpc-status") != "0" {
			t.Errorf("a call ended with %v", f)
		}
	}
	if b.Accepted() != 3 {
		t.Errorf("%d connections were made, want 3", b.Accepted())
	}
}

func TestPoolQueueFull(t *testing.T) {
	b, events := limited(t, http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: 1})
	reasons := make(chan string, 10)
	r := start(t, rigConfig{endpoint: relay.EndpointConfig{MaxConnections: 1, MaxWaiting: 2}, server: func(s *relay.Server) {
		s.Hooks.CallEnded = func(_ *relay.Call, st relay.CallStats) { reasons <- st.Reason }
	}}, b.Addr())
	c := openerTo(t, r.addr)
	c.open(t)
	up := wait(t, events, "the call that is served")
	c.open(t)
	cancelled := c.open(t)
	full := c.open(t)
	if f := c.end(t); f.StreamID != full || f.Field("grpc-status") != "14" || !strings.Contains(f.Field("grpc-message"), "too many calls wait") {
		t.Errorf("the call too many got %v", f)
	}
	if s := wait(t, reasons, "its reason"); s != relay.ReasonQueueFull {
		t.Errorf("reason %q", s)
	}
	check(t, c.Reset(cancelled, http2.ErrCodeCancel)) // leaves the queue
	if s := wait(t, reasons, "its reason"); s != relay.ReasonCanceled {
		t.Errorf("reason %q", s)
	}
	c.open(t) // takes its place
	for _, want := range []string{"/a.B/1", "/a.B/3", "/a.B/9"} {
		if up.Field(":path") != want {
			t.Errorf("%s was served, want %s", up.Field(":path"), want)
		}
		up.ok(t)
		c.end(t)
		if want != "/a.B/9" {
			up = wait(t, events, "the next")
		}
	}
}

// An upstream may allow no stream at first, and change its mind at any time.
func TestPoolSettingsChange(t *testing.T) {
	limit := func(n uint32) http2.Setting { return http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: n} }
	peers := make(chan *rawpeer.Peer, 1)
	events := make(chan event, 10)
	b := raw(t, func(p *rawpeer.Peer) {
		if p.Greet(limit(0)) != nil {
			return
		}
		peers <- p
		for {
			f, err := p.Read()
			if err != nil {
				return
			}
			if f.Type == http2.FrameHeaders {
				events <- event{f, p}
			}
		}
	})
	r := start(t, rigConfig{endpoint: relay.EndpointConfig{MaxConnections: 1}}, b.Addr())
	p := wait(t, peers, "the connection")
	c := openerTo(t, r.addr)
	c.open(t)
	c.open(t, "grpc-timeout", "30m")
	if f := c.end(t); f.StreamID != 3 || f.Field("grpc-status") != "4" {
		t.Errorf("a call that waits ended with %v", f)
	}
	check(t, p.Settings(limit(1)))
	wait(t, events, "the call that waited").ok(t)
	c.end(t)
}

// Calls of one connection take turns on the connections that there are.
func TestPoolSpreads(t *testing.T) {
	b, events := limited(t, http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: 10})
	r := start(t, rigConfig{endpoint: relay.EndpointConfig{MaxConnections: 2}}, b.Addr())
	c := openerTo(t, r.addr)
	var open []event
	for range 11 {
		c.open(t)
		open = append(open, wait(t, events, "a call"))
	}
	for _, e := range open {
		e.ok(t)
		c.end(t)
	}
	got := map[*rawpeer.Peer]int{}
	for range 10 {
		c.open(t)
		up := wait(t, events, "a call")
		got[up.Peer]++
		up.ok(t)
		c.end(t)
	}
	for _, n := range got {
		if n != 5 {
			t.Errorf("10 calls on 2 connections went %v", got)
		}
	}
}

// Without endpoints, or with none that is up, calls fail at once with what is known.
func TestNoEndpoint(t *testing.T) {
	_, err := unary(within(t), dial(t, start(t, rigConfig{}).addr), "/a.B/C", "m")
	if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "backend b has no endpoint") {
		t.Errorf("without an endpoint: %v", err)
	}
	l := listen(t)
	l.Close()
	_, err = unary(within(t), dial(t, start(t, rigConfig{}, l.Addr().String()).addr), "/a.B/C", "m")
	if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), l.Addr().String()) || !strings.Contains(err.Error(), "refused") {
		t.Errorf("with an endpoint that is down: %v", err)
	}
}
