// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package report

import (
	"flag"
	"math"
	"os"
	"path/filepath"
	"slices"
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
	idle := Scenario{Name: "idle", Title: "idle connections", Unit: "connection", Cost: CostIdle, Bars: Bars{Most: 512}}
	for i, name := range []string{"relay", "tcp-forward", "nginx", "haproxy"} {
		idle.Cells = append(idle.Cells, Cell{Proxy: name, Samples: []Sample{{Memory: float64(1024 * (i + 1)), RSS: 1 << 20, Objects: 3, Syscalls: -1}}})
	}
	return &Run{
		Date: "2026-01-02 03:04 UTC", Machine: "2 × CPU", Rounds: 2, Duration: time.Second, Threads: 1,
		Proxies: []Proxy{{Name: "relay", About: "ours"}, {Name: "tcp-forward", About: "the floor", Floor: true},
			{Name: "nginx", About: "another's", Version: "1.2", Peer: true}, {Name: "haproxy", About: "one more", Peer: true}},
		Scenarios: []Scenario{
			{Name: "unary", Title: "unary <64 B>", Unit: "call", Bars: Bars{Peer: 0.5, Floor: 1.2, NoWorse: true, Objects: 2}, Cells: []Cell{cell("relay", 5), cell("tcp-forward", 4), failed, cell("haproxy", 10)}},
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
	p := &plot{run: r}
	a := p.fit(axis{figure: Scenario.cost, left: 100})
	if base := p.base(r.Scenarios[0]); base.Proxy != "relay" || a.low != 0.5 || a.high != 4 {
		t.Errorf("axis from %v to %v in terms of %s, expected 0.5 to 4 of relay", a.low, a.high, base.Proxy)
	}
	if left, right := a.x(a.low), a.x(a.high); left != 100 || math.Abs(right-100-plotWidth) > 1e-9 {
		t.Errorf("axis drawn from %v to %v", left, right)
	}
}

// A forwarder that was not measured, or holds nothing, is nothing to go by.
func TestPlotWithoutFloorCell(t *testing.T) {
	r := run()
	r.Scenarios[0].Cells[1] = Cell{Proxy: "tcp-forward", Skipped: "too many"}
	r.Scenarios[1].Cells[1].Samples[0].Memory = 0
	if text := r.Plot(); !strings.Contains(text, "unary &lt;64 B&gt; (relay = 1)") || !strings.Contains(text, "idle connections (memory) (relay = 1)") {
		t.Errorf("the plot does not say what its rows go by:\n%s", text)
	}
	if text := r.Markdown(); !strings.Contains(text, "tcp-forward was not measured: too many.") || !strings.Contains(text, "| 7.50 | – |") {
		t.Errorf("the table does not say what was not measured:\n%s", text)
	}
}

func TestVerdicts(t *testing.T) {
	r := run()
	want := map[string]string{
		"at most 0.5 of the cheapest peer's":          "0.50 of haproxy (0.50–0.50): holds",
		"at most 1.2 of the TCP forwarder's":          "1.25 of tcp-forward (1.25–1.25): **missed**",
		"throughput no worse than any peer's":         "2.00 of haproxy (2.00–2.00): holds",
		"p99 no worse than any peer's":                "0.50 of haproxy (0.50–0.50): holds",
		"at most 2 allocations per call":              "–: not measured",
		"memory, KiB per connection: at most 0.5":     "1.00: **missed**",
		"no errors, of any proxy":                     "1 failed samples: **missed**",
		"at most 1.25 of its CPU with unary <64 B>":   "1.40 (1.40–1.40): **missed**",
		"at most 1.5 of its CPU with unary <64 B>":    "1.40 (1.40–1.40): holds",
		"at most 1.25 of its CPU in nothing":          "–: not measured",
		"at most 1 of the cheapest of nginx":          "0.25 of nginx (0.25–0.25): holds",
		"at most 1 of the cheapest of squid, varnish": "–: not measured",
	}
	dearer := r.Scenarios[0]
	dearer.Cells = slices.Clone(dearer.Cells)
	dearer.Cells[0] = Cell{Proxy: "relay"}
	for _, s := range r.Scenarios[0].Cells[0].Samples {
		s.CPU *= 1.4
		dearer.Cells[0].Samples = append(dearer.Cells[0].Samples, s)
	}
	dearer.Cells[2].Errors = nil
	for _, b := range []Bars{{Growth: 1.25, Of: "unary"}, {Growth: 1.5, Of: "unary"}, {Growth: 1.25, Of: "nothing"}} {
		dearer.Bars = b
		r.Scenarios = append(r.Scenarios, dearer)
	}
	for _, peers := range [][]string{{"nginx"}, {"squid", "varnish"}} {
		s := r.Scenarios[0]
		s.Cells = slices.Clone(s.Cells)
		s.Cells[2].Errors, s.Bars = nil, Bars{Peer: 1, Peers: peers}
		r.Scenarios = append(r.Scenarios, s)
	}
	all := r.Verdicts()
	for _, v := range all {
		if got := v.Figure + ": " + v.String(); got != want[v.Promise] {
			t.Errorf("%s: %s, expected %s", v.Promise, got, want[v.Promise])
		}
	}
	if len(all) != len(want) {
		t.Errorf("%d verdicts, expected %d", len(all), len(want))
	}
	r.Proxies[0].Name = "another"
	if all := r.Verdicts(); len(all) > 0 {
		t.Errorf("verdicts without the relay: %v", all)
	}
}
