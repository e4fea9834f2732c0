// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/manifold-grpc/manifold/internal/config"
	"github.com/manifold-grpc/manifold/relay"
)

const (
	// connectTimeout is how long one attempt to connect may take.
	connectTimeout = 5 * time.Second
	// maxBackoff is the longest wait between two attempts, hence about how long
	// a backend that is back stays unused.
	maxBackoff = 5 * time.Second
	// firstTries is how long the start may wait for the endpoints.
	firstTries = time.Second
)

// dataPath moves calls from listeners to endpoints. The daemon uses openDataPath
// and the methods serve, drain, inFlight and close, and nothing else of it. It is
// package relay, with the daemon's own services and the one-to-many calls of each route as
// backends in memory.
type dataPath struct {
	servers   []*relay.Server // one for each frontend, in their order
	backends  map[string]*relay.Backend
	endpoints []*relay.Endpoint
	locals    []*localServices
}

// openDataPath makes a data path and begins to connect to its endpoints. Its
// owner ends it with drain, or with close if it never served.
func openDataPath(cfg *plan) (*dataPath, error) {
	p := &dataPath{backends: map[string]*relay.Backend{}}
	for _, name := range slices.Sorted(maps.Keys(cfg.backends)) {
		p.openBackend(cfg.backends[name], cfg.log)
	}
	health := openHealth(cfg.local)
	p.locals = append(p.locals, health)
	routes, err := p.openRoutes(cfg)
	if err != nil {
		p.close()
		return nil, err
	}
	for i := range cfg.frontends {
		f := &cfg.frontends[i]
		r := &router{frontend: f, table: cfg.table, routes: routes, health: health.backend}
		p.servers = append(p.servers, &relay.Server{TLS: f.tls, Limits: f.limits, ForwardedFor: f.forwardedFor, Route: r.take})
	}
	p.awaitFirstTries()

	return p, nil
}

// openBackend connects the endpoints of a backend.
func (p *dataPath) openBackend(b *backendPlan, log *slog.Logger) {
	backend := &relay.Backend{Name: b.name}
	if b.balance == config.LeastRequest {
		backend.Pick = leastRequest
	}
	for _, e := range b.endpoints {
		backend.Endpoints = append(backend.Endpoints, openEndpoint(e.Endpoint, b, log))
	}
	p.backends[b.name] = backend
	p.endpoints = append(p.endpoints, backend.Endpoints...)
}

// openRoutes returns the routes, with the local servers of those for one-to-many calls.
func (p *dataPath) openRoutes(cfg *plan) ([]*pathRoute, error) {
	var routes []*pathRoute
	for i := range cfg.routes {
		r := &pathRoute{routePlan: &cfg.routes[i]}
		switch {
		case r.FanOut != nil:
			services, err := openFanOut(cfg.backends[r.FanOut.Backend], r.routePlan)
			if err != nil {
				return nil, err
			}
			p.locals = append(p.locals, services)
			r.choice.backends = []*relay.Backend{services.backend}
		case len(r.Backend) > 0:
			r.choice = p.choose(r.Backend)
		}
		routes = append(routes, r)
	}

	return routes, nil
}

// choose returns the backends of a route.
func (p *dataPath) choose(targets config.Targets) choice {
	c := choice{turn: new(atomic.Uint64)}
	sum := uint64(0)
	for _, t := range targets {
		sum += uint64(t.Weight)
		c.backends, c.bounds = append(c.backends, p.backends[t.Name]), append(c.bounds, sum)
	}

	return c
}

// openEndpoint returns an endpoint that is connecting and whose states are logged.
func openEndpoint(e Endpoint, b *backendPlan, log *slog.Logger) *relay.Endpoint {
	c := relay.EndpointConfig{
		Authority:      b.authority,
		ConnectTimeout: b.connectTimeout,
		BackoffMax:     maxBackoff,
		OnState:        func(_ *relay.Endpoint, s relay.State, err error) { logState(log, b.name, e, s, err) },
	}
	if e.TLS {
		c.TLS = b.tls
	}
	addr := e.Addr
	if e.Network == "unix" {
		addr = "unix:" + addr
	}

	return relay.NewEndpoint(addr, c)
}

func logState(log *slog.Logger, backend string, e Endpoint, s relay.State, err error) {
	switch s {
	case relay.Ready:
		log.Info("backend connected", "backend", backend, "endpoint", e)
	case relay.Failing:
		log.Warn("backend not reachable", "backend", backend, "endpoint", e, "error", err)
	}
}

// awaitFirstTries waits until each endpoint is known to be up or down, so that
// the first calls are balanced like all others, but not for long.
func (p *dataPath) awaitFirstTries() {
	ctx, cancel := context.WithTimeout(context.Background(), firstTries)
	defer cancel()
	for _, e := range p.endpoints {
		e.WaitForStateChange(ctx, relay.Connecting)
	}
}

// inFlight returns the number of calls that have not ended.
func (p *dataPath) inFlight() int64 {
	n := 0
	for _, s := range p.servers {
		n += s.InFlight()
	}

	return int64(n)
}

// serve takes over the listener of a frontend and serves it until drain. Its error is nil after that,
// and else what was wrong with the listener.
func (p *dataPath) serve(frontend int, lis net.Listener) error {
	err := p.servers[frontend].Serve(lis)
	if errors.Is(err, relay.ErrServerClosed) {
		return nil // drain came first
	}

	return err
}

// drain closes the listeners, tells clients to take new calls elsewhere, lets the
// calls in flight finish until ctx ends, and closes everything. If calls had to
// be cut then, it returns a *CutError.
func (p *dataPath) drain(ctx context.Context) error {
	errs := make([]error, len(p.servers))
	var wg sync.WaitGroup
	for i, s := range p.servers {
		wg.Go(func() { errs[i] = s.Shutdown(ctx) }) // until the drain ends, bounded by ctx
	}
	wg.Wait()
	p.close()

	var total *CutError
	for i, err := range errs {
		if cut, ok := errors.AsType[*relay.CutError](err); ok {
			if total == nil {
				total = &CutError{Cause: cut.Cause}
			}
			total.Calls += int64(cut.Calls)
			errs[i] = nil
		}
	}
	if total != nil {
		errs = append(errs, total)
	}

	return joined(errs)
}

// joined is errors.Join that leaves a single error as it is.
func joined(errs []error) error {
	errs = slices.DeleteFunc(errs, func(err error) bool { return err == nil })
	if len(errs) == 1 {
		return errs[0]
	}

	return errors.Join(errs...)
}

// close closes the connections to the endpoints.
func (p *dataPath) close() {
	for _, s := range p.servers {
		s.Close()
	}
	for _, e := range p.endpoints {
		e.Close()
	}
	for _, l := range p.locals {
		l.close()
	}
}

// loops returns an error if an endpoint is plainly one of the listeners.
func (p *plan) loops(own []net.Addr) error {
	for _, name := range slices.Sorted(maps.Keys(p.backends)) {
		for _, e := range p.backends[name].endpoints {
			for _, addr := range own {
				if pointsAt(e.Endpoint, addr) {
					return fmt.Errorf("endpoint %q is the address that the proxy itself listens on; expected a backend's", e.Endpoint)
				}
			}
		}
	}

	return nil
}
