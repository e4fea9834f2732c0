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
	Idle              bool // no calls are made: memory is what counts
	Cells             []Cell
}

// Cell is one proxy under one load.
type Cell struct {
	Proxy   string
	Samples []Sample // one for each round that went without an error
	Errors  []string // of the others
}

// Sample is what one round has measured. What is said to be per unit is the mean
// over the round.
type Sample struct {
	Round    int
	CPU      float64 // nanoseconds of the proxy's processes, per unit
	Rate     float64 // units per second
	P50, P99 time.Duration
	RSS      int64   // octets, of the proxy's processes, under load
	Memory   float64 // octets for each idle connection
	Objects  float64 // that the proxy allocated, per unit; negative if it cannot tell
	Switches float64 // times that a thread of the proxy waited, per unit
	Syscalls float64 // of the proxy, per unit; negative if they were not counted
	EndsCPU  float64 // nanoseconds of load and backend together, per unit
	Others   float64 // share of the machine that neither they nor the proxy used
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

// cost is the figure that proxies are compared by.
func (s Scenario) cost() func(Sample) float64 {
	if s.Idle {
		return memory
	}
	return cpu
}

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

// cheapest returns the cell of the peer whose cost is least.
func (r *Run) cheapest(s Scenario) (Cell, bool) {
	var peers []Cell
	for i, c := range s.Cells {
		if _, ok := c.median(s.cost()); ok && r.Proxies[i].Peer {
			peers = append(peers, c)
		}
	}
	if len(peers) == 0 {
		return Cell{}, false
	}
	return slices.MinFunc(peers, func(a, b Cell) int {
		x, _ := a.median(s.cost())
		y, _ := b.median(s.cost())
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
