// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"context"
	"fmt"
	"math"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/manifold-grpc/manifold/internal/config"
	"github.com/manifold-grpc/manifold/relay"
)

// membersOf returns members of weights, whose endpoints are not connected.
func membersOf(t testing.TB, weights ...int) []*member {
	var members []*member
	for i, w := range weights {
		m := &member{spec: spec{name: fmt.Sprintf("10.0.0.%d:50051", i)}, chosen: w > 0}
		m.share.Store(int64(w))
		if t != nil {
			m.ep = relay.NewEndpoint("unix:absent", relay.EndpointConfig{BackoffBase: time.Hour})
			t.Cleanup(m.ep.Close)
		}
		members = append(members, m)
	}

	return members
}

// Shares are exact over as many calls as there are endpoints, and by weights nearly so over any few.
func TestRoundRobin(t *testing.T) {
	var turn atomic.Uint64
	members := membersOf(nil, 1, 1, 1)
	v := newView(config.RoundRobin, "", members, nil)
	for i := range 9 {
		if v.pick(nil, &turn) != members[i%3] {
			t.Fatalf("call %d out of turn", i)
		}
	}

	members = membersOf(nil, 5, 3, 2)
	v = newView(config.RoundRobin, "", members, nil)
	for _, window := range []int{10, 100, 1000} {
		for start := range uint64(50) {
			got := map[*member]int{}
			for i := range uint64(window) {
				got[v.next(start+i)]++
			}
			for _, m := range members {
				want := float64(window*m.weight()) / 10
				if math.Abs(float64(got[m])-want) > 2 {
					t.Errorf("%d calls from %d on: %d, want %v give or take 2", window, start, got[m], want)
				}
			}
		}
	}
	// Smooth: one with half of the calls never waits longer than 3.
	last := uint64(0)
	for i := range uint64(1000) {
		if v.next(i) == members[0] {
			if i-last > 3 {
				t.Errorf("a gap of %d calls", i-last)
			}
			last = i
		}
	}
}

// Of the ring, each member has about its share; one that comes or goes moves no calls but its own; one that is not fit for
// calls neither, while it is not.
func TestRingHash(t *testing.T) {
	const keys = 20_000
	where := func(v *view) []*member {
		at := make([]*member, keys)
		for i := range at {
			at[i] = v.at(hashOf(fmt.Sprintf("user-%d", i)))
		}
		return at
	}
	members := membersOf(nil, 1, 1, 1, 1, 2)
	all := where(newView(config.RingHash, "k", members, ringOf(members)))
	got := map[*member]float64{}
	for _, m := range all {
		got[m] += 1.0 / keys
	}
	for i, m := range members {
		if want := float64(m.weight()) / 6; math.Abs(got[m]-want) > want/4 {
			t.Errorf("member %d has %.3f of the keys, want %.3f", i, got[m], want)
		}
	}

	fewer := where(newView(config.RingHash, "k", members[1:], ringOf(members[1:])))
	members[0].chosen = false
	out := where(newView(config.RingHash, "k", members[1:], ringOf(members)))
	for i := range all {
		if all[i] != members[0] && fewer[i] != all[i] || out[i] != fewer[i] {
			t.Fatalf("key %d moved from %s to %s, and %s", i, all[i].name, fewer[i].name, out[i].name)
		}
	}

	// Another process has the same ring: its hashes are a promise.
	if h := hashOf("user-1"); h != 0x41a2fca5c68401c5 {
		t.Errorf("hash = %#x", h)
	}
	heavy := membersOf(nil, 1_000_000, 1, 1)
	if n := len(ringOf(heavy)); n > maxPoints+3 || n < maxPoints/2 {
		t.Errorf("a ring of %d points", n)
	}
}

// The less busy of two for its weight.
func TestLeastRequest(t *testing.T) {
	members := membersOf(t, 1, 1)
	for range 100 {
		if m := leastRequest(members); m != members[0] && m != members[1] {
			t.Fatal("no member")
		}
	}
}

// A choice allocates nothing, however much is on.
func TestPickAllocatesNothing(t *testing.T) {
	for _, cfg := range []config.Backend{{}, {Balance: config.LeastRequest}, {Weights: map[string]int{"a:1": 3}}} {
		b := idle(t, cfg)
		if n := testing.AllocsPerRun(1000, func() { chooseOnce(b) }); n > 0 {
			t.Errorf("%+v: %v allocations", cfg, n)
		}
	}
	v := newView(config.RingHash, "k", membersOf(nil, 1, 1, 1), ringOf(membersOf(nil, 1, 1, 1)))
	if n := testing.AllocsPerRun(1000, func() { v.at(hashOf("some-user-or-other")) }); n > 0 {
		t.Errorf("ring_hash: %v allocations", n)
	}
}

