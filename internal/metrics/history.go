// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"math"
	"sync"
	"time"

	"github.com/manifold-grpc/manifold/internal/status"
)

// Lengths of the memory, in samples, of which one is to be taken each second.
const (
	historyLen = 300
	rateSpan   = 10
)

// A Group is a set of cells whose activity is remembered.
type Group struct{ Frontend, Route, Backend string }

// Total is the group of all.
var Total = Group{}

// History remembers what the cells of a registry did lately. Its methods are safe for concurrent use.
type History struct {
	registry *Registry

	mu sync.Mutex
	// Guarded by mu.
	seq    uint64
	groups map[Group]*memory
}

// NewHistory returns the history of r, which is empty.
func NewHistory(r *Registry) *History { return &History{registry: r, groups: map[Group]*memory{}} }

// totals are sums over cells.
type totals struct {
	at            time.Time
	started       uint64
	calls, errors uint64
	codes         [numCodes]uint64
	bytesIn       uint64
	bytesOut      uint64
	latency       [len(latencyBounds) + 1]uint64
}

// memory is the past of a group.
type memory struct {
	first  uint64 // sample in which it was seen first
	seen   uint64 // and last
	past   [rateSpan + 1]totals
	points [historyLen]status.Point
}

// add adds a cell's counts.
func (t *totals) add(c *Cell) {
	for _, set := range [...]*byCode{&c.single, &c.other} {
		for code := range set {
			o := set[code].Load()
			if o == nil {
				continue
			}
			n := uint64(0)
			for i := range o.latency.buckets {
				b := o.latency.buckets[i].Load()
				t.latency[i] += b
				n += b
			}
			t.calls += n
			t.codes[code] += n
			if blamed[code] {
				t.errors += n
			}
			t.bytesIn += o.requestBytes.Load()
			t.bytesOut += o.responseBytes.Load()
		}
	}
	t.started += c.started.Load() // after the calls, so that it is never less
}

// Sample takes a sample. Call it once a second.
func (h *History) Sample(now time.Time) {
	sums := map[Group]*totals{Total: {at: now}}
	for _, c := range h.registry.list() {
		for i, g := range [...]Group{Total, {Frontend: c.Frontend}, {Route: c.Route}, {Backend: c.Backend}} {
			if i > 0 && g == Total { // a call without a route or a backend
				continue
			}
			t := sums[g]
			if t == nil {
				t = &totals{at: now}
				sums[g] = t
			}
			t.add(c)
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.seq++
	for g, t := range sums {
		m := h.groups[g]
		if m == nil {
			m = &memory{first: h.seq}
			h.groups[g] = m
		}
		m.take(h.seq, t)
	}
	for g, m := range h.groups {
		if m.seen != h.seq {
			delete(h.groups, g)
		}
	}
}

// take stores a sample.
func (m *memory) take(seq uint64, t *totals) {
	m.seen = seq
	m.past[seq%uint64(len(m.past))] = *t
	if seq == m.first {
		m.points[seq%historyLen] = status.Point{P50: float32(math.NaN()), P99: float32(math.NaN())}
		return
	}
	d := t.since(&m.past[(seq-1)%uint64(len(m.past))])
	m.points[seq%historyLen] = status.Point{
		Rate: float32(d.rate(d.calls)), Errors: float32(d.rate(d.errors)), P50: float32(d.quantile(0.5)), P99: float32(d.quantile(0.99)),
	}
}

// change is the difference of two samples.
type change struct {
	seconds                          float64
	calls, errors, bytesIn, bytesOut uint64
	latency                          counts
}

// since returns the change from an earlier sample. Cells that were swept meanwhile leave less than before: that is none.
func (t *totals) since(earlier *totals) change {
	less := func(a, b uint64) uint64 { return a - min(a, b) }
	c := change{
		seconds: t.at.Sub(earlier.at).Seconds(),
		calls:   less(t.calls, earlier.calls), errors: less(t.errors, earlier.errors),
		bytesIn: less(t.bytesIn, earlier.bytesIn), bytesOut: less(t.bytesOut, earlier.bytesOut),
		latency: make(counts, len(t.latency)),
	}
	for i := range t.latency {
		c.latency[i] = less(t.latency[i], earlier.latency[i])
	}

	return c
}

func (c *change) rate(n uint64) float64 {
	if c.seconds <= 0 {
		return 0
	}

	return float64(n) / c.seconds
}

func (c *change) quantile(q float64) float64 { return c.latency.quantile(q) }

// Seq returns the number of samples taken.
func (h *History) Seq() uint64 {
	h.mu.Lock()
	defer h.mu.Unlock()

	return h.seq
}

// Activity returns what is remembered of a group, with the points after sample number since; a group that has had no call is
// all zero.
func (h *History) Activity(g Group, since uint64) status.Activity {
	h.mu.Lock()
	defer h.mu.Unlock()
	a := status.Activity{P50: status.NaN(), P90: status.NaN(), P99: status.NaN()}
	m := h.groups[g]
	if m == nil {
		return a
	}
	newest := &m.past[h.seq%uint64(len(m.past))]
	a.Calls, a.Errors = newest.calls, newest.errors
	a.InFlight = int64(newest.started) - int64(newest.calls)
	for code, n := range newest.codes {
		if n > 0 {
			if a.Codes == nil {
				a.Codes = map[string]uint64{}
			}
			a.Codes[codeNames[code]] = n
		}
	}
	oldest := max(m.first, h.seq-min(h.seq, rateSpan))
	if oldest < h.seq {
		d := newest.since(&m.past[oldest%uint64(len(m.past))])
		a.Rate, a.ErrorRate = status.Number(d.rate(d.calls)), status.Number(d.rate(d.errors))
		a.BytesIn, a.BytesOut = status.Number(d.rate(d.bytesIn)), status.Number(d.rate(d.bytesOut))
		a.P50, a.P90, a.P99 = status.Number(d.quantile(0.5)), status.Number(d.quantile(0.9)), status.Number(d.quantile(0.99))
	}
	from := max(since+1, m.first, h.seq+1-min(h.seq, historyLen))
	for seq := from; seq <= h.seq; seq++ {
		a.History = append(a.History, m.points[seq%historyLen])
	}

	return a
}
