// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package relay_test

import (
	"io"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"
	"google.golang.org/grpc"

	"github.com/manifold-grpc/manifold/internal/memnet"
	"github.com/manifold-grpc/manifold/internal/rawpeer"
	"github.com/manifold-grpc/manifold/relay"
)

// mirrorTo returns a backend at addr that is connected, and what became of its mirrors.
func mirrorTo(t *testing.T, addr string, cfg relay.EndpointConfig) (*relay.Backend, <-chan string) {
	t.Helper()
	e := relay.NewEndpoint(addr, cfg)
	t.Cleanup(e.Close)
	e.WaitForStateChange(within(t), relay.Connecting)
	results := make(chan string, 100)
	return &relay.Backend{Name: "m", Endpoints: []*relay.Endpoint{e}, MirrorEnded: func(result string) { results <- result }}, results
}

// copied has calls forwarded to the backend that r has by then, with copies to m.
func copied(r **rig, m *relay.Backend) rigConfig {
	return rigConfig{server: func(s *relay.Server) {
		s.Route = func(c *relay.Call) {
			c.Mirror(m)
			c.Forward((*r).backend)
		}
	}}
}

func nothingHeld(t *testing.T) {
	t.Helper()
	eventually(t, func() bool { return relay.MirrorsHeld() == 0 }, "mirrors to give back their memory")
}

// noteAll tells of each call's messages when it ends.
func noteAll(calls chan<- []string) grpc.StreamHandler {
	return func(_ any, st grpc.ServerStream) error {
		var all []string
		defer func() { calls <- all }()
		for {
			m, err := recv(st)
			if err == io.EOF {
				return nil
			}
			if err != nil {
				return err
			}
			all = append(all, m)
		}
	}
}

// What came before a late decision is copied too, once.
func TestMirrorOfLateDecision(t *testing.T) {
	copies := make(chan []string, 1)
	m, results := mirrorTo(t, serve(t, noteAll(copies)), relay.EndpointConfig{})
	calls := make(chan *relay.Call, 1)
	r := start(t, holding(calls), serve(t, echo))
	cc := dial(t, r.addr)
	for _, messages := range [][]string{nil, {"a"}, {strings.Repeat("a", 30_000), strings.Repeat("b", 30_000)}, {strings.Repeat("c", 300_000)}} {
		st := must(cc.NewStream(within(t), bidi, "/a.B/C"))(t)
		c := wait(t, calls, "the call")
		sent := make(chan struct{})
		go func() { // ends with the stream
			defer close(sent)
			for _, m := range messages {
				send(st, m) //nolint:errcheck // the answers tell
			}
			st.CloseSend() //nolint:errcheck // always nil
		}()
		c.Mirror(m)
		c.Forward(r.backend)
		for range messages {
			must(recv(st))(t)
		}
		if _, err := recv(st); err != io.EOF {
			t.Fatal(err)
		}
		<-sent
		if got := wait(t, copies, "the copy"); !slices.Equal(got, messages) {
			t.Errorf("%d messages copied, want %d as they were sent", len(got), len(messages))
		}
		if got := wait(t, results, "the mirror's end"); got != relay.MirrorAnswered {
			t.Errorf("result %q", got)
		}
	}
	nothingHeld(t)
}