// idle returns a backend whose endpoints are taken for good.
func idle(t testing.TB, cfg config.Backend) *Backend {
	cfg.Endpoints = endpoints("a:1", "b:1", "c:1", "d:1")
	cfg.Breaker.MaxRequests = 1000
	cfg.ConnectTimeout = config.Time(time.Hour)
	b, err := Open("b", Config{Backend: cfg}, Deps{Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, m := range b.members {
		m.state = relay.Ready
	}
	b.refresh()

	return b
}

// chooseOnce chooses an endpoint and has the attempt succeed.
func chooseOnce(b *Backend) {
	e, err := b.choose(nil)
	if err != nil {
		panic(err)
	}
	b.attemptEnded(nil, relay.AttemptStats{Endpoint: e, Opened: true, Code: codes.OK})
}

// BenchmarkChoose is what a call pays for its backend: the choice and the account of its end, with ejection, a breaker and, where
// said, the rest on.
func BenchmarkChoose(b *testing.B) {
	for _, bb := range []struct {
		name string
		cfg  config.Backend
	}{
		{"round_robin", config.Backend{}},
		{"weighted", config.Backend{Weights: map[string]int{"a:1": 3}}},
		{"least_request", config.Backend{Balance: config.LeastRequest}},
		{"retry", config.Backend{Retry: &config.Retry{}}},
	} {
		b.Run(bb.name, func(b *testing.B) {
			backend := idle(b, bb.cfg)
			for b.Loop() {
				chooseOnce(backend)
			}
		})
	}
	b.Run("ring", func(b *testing.B) {
		members := membersOf(nil, 1, 1, 1, 1, 1, 1, 1, 1)
		v := newView(config.RingHash, "k", members, ringOf(members))
		for b.Loop() {
			v.at(hashOf("f47ac10b-58cc-4372-a567-0e02b2c3d479"))
		}
	})
}

func TestRetryPolicy(t *testing.T) {
	p := policyOf(&config.Retry{Codes: []config.Code{config.Code(codes.Unavailable), config.Code(codes.ResourceExhausted)}})
	for c := range codes.Code(40) {
		if want := c == codes.Unavailable || c == codes.ResourceExhausted; p.has(c) != want {
			t.Errorf("%v: %v", c, p.has(c))
		}
	}
	for retries, want := range []time.Duration{50, 100, 200, 400, 800, 1000, 1000} {
		want *= time.Millisecond
		if low, high := p.pause(retries, 0), p.pause(retries, 1); low != want*8/10 || high != want*12/10 {
			t.Errorf("pause after %d retries is from %v to %v, want %v give or take a fifth", retries, low, high, want)
		}
	}
	if policyOf(nil) != nil || policyOf(&config.Retry{}).attempts != 3 {
		t.Error("defaults")
	}
}

// Budgets: gRFC A6's example of 10 tokens and a ratio of 0.1.
func TestBudget(t *testing.T) {
	var b budget
	b.set(&config.Retry{})
	for i := range 8 {
		if got, want := b.failure(), i < 4; got != want {
			t.Errorf("after %d failures retries are allowed = %v, want %v", i+1, got, want)
		}
	}
	for range 35 {
		b.success()
	}
	if b.failure() {
		t.Error("with 4.5 tokens of 10 retries are allowed")
	}
	for range 1000 {
		b.success()
	}
	if n := b.tokens.Load(); n != 1000 || !b.failure() {
		t.Errorf("%d hundredths of a token", n)
	}
}

// retry decides as gRFC A6 says.
func TestRetryDecision(t *testing.T) {
	b := idle(t, config.Backend{Retry: &config.Retry{}})
	ask := func(code codes.Code, retries int, pushback time.Duration) (time.Duration, bool) {
		b.budget.set(&config.Retry{})
		return b.retry(nil, relay.FailedAttempt{AttemptStats: relay.AttemptStats{Code: code}, Retries: retries, Pushback: pushback})
	}
	if _, ok := ask(codes.NotFound, 0, 0); ok {
		t.Error("a code that is not among them is retried")
	}
	if d, ok := ask(codes.Unavailable, 0, 0); !ok || d < 40*time.Millisecond || d > 60*time.Millisecond {
		t.Errorf("first retry after %v, %v", d, ok)
	}
	if _, ok := ask(codes.Unavailable, 2, 0); ok {
		t.Error("a fourth attempt of three")
	}
	if d, ok := ask(codes.Unavailable, 0, 3*time.Second); !ok || d != 3*time.Second {
		t.Errorf("pushback: %v, %v", d, ok)
	}
	if _, ok := ask(codes.Unavailable, 0, -1); ok || b.budget.tokens.Load() != 900 {
		t.Errorf("pushback that says not at all: %v, %d", ok, b.budget.tokens.Load())
	}
	if _, ok := ask(codes.NotFound, 0, -1); ok || b.budget.tokens.Load() != 900 {
		t.Errorf("such pushback counts as a failure whatever the code: %v, %d", ok, b.budget.tokens.Load())
	}
}

func TestTally(t *testing.T) {
	y := tallyOf(&config.Health{Healthy: 2, Unhealthy: 3})
	want := []Health{Serving, Serving, Serving, NotServing, NotServing, Serving, Serving, Serving, Serving, NotServing}
	for i, ok := range []bool{true, false, false, false, true, true, false, false, true, false} {
		if i == 9 {
			if got := y.force(ok); got != want[i] {
				t.Errorf("forced: %v", got)
			}
			continue
		}
		if got := y.add(ok); got != want[i] {
			t.Errorf("after result %d: %v, want %v", i, got, want[i])
		}
	}
}
