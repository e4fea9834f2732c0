// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"

	"github.com/manifold-grpc/manifold/internal/config"
)

// load calls at intervals, each with a deadline of 2 s, until stop is closed, and notes what becomes of each.
type load struct {
	every time.Duration

	mu      sync.Mutex
	results []result
}

type result struct {
	began, ended time.Time
	backend      string
	failed       bool
}

func (l *load) run(cc *grpc.ClientConn, stop <-chan struct{}) {
	var calls sync.WaitGroup
	defer calls.Wait()
	tick := time.NewTicker(l.every)
	defer tick.Stop()
	for {
		select {
		case <-stop:
			return
		case began := <-tick.C:
			calls.Go(func() { // ends with the call
				backend, err := call(cc, 2*time.Second)
				l.mu.Lock()
				defer l.mu.Unlock()
				l.results = append(l.results, result{began, time.Now(), backend, err != nil})
			})
		}
	}
}

// One of three endpoints dies in one way or another under load, and comes back: calls that are sent to it before it is found out fail, and
// no others; it is found out within 10 s, and used again within 30 s.
func TestFaults(t *testing.T) {
	kinds := []struct {
		name        string
		die, revive func(*node)
	}{
		{"killed", (*node).kill, (*node).revive},
		{"black hole", func(n *node) { n.setHole(true) }, func(n *node) { n.setHole(false) }},
	}
	for _, kind := range kinds {
		for _, cfg := range []struct {
			name string
			Config
		}{
			{"defaults", Config{}},
			{"without ejection", Config{Backend: config.Backend{Ejection: config.Ejection{Disabled: true}}}},
		} {
			t.Run(kind.name+", "+cfg.name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					w := newWorld(t)
					for _, a := range []string{"a:1", "b:1", "c:1"} {
						w.serve(a)
					}
					cfg.Endpoints = endpoints("a:1", "b:1", "c:1")
					cc := w.client(w.open(cfg.Config))
					stop := make(chan struct{})
					l := load{every: 50 * time.Millisecond}
					var running sync.WaitGroup
					running.Go(func() { l.run(cc, stop) }) // ends with stop
					time.Sleep(5 * time.Second)
					died := time.Now()
					kind.die(w.servers["c:1"])
					time.Sleep(time.Minute)
					revived := time.Now()
					kind.revive(w.servers["c:1"])
					time.Sleep(40 * time.Second)
					close(stop)
					running.Wait()
					judge(t, &l, "c:1", died, revived)
				})
			})
		}
	}
}

// judge looks at what became of the calls.
func judge(t *testing.T, l *load, addr string, died, revived time.Time) {
	t.Helper()
	failed, total, away := 0, 0, time.Duration(0)
	var back time.Duration
	for _, r := range l.results {
		total++
		if r.failed {
			failed++
			if r.began.Before(died.Add(-2*time.Second)) || r.began.After(revived) {
				t.Errorf("a call of %v after the death failed", r.began.Sub(died))
			}
			away = max(away, r.began.Sub(died))
		}
		if r.backend == addr && !r.failed && r.began.After(revived) && (back == 0 || r.began.Sub(revived) < back) {
			back = r.began.Sub(revived)
		}
	}
	if away > 10*time.Second {
		t.Errorf("calls failed until %v after the death, want at most 10 s", away)
	}
	if back == 0 || back > 30*time.Second {
		t.Errorf("used again %v after it came back, want at most 30 s", back)
	}
	t.Logf("%d of %d calls failed, the last began %v after the death; used again after %v", failed, total, away, back)
}
