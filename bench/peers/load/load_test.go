// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package load

import (
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/manifold-grpc/manifold/bench/peers/backend"
	"github.com/manifold-grpc/manifold/bench/peers/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// kinds are all kinds of calls.
var kinds = map[string]Call{
	"echo":      {Size: 64, Trips: 1},
	"large":     {Size: 200_000, Trips: 1},
	"ping-pong": {Size: 100, Trips: 20},
	"pull":      {Size: 1000, Trips: 1, Pull: 50},
	"timeouts":  {Size: 64, Trips: 1, Timeouts: true},
	"held":      {Size: 64, Trips: 1, Hold: true},
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return lis
}

func TestGenerator(t *testing.T) {
	for name, call := range kinds {
		t.Run(name, func(t *testing.T) {
			lis := listen(t)
			b := backend.Serve(lis, backend.Config{Join: wire.DefaultJoin})
			defer b.Close()
			var g Generator
			defer g.Close()
			plan := Plan{Addr: lis.Addr().String(), Connections: 3, Streams: 7, Call: call, Join: wire.DefaultJoin}
			if err := g.Open(plan); err != nil {
				t.Fatal(err)
			}
			if call.Hold {
				if len(g.clients) != 3 {
					t.Errorf("%d connections, expected 3", len(g.clients))
				}
				return
			}
			for range 2 { // the second run uses connections and streams again
				r, err := g.Run(20 * time.Millisecond)
				if err != nil {
					t.Fatal(err)
				}
				if r.Calls < 21 || r.Wall < 20*time.Millisecond || r.P50 <= 0 || r.P99 < r.P50 || r.P99 > r.Wall*2 {
					t.Errorf("result %+v of 21 streams", r)
				}
			}
			if fault := b.Fault(); fault != "" {
				t.Error(fault)
			}
		})
	}
}

// Calls begin at the rate, on each connection in turn; and those beside them that
// nobody reads, or only slowly, neither count nor stop them.
func TestPaceBesideSlowReaders(t *testing.T) {
	lis := listen(t)
	b := backend.Serve(lis, backend.Config{Join: wire.DefaultJoin})
	defer b.Close()
	var g Generator
	defer g.Close()
	plan := Plan{Addr: lis.Addr().String(), Connections: 10, Streams: 1, Rate: 1000, Call: kinds["echo"], Join: wire.DefaultJoin}
	if err := g.Open(plan); err != nil {
		t.Fatal(err)
	}
	pull := Call{Size: 1 << 10, Trips: 1, Pull: 4 << 10}
	for _, read := range []int{0, 1 << 10} {
		if err := g.Beside(Plan{Addr: plan.Addr, Connections: 2, Streams: 5, Read: read, Call: pull}); err != nil {
			t.Fatal(err)
		}
	}
	for run := range 2 {
		r, err := g.Run(55 * time.Millisecond)
		if err != nil {
			t.Fatal(err)
		}
		if r.Calls != 55 || r.Wall < 54*time.Millisecond || r.P50 <= 0 || r.P99 < r.P50 {
			t.Errorf("result %+v, expected 55 calls", r)
		}
		if want := []int{5, 0}[run]; g.next != want {
			t.Errorf("after run %d client %d is next, expected %d", run+1, g.next, want)
		}
	}
	if fault := b.Fault(); fault != "" {
		t.Error(fault)
	}
}

// A call that waits for the one before it on its connection has waited in vain: that
// is part of its time.
func TestPaceCountsWaiting(t *testing.T) {
	lis := listen(t)
	b := backend.Serve(lis, backend.Config{Join: wire.DefaultJoin})
	defer b.Close()
	var g Generator
	defer g.Close()
	if err := g.Open(Plan{Addr: lis.Addr().String(), Connections: 1, Streams: 1, Rate: 10, Call: kinds["echo"], Join: wire.DefaultJoin}); err != nil {
		t.Fatal(err)
	}
	if err := g.clients[0].one(time.Now().Add(-time.Minute)); err != nil {
		t.Fatal(err)
	}
	if got := g.clients[0].latency.quantile(0.5); got < 58*time.Second {
		t.Errorf("a call that was due a minute ago took %v", got)
	}
}

// A client beside the others whose connection breaks fails the run.
func TestSlowReaderLosesConnection(t *testing.T) {
	lis := listen(t)
	b := backend.Serve(lis, backend.Config{Join: wire.DefaultJoin})
	defer b.Close()
	front := listen(t)
	other := backend.Serve(front, backend.Config{Join: wire.DefaultJoin})
	var g Generator
	defer g.Close()
	if err := g.Beside(Plan{Addr: front.Addr().String(), Connections: 1, Streams: 1, Read: 1 << 20, Call: kinds["echo"], Join: wire.DefaultJoin}); err != nil {
		t.Fatal(err)
	}
	other.Close()
	<-g.beside[0].done
	if err := g.Open(Plan{Addr: lis.Addr().String(), Connections: 1, Streams: 1, Call: kinds["echo"], Join: wire.DefaultJoin}); err != nil {
		t.Fatal(err)
	}
	if _, err := g.Run(time.Millisecond); err == nil || !strings.Contains(err.Error(), "client beside") {
		t.Errorf("error %v, expected that of the client beside", err)
	}
}

func TestRunWithoutConnections(t *testing.T) {
	if _, err := new(Generator).Run(time.Millisecond); err == nil {
		t.Error("a run without calls succeeds")
	}
}

func TestBadPlan(t *testing.T) {
	for name, call := range map[string]Call{
		"too small": {Size: 15, Trips: 1}, "too large": {Size: 2 << 20, Trips: 1},
		"no message": {Size: 64}, "two ways": {Size: 64, Trips: 2, Pull: 2},
	} {
		if err := new(Generator).Open(Plan{Connections: 1, Streams: 1, Call: call}); err == nil {
			t.Errorf("%s: %+v is taken", name, call)
		}
	}
}

// faulty is a server that does one thing wrong.
type faulty struct {
	headers, trailers *wire.Template
	change            func(h *wire.Head, size, count *int)
}

func (f *faulty) Block(*wire.Stream, *wire.Block, bool) error { return nil }

func (f *faulty) Message(s *wire.Stream, h wire.Head, size int) error {
	count := 1
	if f.change != nil {
		f.change(&h, &size, &count)
	}
	if f.headers != nil {
		s.Headers(f.headers)
	}
	return s.Send(h, size, count)
}

func (f *faulty) End(s *wire.Stream) error {
	s.Finish(f.trailers)
	return nil
}

// The load must find whatever a proxy may do to a response. Damage within messages
// and broken streams are package wire's to find.
func TestClientFindsFaults(t *testing.T) {
	headers, trailers := wire.NewTemplate(backend.Headers[:]...), wire.NewTemplate(backend.Trailers[:]...)
	tests := []struct {
		name, want string
		faulty     faulty
	}{
		{"error status", `gRPC status "14" "no"`, faulty{headers: headers, trailers: wire.NewTemplate("grpc-status", "14", "grpc-message", "no", "bench-trailing", "trailer")}},
		{"trailer lost", `bench-trailing is ""`, faulty{headers: headers, trailers: wire.NewTemplate("grpc-status", "0")}},
		{"header lost", `bench-leading is ""`, faulty{headers: wire.NewTemplate(":status", "200", "content-type", "application/grpc"), trailers: trailers}},
		{"HTTP status", `HTTP status "502"`, faulty{headers: wire.NewTemplate(":status", "502"), trailers: trailers}},
		{"no headers", "message", faulty{trailers: trailers}},
		{"another call's message", "message", faulty{headers, trailers, func(h *wire.Head, _, _ *int) { h.Call++ }}},
		{"another message", "message", faulty{headers, trailers, func(h *wire.Head, _, _ *int) { h.Seq++ }}},
		{"shorter message", "of 63 octets", faulty{headers, trailers, func(_ *wire.Head, size, _ *int) { *size-- }}},
		{"message twice", "1 messages in all", faulty{headers, trailers, func(_ *wire.Head, _, count *int) { *count = 2 }}},
		{"no message", "after 0 messages", faulty{headers, trailers, func(_ *wire.Head, _, count *int) { *count = 0 }}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			lis := listen(t)
			var serving sync.WaitGroup
			defer serving.Wait()
			defer lis.Close()
			serving.Go(func() { // ends when the generator closes its connection
				if nc, err := lis.Accept(); err == nil {
					c := wire.NewServer(nc, &tt.faulty, wire.DefaultJoin)
					_ = c.Serve(func() bool { return false })
					c.Close()
				}
			})
			var g Generator
			defer g.Close()
			if err := g.Open(Plan{Addr: lis.Addr().String(), Connections: 1, Streams: 2, Call: kinds["echo"], Join: wire.DefaultJoin}); err != nil {
				t.Fatal(err)
			}
			if _, err := g.Run(time.Second); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, expected one with %q", err, tt.want)
			}
		})
	}
}

func TestTimeoutsDiffer(t *testing.T) {
	seen := map[string]bool{}
	for i := range uint64(100_000) {
		s := timeoutOf(i)
		if len(s) > 9 || seen[s] {
			t.Fatalf("call %d has timeout %s, which is too long or was there before", i, s)
		}
		seen[s] = true
	}
}
