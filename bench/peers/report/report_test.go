// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package report

import (
	"flag"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "write testdata anew")

// run is one with round figures: the second round was twice as slow for all.
func run() *Run {
	cell := func(proxy string, cost float64) Cell {
		c := Cell{Proxy: proxy}
		for round, factor := range []float64{1, 2} {
			c.Samples = append(c.Samples, Sample{
				Round: round, CPU: cost * factor * 1000, Rate: 100_000 / cost, P50: time.Duration(cost*10) * time.Microsecond,
				P99: time.Duration(cost) * time.Millisecond, RSS: 10 << 20, Objects: -1, Syscalls: -1, Switches: 0.5, EndsCPU: 1000, Others: 0.1,
			})
		}
		return c
	}
	failed := cell("nginx", 20)
	failed.Samples, failed.Errors = failed.Samples[1:], []string{"stream was\nreset"}
	idle := Scenario{Name: "idle", Title: "idle connections", Unit: "connection", Idle: true}
	for i, name := range []string{"relay", "tcp-forward", "nginx", "haproxy"} {
		idle.Cells = append(idle.Cells, Cell{Proxy: name, Samples: []Sample{{Memory: float64(1024 * (i + 1)), RSS: 1 << 20, Objects: 3, Syscalls: -1}}})
	}
	return &Run{
		Date: "2026-01-02 03:04 UTC", Machine: "2 × CPU", Rounds: 2, Duration: time.Second, Threads: 1,
		Proxies: []Proxy{{Name: "relay", About: "ours"}, {Name: "tcp-forward", About: "the floor", Floor: true},
			{Name: "nginx", About: "another's", Version: "1.2", Peer: true}, {Name: "haproxy", About: "one more", Peer: true}},
		Scenarios: []Scenario{
			{Name: "unary", Title: "unary <64 B>", Unit: "call", Cells: []Cell{cell("relay", 5), cell("tcp-forward", 4), failed, cell("haproxy", 10)}},
			idle,
		},
	}
}

func TestGolden(t *testing.T) {
	for name, got := range map[string]string{"table.md": run().Markdown(), "cpu.svg": run().Plot()} {
		file := filepath.Join("testdata", name)
		if *update {
			if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if got != string(want) {
			t.Errorf("%s differs from testdata (-update writes it anew):\n%s", name, got)
		}
	}
}

// Ratios are of rounds, so that what slows all down does not show in them.
func TestRatio(t *testing.T) {
	r := run()
	s := r.Scenarios[0]
	floor, ok := r.floor(s)
	if !ok || floor.Proxy != "tcp-forward" {
		t.Fatalf("floor %v, %t", floor.Proxy, ok)
	}
	got, ok := ratio(s.Cells[0], floor, cpu)
	if want := (Spread{1.25, 1.25, 1.25}); !ok || got != want {
		t.Errorf("ratio %v, %t, expected %v", got, ok, want)
	}
	if _, ok := ratio(Cell{}, floor, cpu); ok {
		t.Error("a cell without samples has a ratio")
	}
	// nginx has only the round in which all was twice as slow.
	got, ok = ratio(s.Cells[2], floor, cpu)
	if want := (Spread{5, 5, 5}); !ok || got != want {
		t.Errorf("ratio %v, %t, expected %v", got, ok, want)
	}
}

func TestCheapest(t *testing.T) {
	r := run()
	if c, ok := r.cheapest(r.Scenarios[0]); !ok || c.Proxy != "haproxy" {
		t.Errorf("cheapest %v, %t, expected haproxy", c.Proxy, ok)
	}
	if c, ok := r.cheapest(r.Scenarios[1]); !ok || c.Proxy != "nginx" {
		t.Errorf("cheapest in memory %v, %t, expected nginx", c.Proxy, ok)
	}
	r.Proxies[2].Peer, r.Proxies[3].Peer = false, false
	if c, ok := r.cheapest(r.Scenarios[0]); ok {
		t.Errorf("cheapest %v, expected none", c.Proxy)
	}
}

func TestSpread(t *testing.T) {
	for _, tt := range []struct {
		values []float64
		want   Spread
	}{
		{[]float64{3}, Spread{3, 3, 3}},
		{[]float64{4, 1}, Spread{2.5, 1, 4}},
		{[]float64{9, 1, 2}, Spread{2, 1, 9}},
		{[]float64{4, 3, 2, 1}, Spread{2.5, 1, 4}},
	} {
		if got := spreadOf(tt.values); got != tt.want {
			t.Errorf("spread %v, expected %v", got, tt.want)
		}
	}
}

func TestErrors(t *testing.T) {
	r := run()
	if n := r.Errors(); n != 1 {
		t.Errorf("%d errors, expected 1", n)
	}
	r.Scenarios[0].Cells[0] = Cell{Proxy: "relay", Errors: []string{"a", "b"}}
	if n := r.Errors(); n != 3 {
		t.Errorf("%d errors, expected 3", n)
	}
	if text := r.Summary(); !strings.Contains(text, "| failed | 6.00 |") {
		t.Errorf("a cell without samples does not show:\n%s", text)
	}
}

// Without a forwarder the plot goes by the first proxy, and nothing is off the axis.
func TestPlotAxis(t *testing.T) {
	r := run()
	r.Proxies[1].Floor = false
	p := newPlot(r)
	if p.base() != "relay" || p.low != 0.5 || p.high != 4 {
		t.Errorf("axis from %v to %v in terms of %s, expected 0.5 to 4 of relay", p.low, p.high, p.base())
	}
	if left, right := p.x(p.low), p.x(p.high); left != plotLeft || math.Abs(right-plotLeft-plotWidth) > 1e-9 {
		t.Errorf("axis drawn from %v to %v", left, right)
	}
}
