// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package report

import (
	"fmt"
	"slices"
	"strings"
)

// subject is the proxy of which something is promised.
const subject = "relay"

// Bars is what is promised of the relay under a load. Zero fields promise nothing.
type Bars struct {
	Peer    float64  `json:",omitempty"` // the most of the cheapest peer's cost
	Peers   []string `json:",omitempty"` // that Peer is about; empty means all
	Floor   float64  `json:",omitempty"` // the most of the TCP forwarder's cost
	NoWorse bool     `json:",omitempty"` // throughput and p99 are no worse than any peer's
	Objects float64  `json:",omitempty"` // the most allocations per unit
	Most    float64  `json:",omitempty"` // the most that the cost itself may be
	Growth  float64  `json:",omitempty"` // the most of the cost under the load named Of
	Of      string   `json:",omitempty"`
}

func (b Bars) about(peer string) bool { return len(b.Peers) == 0 || slices.Contains(b.Peers, peer) }

// Verdict is whether one promise holds.
type Verdict struct {
	Load, Promise string
	Figure        string // what was measured
	Holds         bool
	Unknown       bool // what it takes was not measured
}

// String says whether it holds.
func (v Verdict) String() string {
	switch {
	case v.Unknown:
		return "not measured"
	case v.Holds:
		return "holds"
	}
	return "**missed**"
}

// Verdicts returns one for each promise, and one for the absence of errors.
func (r *Run) Verdicts() []Verdict {
	i := slices.IndexFunc(r.Proxies, func(p Proxy) bool { return p.Name == subject })
	if i < 0 {
		return nil
	}
	var all []Verdict
	for _, s := range r.Scenarios {
		j := judge{r, s, s.Cells[i]}
		all = append(all, j.verdicts(i)...)
	}
	n := r.Errors()
	return append(all, Verdict{Load: "all", Promise: "no errors, of any proxy", Figure: fmt.Sprintf("%d failed samples", n), Holds: n == 0})
}

// judge is about the relay's cell of a scenario.
type judge struct {
	run  *Run
	s    Scenario
	cell Cell
}

func (j judge) verdicts(index int) (all []Verdict) {
	b := j.s.Bars
	if b.Peer > 0 {
		peer, _ := j.run.cheapest(j.s)
		whose := "the cheapest peer's"
		if len(b.Peers) > 0 {
			whose = "the cheapest of " + strings.Join(b.Peers, ", ")
		}
		all = append(all, j.atMost(b.Peer, whose, peer, j.s.cost()))
	}
	if b.Floor > 0 {
		floor, _ := j.run.floor(j.s)
		all = append(all, j.atMost(b.Floor, "the TCP forwarder's", floor, j.s.cost()))
	}
	if b.NoWorse {
		slowness := func(s Sample) float64 { return 1 / max(s.Rate, 1e-9) }
		busiest, _ := j.run.least(j.s, slowness)
		all = append(all, j.throughput(busiest))
		quickest, _ := j.run.least(j.s, p99)
		v := j.atMost(1, "p99", quickest, p99)
		v.Promise = "p99 no worse than any peer's"
		all = append(all, v)
	}
	if b.Objects > 0 {
		m, ok := j.cell.median(func(s Sample) float64 { return s.Objects })
		v := Verdict{Load: j.s.Title, Promise: fmt.Sprintf("at most %g allocations per %s", b.Objects, j.s.Unit), Figure: none, Unknown: true}
		if ok && m >= 0 {
			v.Figure, v.Holds, v.Unknown = fmt.Sprintf("%.3f", m), m <= b.Objects, false
		}
		all = append(all, v)
	}
	if b.Most > 0 {
		m, ok := j.cell.median(j.s.cost())
		measure := j.s.measure()
		all = append(all, Verdict{j.s.Title, fmt.Sprintf("%s: at most %g", measure.head, b.Most/measure.unit), digits(m / measure.unit), m <= b.Most, !ok})
	}
	if b.Growth > 0 {
		all = append(all, j.growth(index))
	}
	return all
}

// atMost compares a figure of the relay with another cell's.
func (j judge) atMost(most float64, whose string, other Cell, figure func(Sample) float64) Verdict {
	v := Verdict{Load: j.s.Title, Promise: fmt.Sprintf("at most %g of %s", most, whose), Figure: none}
	ratio, ok := ratio(j.cell, other, figure)
	if !ok {
		v.Unknown = true
		return v
	}
	v.Figure, v.Holds = fmt.Sprintf("%.2f of %s (%.2f–%.2f)", ratio.Median, other.Proxy, ratio.Min, ratio.Max), ratio.Median <= most
	return v
}

func (j judge) throughput(busiest Cell) Verdict {
	v := j.atMost(0, "", busiest, rate)
	v.Promise = "throughput no worse than any peer's"
	if ratio, ok := ratio(j.cell, busiest, rate); ok {
		v.Holds = ratio.Median >= 1
	}
	return v
}

// growth compares the relay's cost with its own under another load.
func (j judge) growth(index int) Verdict {
	v := Verdict{Load: j.s.Title, Figure: none, Unknown: true, Promise: fmt.Sprintf("at most %g of its CPU in %s", j.s.Bars.Growth, j.s.Bars.Of)}
	of := slices.IndexFunc(j.run.Scenarios, func(s Scenario) bool { return s.Name == j.s.Bars.Of })
	if of < 0 {
		return v
	}
	v.Promise = fmt.Sprintf("at most %g of its CPU with %s", j.s.Bars.Growth, j.run.Scenarios[of].Title)
	if ratio, ok := ratio(j.cell, j.run.Scenarios[of].Cells[index], j.s.cost()); ok {
		v.Figure, v.Holds, v.Unknown = fmt.Sprintf("%.2f (%.2f–%.2f)", ratio.Median, ratio.Min, ratio.Max), ratio.Median <= j.s.Bars.Growth, false
	}
	return v
}

// verdicts returns the table of them, or "" where the relay was not measured.
func (r *Run) verdicts() string {
	all := r.Verdicts()
	if len(all) == 0 {
		return ""
	}
	held, known := 0, 0
	var rows [][]string
	for _, v := range all {
		rows = append(rows, []string{v.Load, v.Promise, v.Figure, v.String()})
		if !v.Unknown {
			known++
		}
		if v.Holds && !v.Unknown {
			held++
		}
	}
	return fmt.Sprintf("Of the %d promises that were measured, %d hold.\n\n", known, held) +
		strings.ReplaceAll(table([]string{"load", "promised of the relay", "measured", ""}, rows), "---:", "---")
}