// All of what waits for a decision is copied, though the call itself keeps no more than 32 KiB of it once it is sent.
func TestMirrorOfWaitingRequest(t *testing.T) {
	copies := make(chan []string, 1)
	m, _ := mirrorTo(t, serve(t, noteAll(copies)), relay.EndpointConfig{})
	calls := make(chan *relay.Call, 1)
	r := start(t, holding(calls), serve(t, echo))
	c := rawDial(t, r.addr)
	check(t, c.Headers(1, false, rawpeer.Request("/a.B/C")...))
	message := strings.Repeat("m", 50_000)
	for p := rawpeer.Message([]byte(message)); len(p) > 0; {
		n := min(len(p), 16<<10)
		check(t, c.Data(1, n == len(p), p[:n]))
		p = p[n:]
	}
	check(t, c.Ping(false, [8]byte{1}))
	must(c.Until(func(f rawpeer.Frame) bool { return f.Type == http2.FramePing && f.Flags.Has(http2.FlagPingAck) }))(t)
	call := wait(t, calls, "the call")
	call.Mirror(m)
	call.Forward(r.backend)
	if got := wait(t, copies, "the copy"); !slices.Equal(got, []string{message}) {
		t.Errorf("%d messages copied, other than the one that was sent", len(got))
	}
	nothingHeld(t)
}

// A slow mirror gets later what waited for it, and gives back the memory.
func TestMirrorCatchesUp(t *testing.T) {
	const octets = 200_000
	open := make(chan struct{})
	got := make(chan int, 1)
	backend := raw(t, func(p *rawpeer.Peer) {
		if p.Greet() != nil {
			return
		}
		n := 0
		for {
			f, err := p.Read()
			if err != nil {
				return
			}
			switch f.Type {
			case http2.FrameHeaders:
				<-open
				p.WideOpen()                   //nolint:errcheck // Read tells
				p.Window(f.StreamID, 2*octets) //nolint:errcheck // Read tells
			case http2.FrameData:
				n += len(f.Payload)
			}
			if f.Type == http2.FrameData && f.End() {
				got <- n
				p.Headers(f.StreamID, true, rawpeer.TrailersOnly("0", "")...) //nolint:errcheck // Read tells
			}
		}
	})
	m, results := mirrorTo(t, backend.Addr(), relay.EndpointConfig{})
	var r *rig
	r = start(t, copied(&r, m), serve(t, echo))
	st := must(dial(t, r.addr).NewStream(within(t), bidi, "/a.B/C"))(t)
	check(t, send(st, strings.Repeat("m", octets)))
	must(recv(st))(t)
	if held := relay.MirrorsHeld(); held < octets-65535 || held > 256<<10+4<<10 {
		t.Errorf("mirrors hold %d octets", held)
	}
	close(open)
	eventually(t, func() bool { return relay.MirrorsHeld() == 4<<10 }, "what waited to be sent")
	check(t, st.CloseSend())
	if _, err := recv(st); err != io.EOF {
		t.Fatal(err)
	}
	if n := wait(t, got, "the end of the copy"); n != octets+5 {
		t.Errorf("%d octets copied, want %d", n, octets+5)
	}
	if result := wait(t, results, "the mirror's end"); result != relay.MirrorAnswered {
		t.Errorf("result %q", result)
	}
	nothingHeld(t)
}

// Mirrors take no more than their share of a connection's streams, and have the pool grow.
func TestMirrorLeavesRoom(t *testing.T) {
	backend := raw(t, func(p *rawpeer.Peer) {
		if p.Greet(http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: 5}) == nil {
			p.Until(func(rawpeer.Frame) bool { return false }) //nolint:errcheck // ends with the connection
		}
	})
	m, results := mirrorTo(t, backend.Addr(), relay.EndpointConfig{MaxConnections: 2})
	var r *rig
	r = start(t, copied(&r, m), serve(t, echo))
	cc := dial(t, r.addr)
	for i := range 5 {
		st := must(cc.NewStream(within(t), bidi, "/a.B/C"))(t)
		check(t, send(st, "m"))
		must(recv(st))(t)
		if i < 4 && len(results) > 0 {
			t.Fatalf("mirror %d ended: %q", i, <-results)
		}
	}
	if got := wait(t, results, "the mirror that has no room"); got != relay.MirrorDropped {
		t.Errorf("result %q", got)
	}
	eventually(t, func() bool { return m.Endpoints[0].Connections() == 2 }, "a further connection")
	m.Endpoints[0].Close()
	for range 4 {
		if got := wait(t, results, "the end of a mirror"); got != relay.MirrorLost {
			t.Errorf("result %q", got)
		}
	}
	nothingHeld(t)
}

