// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

// Package report turns what the benchmark has measured into a table and a plot. It
// is pure, so that a report can be made again from the measurements alone.
package report

import (
	"cmp"
	"slices"
	"time"
)

// Run is all that one run of the benchmark has measured.
type Run struct {
	Date     string
	Machine  string
	Rounds   int
	Duration time.Duration // of load, for each sample
	Threads  int           // that each proxy works with
	Ends     string        `json:",omitempty"` // who calls and who answers; empty means package wire
	Proxies  []Proxy
	// Scenarios in the order of the run.
	Scenarios []Scenario
}

// Proxy describes what was measured.
type Proxy struct {
	Name, About, Version string
	Peer                 bool // another's proxy that knows HTTP/2
	Floor                bool // what knows nothing of HTTP/2
}

// Scenario is one load with what the proxies cost under it, in the order of
// Run.Proxies.
type Scenario struct {
	Name, Title, Unit string
	Cost              Cost `json:",omitempty"`
	Bars              Bars
	Cells             []Cell
}

// Cost is the figure by which proxies are compared under a load.
type Cost string

// The costs.
const (
	CostCPU     Cost = ""        // CPU time per unit
	CostIdle    Cost = "idle"    // memory for each connection; no calls are made
	CostWaiting Cost = "waiting" // memory for all that waits for slow clients
	CostOthers  Cost = "others"  // p99 beside a slow client, in terms of that without it
)

// measure describes a cost: the figure, its name with the unit that it is shown in, and
// what it is divided by for that.
type measure struct {
	figure func(Sample) float64
	head   string
	unit   float64
}

func (s Scenario) measure() measure {
	switch s.Cost {
	case CostIdle:
		return measure{memory, "memory, KiB per " + s.Unit, 1 << 10}
	case CostWaiting:
		return measure{memory, "memory for them, MiB", 1 << 20}
	case CostOthers:
		return measure{others, "p99 of the others in terms of that without it", 1}
	}
	return measure{cpu, "CPU, µs per " + s.Unit, 1000}
}

// calls tells whether the load makes calls.
func (s Scenario) calls() bool { return s.Cost != CostIdle }

// closed tells whether the proxy limits the throughput.
func (s Scenario) closed() bool { return s.Bars.NoWorse || len(s.Bars.Peers) > 0 }

// Cell is one proxy under one load.
type Cell struct {
	Proxy   string
	Samples []Sample // one for each round that went without an error
	Errors  []string // of the others
	Skipped string   `json:",omitempty"` // why it was not measured, if so
}

// Sample is what one round has measured. What is said to be per unit is the mean
// over the round.
type Sample struct {
	Round    int
	CPU      float64 // nanoseconds of the proxy's processes, per unit
	Rate     float64 // units per second
	P50, P99 time.Duration
	RSS      int64         // octets, of the proxy's processes, under load
	Alone    time.Duration `json:",omitempty"` // p99 before slow clients came
	Memory   float64       // octets for each idle connection, or for all that slow clients let wait
	Objects  float64       // that the proxy allocated, per unit; negative if it cannot tell
	Switches float64       // times that a thread of the proxy waited, per unit
	Syscalls float64       // of the proxy, per unit; negative if they were not counted
	EndsCPU  float64       // nanoseconds of load and backend together, per unit
	Others   float64       // share of the machine that neither they nor the proxy used
}

// Spread is the median of a cell's samples, with the least and the most.
type Spread struct{ Median, Min, Max float64 }

// spread returns that of a figure; ok is false without samples.
func (c Cell) spread(figure func(Sample) float64) (s Spread, ok bool) {
	if len(c.Samples) == 0 {
		return s, false
	}
	values := make([]float64, len(c.Samples))
	for i, sample := range c.Samples {
		values[i] = figure(sample)
	}
	return spreadOf(values), true
}

func spreadOf(values []float64) Spread {
	slices.Sort(values)
	n := len(values)
	return Spread{(values[(n-1)/2] + values[n/2]) / 2, values[0], values[n-1]}
}

func (c Cell) median(figure func(Sample) float64) (float64, bool) {
	s, ok := c.spread(figure)
	return s.Median, ok
}

func cpu(s Sample) float64    { return s.CPU }
func memory(s Sample) float64 { return s.Memory }
func rate(s Sample) float64   { return s.Rate }
func p50(s Sample) float64    { return float64(s.P50) }
func p99(s Sample) float64    { return float64(s.P99) }
func others(s Sample) float64 { return float64(s.P99) / float64(max(1, s.Alone)) }

// cost is the figure that proxies are compared by.
func (s Scenario) cost() func(Sample) float64 { return s.measure().figure }

// ratio compares the costs of two cells: the spread of the ratios of the rounds
// that both have. Neighbours in time share what the machine did, so that this says
// more than the ratio of medians.
func ratio(c, to Cell, figure func(Sample) float64) (Spread, bool) {
	base := map[int]float64{}
	for _, s := range to.Samples {
		base[s.Round] = figure(s)
	}
	var ratios []float64
	for _, s := range c.Samples {
		if b := base[s.Round]; b > 0 {
			ratios = append(ratios, figure(s)/b)
		}
	}
	if len(ratios) == 0 {
		return Spread{}, false
	}
	return spreadOf(ratios), true
}

// floor returns the cell of the proxy that knows nothing of HTTP/2.
func (r *Run) floor(s Scenario) (Cell, bool) {
	return r.cell(s, func(p Proxy) bool { return p.Floor })
}

// cheapest returns the cell of the peer whose cost is least, of those that the scenario's
// bars are about.
func (r *Run) cheapest(s Scenario) (Cell, bool) { return r.least(s, s.cost()) }

// least returns the cell of the peer of which a figure is least.
func (r *Run) least(s Scenario, figure func(Sample) float64) (Cell, bool) {
	var peers []Cell
	for i, c := range s.Cells {
		if _, ok := c.median(figure); ok && r.Proxies[i].Peer && s.Bars.about(c.Proxy) {
			peers = append(peers, c)
		}
	}
	if len(peers) == 0 {
		return Cell{}, false
	}
	return slices.MinFunc(peers, func(a, b Cell) int {
		x, _ := a.median(figure)
		y, _ := b.median(figure)
		return cmp.Compare(x, y)
	}), true
}

func (r *Run) cell(s Scenario, of func(Proxy) bool) (Cell, bool) {
	i := slices.IndexFunc(r.Proxies, of)
	if i < 0 {
		return Cell{}, false
	}
	return s.Cells[i], true
}

// Errors counts the samples that failed.
func (r *Run) Errors() int {
	n := 0
	for _, s := range r.Scenarios {
		for _, c := range s.Cells {
			n += len(c.Errors)
		}
	}
	return n
}
