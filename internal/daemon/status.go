// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"crypto/tls"
	"crypto/x509"
	"maps"
	"os"
	"runtime"
	rtmetrics "runtime/metrics"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/manifold-grpc/manifold/internal/metrics"
	"github.com/manifold-grpc/manifold/internal/status"
	"github.com/manifold-grpc/manifold/internal/upstream"
)

// Status returns what the admin endpoint shows, with the points of histories after number since. It is empty
// without an admin endpoint.
func (d *Daemon) Status(since uint64) *status.Status {
	o := d.observer
	if o == nil {
		return &status.Status{}
	}
	w := d.world.Load()
	s := &status.Status{
		Now: time.Now(), Started: d.started, Version: d.cfg.Version, State: "serving", Seq: o.history.Seq(),
		Process: processStatus(), Total: o.history.Activity(metrics.Total, since), Reload: d.reloadStatus(),
		LogLevel: strings.ToLower(d.cfg.Level.Level().String()), Tracing: o.traces(),
	}
	if o.writer != nil {
		s.AccessLog = &status.AccessLog{Written: o.writer.Written(), Dropped: o.writer.Dropped()}
	}
	switch {
	case d.health.drains():
		s.State = "draining"
	case d.starting():
		s.State = "starting"
	}
	s.Process.CPU = o.rates.cpu()
	s.Total.InFlight = 0
	for _, f := range d.running() {
		one := d.frontendStatus(f, since)
		s.Total.InFlight += one.Activity.InFlight
		s.Frontends = append(s.Frontends, one)
		s.Certificates = append(s.Certificates, certificatesOf(f)...)
	}
	for i := range w.routes {
		r := &w.routes[i]
		s.Routes = append(s.Routes, status.Route{
			Name: routeName(i), Match: matchText(r), To: toText(r), Activity: o.history.Activity(metrics.Group{Route: routeName(i)}, since),
		})
	}
	for _, name := range slices.Sorted(maps.Keys(w.upstreams)) {
		s.Backends = append(s.Backends, o.backendStatus(w, name, since))
	}

	return s
}

