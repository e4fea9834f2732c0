// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"maps"
	"net/http"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"google.golang.org/grpc/codes"

	"github.com/manifold-grpc/manifold/internal/status"
)

// Handler returns what serves the metrics to Prometheus: those of r, of what state returns at that moment, and of the process.
func Handler(r *Registry, state func() *status.Status) http.Handler {
	reg := prometheus.NewRegistry()
	reg.MustRegister(
		&collector{r, state},
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)

	return promhttp.HandlerFor(reg, promhttp.HandlerOpts{EnableOpenMetrics: true, MaxRequestsInFlight: 4, Timeout: 30 * time.Second})
}

// collector makes the metrics when they are asked for.
type collector struct {
	registry *Registry
	state    func() *status.Status
}

var _ prometheus.Collector = (*collector)(nil)

// Describe describes nothing, as what there is depends on the configuration: the collector is an "unchecked" one.
func (*collector) Describe(chan<- *prometheus.Desc) {}

// Collect sends everything.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	e := exposition{ch}
	cells := c.registry.list()
	for len(cells) > 0 {
		n := 1
		for n < len(cells) && sameSeries(cells[0], cells[n]) {
			n++
		}
		e.calls(cells[:n])
		cells = cells[n:]
	}
	e.attempts(c.registry.list())
	c.registry.mu.Lock()
	frontends := make([]*Frontend, 0, len(c.registry.frontends))
	for _, f := range c.registry.frontends {
		frontends = append(frontends, f)
	}
	backends := slices.Collect(maps.Values(c.registry.backends))
	c.registry.mu.Unlock()
	for _, f := range frontends {
		e.frontend(f)
	}
	for _, b := range backends {
		e.upstream(b)
	}
	e.state(c.state())
}

// sameSeries reports whether two cells differ in their routes alone, which are no label.
func sameSeries(a, b *Cell) bool {
	x, y := a.Key, b.Key
	x.Route, y.Route = "", ""

	return x == y
}

// exposition sends metrics.
type exposition struct{ ch chan<- prometheus.Metric }

func (e exposition) counter(d *prometheus.Desc, v float64, labels ...string) {
	e.ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, v, labels...)
}

func (e exposition) gauge(d *prometheus.Desc, v float64, labels ...string) {
	e.ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
}

// sum is outcomes of several cells.
type sum struct {
	nanos                                                          int64
	requestBytes, responseBytes, requestMessages, responseMessages uint64
	latency, requestSizes, responseSizes                           counts
}

func newSum() *sum {
	return &sum{
		latency:      make(counts, len(latencyBounds)+1),
		requestSizes: make(counts, len(sizeBounds)+1), responseSizes: make(counts, len(sizeBounds)+1),
	}
}

func (s *sum) add(o *outcomes) {
	s.latency.addAll(o.latency.buckets[:])
	s.requestSizes.addAll(o.requestSizes.buckets[:])
	s.responseSizes.addAll(o.responseSizes.buckets[:])
	s.nanos += o.nanos.Load()
	s.requestBytes += o.requestBytes.Load()
	s.responseBytes += o.responseBytes.Load()
	s.requestMessages += o.requestMessages.Load()
	s.responseMessages += o.responseMessages.Load()
}

// byCodes returns the sums of some of the outcomes of cells, by code; nil where there are none.
func byCodes(cells []*Cell, sets func(*Cell) []*byCode) (sums [numCodes]*sum) {
	for _, c := range cells {
		for _, set := range sets(c) {
			for code := range set {
				if o := set[code].Load(); o != nil {
					if sums[code] == nil {
						sums[code] = newSum()
					}
					sums[code].add(o)
				}
			}
		}
	}

	return sums
}

func (e exposition) latency(d *prometheus.Desc, s *sum, shown []float64, labels ...string) {
	e.ch <- prometheus.MustNewConstHistogram(d, s.latency.total(), float64(s.nanos)/1e9, s.latency.cumulative(latencyBounds[:], shown), labels...)
}

