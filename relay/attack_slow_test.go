// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package relay_test

import (
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"google.golang.org/grpc"

	"github.com/manifold-grpc/manifold/internal/rawpeer"
	"github.com/manifold-grpc/manifold/relay"
)

// pourer is a backend that sends each caller n octets, however long that takes, and
// counts what it got rid of.
type pourer struct {
	n    int
	sent atomic.Int64
}

func (p *pourer) handle(srv any, st grpc.ServerStream) error {
	if m, _ := grpc.MethodFromServerStream(st); m != "/attack.Service/Method" {
		return echo(srv, st)
	}
	chunk := string(make([]byte, 16<<10))
	for range p.n / len(chunk) {
		if err := send(st, chunk); err != nil {
			return err
		}
		p.sent.Add(int64(len(chunk)))
	}
	return nil
}

// deafen opens streams on connections that read nothing of them: their windows are 0.
func deafen(t *testing.T, addr string, conns int) {
	t.Helper()
	for range conns {
		p := rawDial(t, addr)
		check(t, p.Settings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0}))
		for i := range 100 {
			check(t, p.Headers(streamID(i), true, rawpeer.Request("/attack.Service/Method")...))
		}
		// Frames are still read, so that nothing but the windows stands in the way.
		go func() { // ends with the connection, which the test closes
			for {
				if _, err := p.Read(); err != nil {
					return
				}
			}
		}()
	}
}

// settled waits until v has not changed for a while, and returns it.
func settled(t *testing.T, v func() int64) int64 {
	t.Helper()
	last, since := v(), time.Now()
	eventually(t, func() bool {
		if now := v(); now != last || now == 0 {
			last, since = now, time.Now()
		}
		return time.Since(since) > 300*time.Millisecond
	}, "octets to stop coming")
	return last
}

// A thousand streams whose client grants no window, while the backend has 1 GiB for them: what
// is held is bounded by the windows, and the backend waits.
func TestAttackZeroWindow(t *testing.T) {
	p := &pourer{n: 1 << 20}
	r := start(t, rigConfig{}, serve(t, p.handle))
	before := heap()
	deafen(t, r.addr, 10)
	held := settled(t, r.Buffered)
	sent, grown := p.sent.Load(), heap()-before
	begin := time.Now()
	if _, err := unary(within(t), dial(t, r.addr), "/good.Service/Method", "hello"); err != nil {
		t.Errorf("another client's call: %v", err)
	}
	t.Logf("%d KiB held, %d MiB taken of the backend, heap (of client, relay and backend) grew by %d KiB; another client's call %v",
		held>>10, sent>>20, grown>>10, time.Since(begin).Round(time.Microsecond))
	if bound := int64(1000 * 64 << 10); held > bound {
		t.Errorf("%d octets are held, want at most the windows of a thousand streams, %d", held, bound)
	}
	if sent > 256<<20 {
		t.Errorf("the backend got rid of %d octets, want it to wait", sent)
	}
}

// Two hundred streams that nobody reads, with 1 MiB waiting for each: the configured budget is
// never passed, whoever needs more is ended, and another client's calls go on.
func TestAttackUnreadBudget(t *testing.T) {
	const budget = 4 << 20
	p := &pourer{n: 1 << 20}
	r := start(t, rigConfig{server: func(s *relay.Server) { s.Limits.Buffer = budget }}, serve(t, p.handle))
	cc := dial(t, r.addr)
	var idle, busy []time.Duration
	call := func(times *[]time.Duration) {
		begin := time.Now()
		if s, err := unary(within(t), cc, "/good.Service/Method", "hello"); err != nil || s != "hello" {
			t.Fatalf("another client's call: %q, %v", s, err)
		}
		*times = append(*times, time.Since(begin))
	}
	for range 200 {
		call(&idle)
	}
	deafen(t, r.addr, 2)
	most := int64(0)
	for range 500 {
		call(&busy)
		most = max(most, r.Buffered())
	}
	most = max(most, settled(t, r.Buffered))
	t.Logf("at most %d KiB held; p99 of other calls %v, before %v", most>>10, percentile(busy, 99), percentile(idle, 99))
	if most > budget {
		t.Errorf("%d octets were held, want at most %d", most, budget)
	}
}