// Attempts of the call are no matter of its mirror: it gets the request once.
func TestMirrorOfRetriedCall(t *testing.T) {
	copies := make(chan []string, 10)
	m, _ := mirrorTo(t, serve(t, noteAll(copies)), relay.EndpointConfig{})
	up := &failing{fails: 2, fail: func(p *rawpeer.Peer, id uint32) error { return p.Reset(id, http2.ErrCodeRefusedStream) }}
	var r *rig
	r = start(t, copied(&r, m), raw(t, up.play).Addr())
	st := must(dial(t, r.addr).NewStream(within(t), bidi, "/a.B/C"))(t)
	check(t, send(st, "m"))
	check(t, st.CloseSend())
	for {
		if _, err := recv(st); err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	if got := wait(t, copies, "the copy"); !slices.Equal(got, []string{"m"}) {
		t.Errorf("copied %q", got)
	}
	if n := len(up.requests()); n != 3 || len(copies) > 0 {
		t.Errorf("%d attempts, %d more copies", n, len(copies))
	}
	nothingHeld(t)
}

// A mirror outlives its call by 10 s at most, and only if its request is complete, wanted and in time.
func TestMirrorGrace(t *testing.T) {
	tests := []struct {
		name    string
		path    string
		end     bool // of the request
		timeout string
		cancel  bool
		want    time.Duration // from the request to the end of the mirror
	}{
		{"complete", "/a.B/C", true, "", false, 10 * time.Second},
		{"complete, with a deadline", "/a.B/C", true, "3S", false, 3 * time.Second},
		{"complete, with a late deadline", "/a.B/C", true, "30S", false, 10 * time.Second},
		{"answered early", "/a.B/C", false, "", false, 0},
		{"cancelled", "/a.B/Hang", true, "", true, 0},
		{"cancelled early", "/a.B/Hang", false, "", true, 0},
		{"out of time", "/a.B/Hang", true, "3S", false, 3 * time.Second},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began, cut := make(chan time.Time, 1), make(chan time.Time, 1)
				l := memnet.Listen("mirror")
				b := rawpeer.Serve(l, func(p *rawpeer.Peer) {
					p.Patience = forever
					frames(func(_ *rawpeer.Peer, f rawpeer.Frame) error {
						switch {
						case f.Type == http2.FrameHeaders:
							began <- time.Now()
						case f.Type == http2.FrameRSTStream && f.Code == http2.ErrCodeCancel:
							cut <- time.Now()
						}
						return nil
					})(p)
				})
				t.Cleanup(b.Close)
				m, results := mirrorTo(t, "mirror", relay.EndpointConfig{Dial: l.DialContext})
				var r *rig
				mem := inMemory(t, copied(&r, m), nil, frames(func(p *rawpeer.Peer, f rawpeer.Frame) error {
					if f.Type == http2.FrameHeaders && f.Field(":path") == "/a.B/C" {
						return p.Headers(f.StreamID, true, rawpeer.TrailersOnly("0", "")...)
					}
					return nil
				}))
				r = mem.rig
				c := mem.client(t)
				var more []string
				if tt.timeout != "" {
					more = []string{"grpc-timeout", tt.timeout}
				}
				check(t, c.Headers(1, tt.end, rawpeer.Request(tt.path, more...)...))
				start := <-began
				if tt.cancel {
					check(t, c.Reset(1, http2.ErrCodeCancel))
				}
				if d := (<-cut).Sub(start); d != tt.want {
					t.Errorf("mirror was cut after %v, want %v", d, tt.want)
				}
				if got := <-results; got != relay.MirrorCut || relay.MirrorsHeld() != 0 {
					t.Errorf("result %q, %d octets held", got, relay.MirrorsHeld())
				}
			})
		})
	}
}