func processStatus() status.Process {
	samples := []rtmetrics.Sample{{Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"}}
	rtmetrics.Read(samples)

	return status.Process{
		PID: os.Getpid(), Goroutines: runtime.NumGoroutine(), Memory: samples[0].Value.Uint64() - samples[1].Value.Uint64(),
	}
}

func (d *Daemon) reloadStatus() status.Reload {
	r := d.ReloadStatus()
	s := status.Reload{Time: r.Loaded, OK: r.Err == nil, Count: r.Loads - min(r.Loads, 1), Failed: r.Failures}
	if r.Err != nil {
		s.Error = r.Err.Error()
	}
	s.File = d.cfg.FileName

	return s
}

func (d *Daemon) frontendStatus(f *frontend, since uint64) status.Frontend {
	p := f.router.Load().frontend
	counts := d.observer.registry.Frontend(p.name).Counts()
	s := status.Frontend{
		Name: p.name, Address: f.addr().String(), TLS: p.tls != nil, Connections: f.server.Connections(),
		Activity: d.observer.history.Activity(metrics.Group{Frontend: p.name}, since), Buffered: f.server.Buffered(),
		Accepted: counts.Accepted, Rejected: counts.Rejected, Reasons: counts.Reasons, Glitches: counts.Glitches,
	}
	s.Activity.InFlight = int64(f.server.InFlight())

	return s
}

// certificatesOf returns the certificates that a frontend shows now.
func certificatesOf(f *frontend) []status.Certificate {
	p := f.router.Load().frontend
	if p.pairs == nil {
		return nil
	}
	var list []status.Certificate
	for i, pair := range p.pairs.Current() {
		leaf := leafOf(pair)
		if leaf == nil {
			continue
		}
		subject := leaf.Subject.String()
		if subject == "" && len(leaf.DNSNames) > 0 {
			subject = leaf.DNSNames[0]
		}
		list = append(list, status.Certificate{
			Frontend: p.name, Subject: subject, Names: leaf.DNSNames, Issuer: leaf.Issuer.String(), NotAfter: leaf.NotAfter, File: p.pairs.File(i),
		})
	}

	return list
}

func leafOf(pair *tls.Certificate) *x509.Certificate {
	if pair.Leaf != nil {
		return pair.Leaf
	}
	leaf, err := x509.ParseCertificate(pair.Certificate[0])
	if err != nil {
		return nil
	}

	return leaf
}

// matchText returns what a route asks, in a line.
func matchText(r *routePlan) string {
	m := &r.Match
	service := m.Service
	if service == "" {
		service = "*"
	}
	var text strings.Builder
	text.WriteString(m.Host + "/" + service)
	if m.Method != "" {
		text.WriteString("/" + m.Method)
	}
	for _, key := range slices.Sorted(maps.Keys(m.Metadata)) {
		text.WriteString(" " + key + "=" + m.Metadata[key])
	}

	return text.String()
}

// toText returns where a route leads, in a few words.
func toText(r *routePlan) string {
	switch {
	case r.Deny != "":
		return "denied"
	case r.FanOut != nil:
		names := r.FanOut.Backends
		if r.FanOut.Backend != "" {
			names = []string{r.FanOut.Backend}
		}

		return "all of " + strings.Join(names, ", ")
	}
	var names []string
	for _, t := range r.Backend {
		names = append(names, t.Name)
	}

	return strings.Join(names, ", ")
}

// usable reports whether a backend has an endpoint that takes calls.
func usable(b *upstream.Backend) bool {
	return slices.ContainsFunc(b.Endpoints(), func(e upstream.EndpointStatus) bool { return e.Weight > 0 && e.Usable() })
}

func (o *observer) backendStatus(w *world, name string, since uint64) status.Backend {
	b := status.Backend{Name: name, Balance: string(w.backends[name].Balance), Activity: o.history.Activity(metrics.Group{Backend: name}, since)}
	if b.Balance == "" {
		b.Balance = "round_robin"
	}
	for _, e := range w.upstreams[name].Endpoints() {
		counts := e.Relay.Counts()
		s := status.Endpoint{
			Name: e.Name, Address: e.Address.String(), State: e.State.String(), Health: e.Health.String(), HealthReason: e.HealthReason,
			Ejected: e.Ejected, Usable: e.Usable(), Weight: e.Weight, Connections: e.Connections, InFlight: e.InFlight, Calls: e.Calls, Failures: e.Failures,
			Connected: counts.Connected, Failed: counts.Failed, Lost: counts.Lost,
		}
		if e.Err != nil {
			s.Error = e.Err.Error()
		}
		s.Rate, s.FailureRate = o.rates.of(endpointKey{name, e.Name}, e.Calls, e.Failures)
		b.Ready = b.Ready || s.Usable && s.Weight > 0
		b.Endpoints = append(b.Endpoints, s)
	}

	return b
}

// endpointKey names an endpoint.
type endpointKey struct{ backend, endpoint string }

// endpointRates remembers what endpoints had counted, and what the process had cost, some seconds ago.
type endpointRates struct {
	mu sync.Mutex
	// Guarded by mu. The oldest first.
	past []endpointSample
}

type endpointSample struct {
	at     time.Time
	cpu    time.Duration
	counts map[endpointKey][2]uint64
}

// rateSeconds is over how many seconds rates are taken.
const rateSeconds = 10

func (r *endpointRates) sample(now time.Time, w *world) {
	s := endpointSample{now, cpuTime(), map[endpointKey][2]uint64{}}
	for name, b := range w.upstreams {
		for _, e := range b.Endpoints() {
			s.counts[endpointKey{name, e.Name}] = [2]uint64{e.Calls, e.Failures}
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.past = append(r.past, s); len(r.past) > rateSeconds {
		r.past = slices.Delete(r.past, 0, 1)
	}
}

// of returns the rates of an endpoint that has counted calls and failures now.
func (r *endpointRates) of(k endpointKey, calls, failures uint64) (rate, failureRate status.Number) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.past {
		c, ok := s.counts[k]
		if span := time.Since(s.at).Seconds(); ok && c[0] <= calls && c[1] <= failures && span > 0.5 {
			return status.Number(float64(calls-c[0]) / span), status.Number(float64(failures-c[1]) / span)
		}
	}

	return 0, 0
}

// cpu returns the cores in use.
func (r *endpointRates) cpu() float64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.past) < 2 {
		return 0
	}
	first, last := &r.past[max(0, len(r.past)-3)], &r.past[len(r.past)-1]
	if span := last.at.Sub(first.at); span > 0 {
		return float64(last.cpu-first.cpu) / float64(span)
	}

	return 0
}
