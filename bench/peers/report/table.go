// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package report

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
)

// none stands in a table where there is no figure.
const none = "–"

// Markdown returns the summary with what was promised, and a table for each scenario.
func (r *Run) Markdown() string {
	var b strings.Builder
	b.WriteString(r.Summary())
	for _, s := range r.Scenarios {
		fmt.Fprintf(&b, "\n### %s\n\n%s", s.Title, r.details(s))
	}
	b.WriteString(r.colophon())
	return b.String()
}

// Summary returns the cost of each proxy under each load, throughput and latencies, and
// which promises hold.
func (r *Run) Summary() string {
	parts := []string{
		r.overview("cost of the proxy", func(Scenario) bool { return true }, func(s Scenario) (string, func(Sample) float64, func(float64) string) {
			return s.Title + ": " + s.measure().head, s.cost(), s.show
		}),
		r.overview("throughput", Scenario.closed, func(s Scenario) (string, func(Sample) float64, func(float64) string) {
			return s.Title + ": " + s.Unit + "s/s", rate, whole
		}),
		r.overview("p50 / p99 of a call", Scenario.calls, func(s Scenario) (string, func(Sample) float64, func(float64) string) {
			return s.Title, nil, nil
		}),
		r.verdicts(),
	}
	parts = slices.DeleteFunc(parts, func(p string) bool { return p == "" })
	return strings.Join(parts, "\n")
}

// overview returns a table of one figure of all proxies: under each load of interest that which of
// names and shows, or both latencies if it has none.
func (r *Run) overview(title string, of func(Scenario) bool, which func(Scenario) (string, func(Sample) float64, func(float64) string)) string {
	head := []string{title}
	for _, p := range r.Proxies {
		head = append(head, p.Name)
	}
	var rows [][]string
	for _, s := range r.Scenarios {
		if !of(s) {
			continue
		}
		name, figure, show := which(s)
		row := []string{name}
		for _, c := range s.Cells {
			if figure == nil {
				row = append(row, c.latencies())
				continue
			}
			row = append(row, c.summarise(figure, show))
		}
		rows = append(rows, row)
	}
	if len(rows) == 0 {
		return ""
	}
	return table(head, rows)
}

func (c Cell) summarise(figure func(Sample) float64, show func(float64) string) string {
	m, ok := c.median(figure)
	switch {
	case c.Skipped != "":
		return none
	case !ok:
		return "failed"
	case len(c.Errors) > 0:
		return fmt.Sprintf("%s (%d failed)", show(m), len(c.Errors))
	}
	return show(m)
}

func (c Cell) latencies() string {
	low, ok := c.median(p50)
	if !ok {
		return none
	}
	high, _ := c.median(p99)
	return micros(low) + " / " + micros(high)
}

// show writes a cost in its unit.
func (s Scenario) show(cost float64) string { return digits(cost / s.measure().unit) }

func whole(v float64) string { return fmt.Sprintf("%.0f", v) }

// column is a figure of the detailed tables.
type column struct {
	head string
	cell func(Cell) string
}

func (r *Run) details(s Scenario) string {
	columns := r.columns(s)
	head := []string{""}
	for _, c := range columns {
		head = append(head, c.head)
	}
	var rows [][]string
	for _, c := range s.Cells {
		row := []string{c.Proxy}
		for _, column := range columns {
			row = append(row, column.cell(c))
		}
		rows = append(rows, row)
	}
	var text strings.Builder
	text.WriteString(table(head, rows))
	for _, c := range s.Cells {
		if c.Skipped != "" {
			fmt.Fprintf(&text, "\n%s was not measured: %s.\n", c.Proxy, c.Skipped)
		}
		for _, e := range c.Errors {
			fmt.Fprintf(&text, "\n%s failed: %s\n", c.Proxy, strings.Join(strings.Fields(e), " "))
		}
	}
	return text.String()
}

