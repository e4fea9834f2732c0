// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/manifold-grpc/manifold/internal/accesslog"
	"github.com/manifold-grpc/manifold/internal/config"
	"github.com/manifold-grpc/manifold/internal/metrics"
	"github.com/manifold-grpc/manifold/internal/tracing"
	"github.com/manifold-grpc/manifold/internal/upstream"
	"github.com/manifold-grpc/manifold/relay"
)

// An observer has what watches calls, for the daemon's whole life: worlds come and go, counts stay. Where
// neither an admin endpoint nor an access log nor tracing is configured there is none, and calls are not watched at all. A nil observer
// observes nothing.
type observer struct {
	registry metrics.Registry
	history  *metrics.History
	admin    *adminServer    // nil: none
	tracer   *tracing.Tracer // nil: none

	writer   *accesslog.Writer // nil: there was no access log at the start
	progress time.Duration
	access   atomic.Pointer[accesslog.Logger] // nil: none, maybe for now
	path     string                           // of writer; guarded by the daemon's reloading

	stop    chan struct{} // ends sample
	stopped sync.WaitGroup
	rates   endpointRates
}

// newObserver returns what cfg asks for, with the access log and the tracer open.
func newObserver(cfg *Config) (*observer, error) {
	file := cfg.File
	if file == nil {
		file = &config.Config{Admin: cfg.Admin}
	}
	if file.Admin == nil && file.AccessLog == nil && file.Tracing == nil {
		return nil, nil
	}
	o := &observer{stop: make(chan struct{})}
	o.history = metrics.NewHistory(&o.registry)
	if t := file.Tracing; t != nil {
		if err := o.openTracer(t, cfg); err != nil {
			return nil, err
		}
	}
	if l := file.AccessLog; l != nil {
		o.path = accessPath(l)
		var err error
		if o.writer, err = accesslog.Open(accesslog.Config{Path: o.path, Log: cfg.Log}); err != nil {
			o.close()
			return nil, fmt.Errorf("access log: %w", err)
		}
		o.access.Store(o.logger(l))
		o.progress = time.Duration(l.Progress)
	}

	return o, nil
}

// logger returns what makes the lines that a file asks for.
func (o *observer) logger(l *config.AccessLog) *accesslog.Logger {
	logger := &accesslog.Logger{Writer: o.writer, Headers: l.Headers}
	if o.tracer != nil {
		logger.Trace = o.traceID
	}

	return logger
}

// start begins to take samples for the history and opens the admin endpoint.
func (o *observer) start(d *Daemon) error {
	if o == nil {
		return nil
	}
	a := d.cfg.Admin
	if d.cfg.File != nil {
		a = d.cfg.File.Admin
	}
	if a == nil {
		return nil
	}
	var err error
	if o.admin, err = d.openAdmin(a); err != nil {
		return err
	}
	o.stopped.Add(1)
	go o.sample(d) // until close

	return nil
}

// sample takes a sample each second.
func (o *observer) sample(d *Daemon) {
	defer o.stopped.Done()
	t := time.NewTicker(time.Second)
	defer t.Stop()
	for {
		o.history.Sample(time.Now())
		o.rates.sample(time.Now(), d.world.Load())
		select {
		case <-t.C:
		case <-o.stop:
			return
		}
	}
}

// close ends everything.
func (o *observer) close() {
	if o == nil {
		return
	}
	close(o.stop)
	o.stopped.Wait()
	if o.admin != nil {
		o.admin.close()
	}
	if o.tracer != nil {
		o.tracer.Close()
	}
	if o.writer != nil {
		o.writer.Close()
	}
}

// reopen has the access log's file opened again.
func (o *observer) reopen() {
	if o != nil && o.writer != nil {
		o.writer.Reopen()
	}
}

// renew comes before the routes of a new world: what only worlds before the last had is forgotten.
func (o *observer) renew(w *world) {
	if o == nil {
		return
	}
	o.registry.Sweep()
	o.registry.Begin()
	for name := range w.upstreams {
		o.registry.Backend(name) // is in this world too
	}
}

// upstream returns the hooks of a backend.
func (o *observer) upstream(name string) upstream.Hooks {
	if o == nil {
		return upstream.Hooks{}
	}
	b := o.registry.Backend(name)

	return upstream.Hooks{
		Health:     func(_, _ string, healthy bool, _ string) { b.Health(healthy) },
		Ejected:    func(_, _, cause string, _ time.Time) { b.Ejected(cause) },
		Readmitted: func(_, _ string) { b.Readmitted() },
		Resolved:   func(_ string, _ int, err error) { b.Resolved(err) },
		Dropped:    func(_, reason string) { b.Dropped(reason) },
		Mirrored:   func(_, result string) { b.Mirrored(result) },
		Retried:    func(_ string, code codes.Code) { b.Retried(code) },
		Exhausted:  func(_ string, code codes.Code) { b.Exhausted(code) },
	}
}

