// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/manifold-grpc/manifold/internal/config"
	"github.com/manifold-grpc/manifold/internal/upstream"
	"github.com/manifold-grpc/manifold/relay"
)

// firstTries is how long the start may wait for the endpoints.
const firstTries = time.Second

// dataPath moves calls from listeners to endpoints. The daemon uses openDataPath
// and the methods serve, drain, inFlight and close, and nothing else of it. It is
// package relay, with the daemon's own services and the one-to-many calls of each route as
// backends in memory.
type dataPath struct {
	servers   []*relay.Server // one for each frontend, in their order
	upstreams map[string]*upstream.Backend
	locals    []*localServices
}

// openDataPath makes a data path and begins to connect to its endpoints. Its
// owner ends it with drain, or with close if it never served.
func openDataPath(cfg *plan) (*dataPath, error) {
	p := &dataPath{upstreams: map[string]*upstream.Backend{}}
	for name, b := range cfg.backends {
		opened, err := upstream.Open(name, b.Config, upstream.Deps{Log: cfg.log})
		if err != nil {
			p.close()
			return nil, err
		}
		p.upstreams[name] = opened
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
		c.backends, c.bounds = append(c.backends, p.upstreams[t.Name].Relay()), append(c.bounds, sum)
	}

	return c
}

// awaitFirstTries waits until each endpoint is known to be up or down, so that
// the first calls are balanced like all others, but not for long.
func (p *dataPath) awaitFirstTries() {
	ctx, cancel := context.WithTimeout(context.Background(), firstTries)
	defer cancel()
	for _, b := range p.upstreams {
		b.AwaitTries(ctx)
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
	for _, b := range p.upstreams {
		b.Close()
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