func (r *Run) columns(s Scenario) []column {
	columns := []column{
		{s.measure().head, middle(s.cost(), s.show)},
		{"least–most", func(c Cell) string {
			spread, ok := c.spread(s.cost())
			if !ok {
				return none
			}
			return s.show(spread.Min) + "–" + s.show(spread.Max)
		}},
	}
	if floor, ok := r.floor(s); ok && s.Cost != CostOthers {
		columns = append(columns, column{"× TCP forwarder", ratioTo(floor, s.cost())})
	}
	if peer, ok := r.cheapest(s); ok && s.Cost != CostOthers {
		columns = append(columns, column{"× " + peer.Proxy, ratioTo(peer, s.cost())})
	}
	if s.Cost != CostCPU && s.calls() {
		columns = append(columns, column{"CPU, µs per " + s.Unit, middle(func(s Sample) float64 { return s.CPU / 1000 }, digits)},
			column{"p99 alone", middle(func(s Sample) float64 { return float64(s.Alone) }, micros)})
	}
	if s.calls() {
		columns = append(columns,
			column{"p50", middle(p50, micros)},
			column{"p99", middle(p99, micros)},
			column{s.Unit + "s/s", middle(rate, whole)},
			column{"ends, µs", middle(func(s Sample) float64 { return s.EndsCPU / 1000 }, digits)},
			column{"waits", middle(func(s Sample) float64 { return s.Switches }, digits)},
			column{"allocations", middle(func(s Sample) float64 { return s.Objects }, digits)})
	}
	if s.counted() {
		columns = append(columns, column{"system calls", middle(func(s Sample) float64 { return s.Syscalls }, digits)})
	}
	return append(columns, column{"RSS, MiB", middle(func(s Sample) float64 { return float64(s.RSS) }, func(v float64) string { return digits(v / (1 << 20)) })})
}

// counted tells whether system calls were counted.
func (s Scenario) counted() bool {
	for _, c := range s.Cells {
		if m, ok := c.median(func(s Sample) float64 { return s.Syscalls }); ok && m >= 0 {
			return true
		}
	}
	return false
}

// middle shows the median of a figure, unless it is negative.
func middle(figure func(Sample) float64, show func(float64) string) func(Cell) string {
	return func(c Cell) string {
		m, ok := c.median(figure)
		if !ok || m < 0 {
			return none
		}
		return show(m)
	}
}

func ratioTo(base Cell, figure func(Sample) float64) func(Cell) string {
	return func(c Cell) string {
		s, ok := ratio(c, base, figure)
		if !ok {
			return none
		}
		return fmt.Sprintf("%.2f", s.Median)
	}
}

// colophon says under which conditions the figures came about.
func (r *Run) colophon() string {
	var b strings.Builder
	fmt.Fprintf(&b, "\nMeasured %s: %s. Medians of %d rounds of %v, the proxies in turn, each with %d thread(s).\n",
		r.Date, r.Machine, r.Rounds, r.Duration, r.Threads)
	if r.Ends != "" {
		fmt.Fprintf(&b, "Client and server are those of %s, with one thread each.\n", r.Ends)
	}
	var others, ends []float64
	for _, s := range r.Scenarios {
		for _, c := range s.Cells {
			for _, sample := range c.Samples {
				others = append(others, 100*sample.Others)
				if s.Cost == CostCPU && s.Unit == "call" {
					ends = append(ends, sample.EndsCPU/max(1, sample.CPU))
				}
			}
		}
	}
	if len(others) > 0 {
		o := spreadOf(others)
		fmt.Fprintf(&b, "Of the machine's CPU time, what the benchmark did not start took %.0f %% (least %.0f, most %.0f).\n", o.Median, o.Min, o.Max)
	}
	if len(ends) > 0 {
		e := spreadOf(ends)
		fmt.Fprintf(&b, "Load and backend together used %.2f (%.2f to %.2f) times the CPU of the proxy between them.\n", e.Median, e.Min, e.Max)
	}
	for _, p := range r.Proxies {
		fmt.Fprintf(&b, "\n- %s: %s", p.Name, p.About)
		if p.Version != "" {
			fmt.Fprintf(&b, " (%s)", p.Version)
		}
	}
	b.WriteString("\n")
	return b.String()
}

// table returns a Markdown table whose first column is text and whose others are
// figures.
func table(head []string, rows [][]string) string {
	var b strings.Builder
	line := func(cells []string) { fmt.Fprintf(&b, "| %s |\n", strings.Join(cells, " | ")) }
	line(head)
	b.WriteString("|---|" + strings.Repeat("---:|", len(head)-1) + "\n")
	for _, row := range rows {
		line(row)
	}
	return b.String()
}

// digits writes a figure with three digits that count.
func digits(v float64) string {
	switch v = math.Abs(v); {
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

// micros writes nanoseconds as a time with a unit.
func micros(ns float64) string {
	if ns >= float64(time.Millisecond) {
		return digits(ns/float64(time.Millisecond)) + " ms"
	}
	return digits(ns/float64(time.Microsecond)) + " µs"
}