// hooks returns those of a frontend's server, and what tells them its name; nil where there are none.
func (o *observer) hooks(frontend string) (relay.Hooks, *frontendObserver) {
	if o == nil {
		return relay.Hooks{}, nil
	}
	f := &frontendObserver{observer: o}
	f.name(frontend)
	h := relay.Hooks{
		ConnOpened:   func(client net.Addr) { f.counts.Load().ConnOpened(client) },
		ConnClosed:   func(client net.Addr, err error) { f.counts.Load().ConnClosed(client, err) },
		ConnRejected: func(client net.Addr, reason string) { f.counts.Load().ConnRejected(client, reason) },
		Glitch:       func(kind string) { f.counts.Load().Glitch(kind) },
		CallEnded:    f.callEnded, AttemptOpening: attemptOpening, AttemptRetried: attemptRetried,
	}
	if o.tracer != nil {
		h.TargetOpening = targetOpening
	}
	if o.writer != nil {
		h.FirstResponse = true
		if o.progress >= 0 {
			h.CallProgress, h.ProgressEvery = f.callProgress, o.progress
		}
	}

	return h, f
}

// frontendObserver watches the calls of a frontend.
type frontendObserver struct {
	*observer
	counts atomic.Pointer[metrics.Frontend]
}

// name has what happens from now on counted under a name: a reload may give an address another one.
func (f *frontendObserver) name(frontend string) {
	if f != nil {
		f.counts.Store(f.registry.Frontend(frontend))
	}
}

// cellOf returns the cell that the router gave a call, or nil.
func cellOf(c *relay.Call) *metrics.Cell {
	switch tag := c.Tag().(type) {
	case *metrics.Cell:
		return tag
	case *traced:
		return tag.cell.Load()
	}

	return nil
}

func (f *frontendObserver) callEnded(c *relay.Call, s relay.CallStats) {
	cell := cellOf(c)
	if cell == nil { // refused before it had a route, or answered by the daemon itself
		cell = f.counts.Load().Unrouted()
		cell.Start()
	}
	cell.End(&s)
	if s.Reason != "" {
		f.counts.Load().Failed(s.Reason)
	}
	if l := f.access.Load(); l != nil {
		l.Log(accesslog.End, c, &s, whereOf(cell))
	}
	if t := tracedOf(c); t != nil {
		t.call.End(c, &s)
	}
}

func (f *frontendObserver) callProgress(c *relay.Call, s relay.CallStats) {
	l := f.access.Load()
	if l == nil {
		return
	}
	cell := cellOf(c)
	if cell == nil {
		cell = f.counts.Load().Unrouted()
	}
	l.Log(accesslog.Progress, c, &s, whereOf(cell))
}

func whereOf(c *metrics.Cell) accesslog.Where {
	return accesslog.Where{Frontend: c.Frontend, Route: c.Route, Backend: c.Backend}
}

func attemptOpening(c *relay.Call, n int) {
	if cell := cellOf(c); cell != nil {
		cell.Attempt()
	}
	if t := tracedOf(c); t != nil {
		t.call.AttemptOpening(c, n)
	}
}

func attemptRetried(c *relay.Call, a relay.AttemptStats, start time.Time) {
	if cell := cellOf(c); cell != nil {
		cell.Retried(a.Code, time.Since(start))
	}
	if t := tracedOf(c); t != nil {
		t.call.AttemptRetried(c, a)
	}
}

// cells returns where the calls of a frontend are counted, by route and by the place of the backend among
// the route's; nil where they are not.
func (o *observer) cells(frontend string, w *world) [][]*metrics.Route {
	if o == nil {
		return nil
	}
	cells := make([][]*metrics.Route, len(w.routes))
	for i := range w.routes {
		r := &w.routes[i]
		p := metrics.Pattern{Service: r.Match.Service, Method: r.Match.Method}
		for _, backend := range backendsOf(r) {
			cells[i] = append(cells[i], o.registry.Route(frontend, routeName(i), backend, p, w.methods))
		}
	}

	return cells
}

func routeName(i int) string { return fmt.Sprintf("routes[%d]", i) }

// backendsOf returns the names of a route's backends; one, empty, for a route that denies.
func backendsOf(r *routePlan) []string {
	switch {
	case r.FanOut != nil && r.FanOut.Backend != "":
		return []string{r.FanOut.Backend}
	case r.FanOut != nil, len(r.Backend) == 0:
		return []string{""}
	}
	var names []string
	for _, t := range r.Backend {
		names = append(names, t.Name)
	}

	return names
}

// observe counts the start of a call that takes a route, to the backend at a place among the route's.
func (r *router) observe(c *relay.Call, route, backend int) {
	if r.cells == nil {
		return
	}
	cell := r.cells[route][backend].Cell(c.Path())
	cell.Start()
	if t := tracedOf(c); t != nil {
		t.cell.Store(cell)
		t.call.Routed(cell.Route, cell.Backend)
		return
	}
	c.SetTag(cell)
}

// methodsOf reads the methods of descriptor sets.
func methodsOf(files []config.File, log *slog.Logger) (metrics.Methods, error) {
	methods := metrics.Methods{}
	for _, f := range files {
		if err := readDescriptors(string(f), methods); err != nil {
			return nil, fmt.Errorf("metrics.descriptors: %w", err)
		}
	}
	if len(methods) > 0 {
		log.Debug("methods named in metrics", "methods", len(methods))
	}

	return methods, nil
}
