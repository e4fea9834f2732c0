// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	crand "crypto/rand"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"reflect"
	"slices"
	"sync/atomic"
	"time"

	"github.com/manifold-grpc/manifold/fanout"
	"github.com/manifold-grpc/manifold/internal/config"
	"github.com/manifold-grpc/manifold/internal/upstream"
)

// firstTries is how long the start, or a reload, may wait for endpoints.
const firstTries = time.Second

// A world is all that calls are routed by. Once in use it does not change: a reload makes another. Backends
// that both have are the same in both, with their connections.
type world struct {
	*plan
	routed    []*pathRoute // of plan.routes, by index
	upstreams map[string]*upstream.Backend

	guard      fanout.Guard          // of one-to-many calls
	reflectors map[string]*reflector // of backends whose method kinds the file does not tell
}

// openWorld makes a world that takes over from old what stays, and begins to connect to the rest. What it opened
// is closed with abandon, or later with retire. The backends that stay have their old configuration until adopt.
func (d *Daemon) openWorld(p *plan, old *world) (*world, error) {
	w := &world{plan: p, upstreams: map[string]*upstream.Backend{}, reflectors: map[string]*reflector{}, guard: old.guard}
	if w.guard.ID == "" {
		w.guard.ID = crand.Text()
	}
	for _, name := range slices.Sorted(maps.Keys(p.backends)) {
		if kept := old.upstreams[name]; kept != nil {
			w.upstreams[name] = kept
			continue
		}
		hooks := d.observer.upstream(name)
		hooks.Changed = func(string) { d.health.change() }
		opened, err := upstream.Open(name, p.backends[name].Config, upstream.Deps{Log: p.log, Hooks: hooks})
		if err != nil {
			w.abandon(old)
			return nil, err
		}
		w.upstreams[name] = opened
	}
	if err := w.openRoutes(old); err != nil {
		w.abandon(old)
		return nil, err
	}
	w.awaitFirstTries(old)

	return w, nil
}

// openRoutes makes the routes.
func (w *world) openRoutes(old *world) error {
	for i := range w.routes {
		r := newPathRoute(&w.routes[i])
		switch {
		case r.FanOut != nil:
			var err error
			if r.fan, err = w.openFan(old, r.routePlan); err != nil {
				return err
			}
		case len(r.Backend) > 0:
			r.choice = w.choose(r.Backend)
		}
		if r.Mirror != nil {
			r.mirror = newMirrorRoute(r.Mirror, w.upstreams[r.Mirror.Backend].Relay())
		}
		w.routed = append(w.routed, r)
	}

	return nil
}

// openFan returns what a route for one-to-many calls has besides.
func (w *world) openFan(old *world, r *routePlan) (*fanRoute, error) {
	names := r.FanOut.Backends
	if r.FanOut.Backend != "" {
		names = []string{r.FanOut.Backend}
	}
	var upstreams []*upstream.Backend
	for _, name := range names {
		upstreams = append(upstreams, w.upstreams[name])
	}
	f, err := newFanRoute(r, upstreams, w.guard)
	if err == nil && f.streams == nil {
		f.reflector = w.reflector(old, names[0])
	}

	return f, err
}

// reflector returns that of a backend: that of old, if nothing of the backend is different.
func (w *world) reflector(old *world, name string) *reflector {
	if w.reflectors[name] == nil {
		kept := old.reflectors[name]
		if kept == nil || kept.backend != w.upstreams[name] || !reflect.DeepEqual(kept.plan.Config, w.backends[name].Config) {
			kept = newReflector(w.upstreams[name], w.backends[name], w.log)
		}
		w.reflectors[name] = kept
	}

	return w.reflectors[name]
}

// closeReflectors closes those of w that keep has not.
func (w *world) closeReflectors(keep *world) {
	for name, r := range w.reflectors {
		if keep.reflectors[name] != r {
			r.close()
		}
	}
}

// choose returns the backends of a route.
func (w *world) choose(targets config.Targets) choice {
	c := choice{turn: new(atomic.Uint64)}
	c.turn.Store(rand.Uint64()) // so that frequent reloads favour nobody
	sum := uint64(0)
	for _, t := range targets {
		sum += uint64(t.Weight)
		c.backends, c.bounds = append(c.backends, w.upstreams[t.Name].Relay()), append(c.bounds, sum)
	}

	return c
}

// awaitFirstTries waits until each endpoint of new backends is known to be up or down, so that
// the first calls are balanced like all others, but not for long.
func (w *world) awaitFirstTries(old *world) {
	ctx, cancel := context.WithTimeout(context.Background(), firstTries)
	defer cancel()
	for name, b := range w.upstreams {
		if old.upstreams[name] != b {
			b.AwaitTries(ctx)
		}
	}
}

// adopt has the backends that stay take their new configuration. If one cannot, all have that of old again.
func (w *world) adopt(old *world) error {
	var changed []string
	for _, name := range slices.Sorted(maps.Keys(w.upstreams)) {
		b := w.upstreams[name]
		if old.upstreams[name] != b || reflect.DeepEqual(w.backends[name].Config, old.backends[name].Config) {
			continue
		}
		if err := b.Update(w.backends[name].Config); err != nil {
			for _, name := range changed {
				err = joined([]error{err, w.upstreams[name].Update(old.backends[name].Config)})
			}
			return err
		}
		changed = append(changed, name)
	}

	return nil
}

// abandon closes what the world has and old has not: it was never in use.
func (w *world) abandon(old *world) {
	for name, b := range w.upstreams {
		if old.upstreams[name] != b {
			b.Close()
		}
	}
	w.closeReflectors(old)
}

// retire has what old has and w has not run its calls to the end. reloading is held.
func (d *Daemon) retire(old, w *world) {
	for name, b := range old.upstreams {
		if w.upstreams[name] != b {
			d.retiring.Go(func() { d.retireUpstream(w.plan, b) }) // ends with the backend's calls, or when its time is up
		}
	}
	d.retiring.Go(func() { // ends after a moment: a call may be between its route and the reflector
		ctx, cancel := d.grace(w.plan)
		defer cancel()
		pause(ctx, time.Second)
		old.closeReflectors(w)
	})
}

func (d *Daemon) retireUpstream(p *plan, b *upstream.Backend) {
	ctx, cancel := d.grace(p)
	defer cancel()
	if err := b.Retire(ctx); err != nil {
		d.log.Warn("removed backend closed before its calls ended", "backend", b.Name(), "error", context.Cause(ctx))
		return
	}
	d.log.Info("removed backend closed", "backend", b.Name())
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

// joined is errors.Join that leaves a single error as it is.
func joined(errs []error) error {
	errs = slices.DeleteFunc(errs, func(err error) bool { return err == nil })
	if len(errs) == 1 {
		return errs[0]
	}

	return errors.Join(errs...)
}