func (e exposition) sizes(d *prometheus.Desc, c counts, octets uint64, labels ...string) {
	e.ch <- prometheus.MustNewConstHistogram(d, c.total(), float64(octets), c.cumulative(a66Size, a66Size), labels...)
}

// calls sends what the cells of one series say of calls, as a server sees them.
func (e exposition) calls(cells []*Cell) {
	k := &cells[0].Key
	calls := byCodes(cells, func(c *Cell) []*byCode { return []*byCode{&c.single, &c.other} })
	var started, received, sent uint64
	all := newSum()
	prom := []string{string(k.Kind), k.Service, k.Method, k.Frontend, k.Backend}
	for code, s := range calls {
		if s == nil {
			continue
		}
		labels := []string{k.fullMethod(), codeNames[code], k.Frontend, k.Backend}
		e.latency(serverDuration, s, a66Latency, labels...)
		e.sizes(serverSent, s.responseSizes, s.responseBytes, labels...)
		e.sizes(serverReceived, s.requestSizes, s.requestBytes, labels...)
		e.counter(promHandled, float64(s.latency.total()), append(prom, promCode(code))...)
		received += s.requestMessages
		sent += s.responseMessages
		all.nanos += s.nanos
		for i, n := range s.latency {
			all.latency[i] += n
		}
	}
	for _, c := range cells {
		started += c.started.Load()
	}
	e.counter(serverStarted, float64(started), k.fullMethod(), k.Frontend, k.Backend)
	e.counter(promStarted, float64(started), prom...)
	e.counter(promReceived, float64(received), prom...)
	e.counter(promSent, float64(sent), prom...)
	e.latency(promHandling, all, promLatency, prom...)
	e.fanned(cells)
}

// promCode is a code as codes.Code spells it.
func promCode(i int) string {
	if i == numCodes-1 {
		return "Other"
	}

	return codes.Code(i).String()
}

// fanned sends what the cells of one series say of one-to-many calls.
func (e exposition) fanned(cells []*Cell) {
	k := &cells[0].Key
	var calls, partial uint64
	var targets [numCodes]uint64
	for _, c := range cells {
		if f := c.fanned.Load(); f != nil {
			calls += f.calls.Load()
			partial += f.partial.Load()
			for i := range targets {
				targets[i] += f.targets[i].Load()
			}
		}
	}
	if calls == 0 {
		return
	}
	e.counter(fanCalls, float64(calls), k.fullMethod(), k.Frontend, k.Backend)
	e.counter(fanPartial, float64(partial), k.fullMethod(), k.Frontend, k.Backend)
	for code, n := range targets {
		if n > 0 {
			e.counter(fanTargets, float64(n), k.fullMethod(), codeNames[code], k.Frontend, k.Backend)
		}
	}
}

// attempts sends what the cells say of attempts, as a client sees them: by method and backend, whatever the frontend.
func (e exposition) attempts(cells []*Cell) {
	type series struct{ method, backend string }
	groups := map[series][]*Cell{}
	for _, c := range cells {
		if c.Backend != "" {
			s := series{c.fullMethod(), c.Backend}
			groups[s] = append(groups[s], c)
		}
	}
	for s, cells := range groups {
		started := uint64(0)
		for _, c := range cells {
			started += c.attempts.Load()
		}
		e.counter(attemptStarted, float64(started), s.method, s.backend)
		for code, sum := range byCodes(cells, func(c *Cell) []*byCode { return []*byCode{&c.single, &c.retried} }) {
			if sum == nil {
				continue
			}
			labels := []string{s.method, s.backend, codeNames[code]}
			e.latency(attemptDuration, sum, a66Latency, labels...)
			e.sizes(attemptSent, sum.requestSizes, sum.requestBytes, labels...)
			e.sizes(attemptReceived, sum.responseSizes, sum.responseBytes, labels...)
		}
	}
}
