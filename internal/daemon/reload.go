// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"
)

// ReloadStatus is what became of the last reload, for metrics and people.
type ReloadStatus struct {
	// Loaded is when what is in use was loaded, by the start or a reload that succeeded.
	Loaded time.Time
	// Attempted is when the last reload, or the start, ended.
	Attempted time.Time
	// Err is what was wrong with the last reload, a line for each thing, or nil: then Attempted is Loaded.
	Err error
	// Loads and Failures count the loads, that of the start included, and the reloads that changed nothing for an error.
	Loads, Failures uint64
}

// ReloadStatus returns what became of the last reload.
func (d *Daemon) ReloadStatus() ReloadStatus {
	d.mu.Lock()
	defer d.mu.Unlock()

	return d.status
}

// note keeps and logs what became of a load. An error has a line for each thing that is wrong, and so has the log.
func (d *Daemon) note(err error) {
	d.mu.Lock()
	s := &d.status
	s.Attempted, s.Err = time.Now(), err
	if err == nil {
		s.Loaded = s.Attempted
		s.Loads++
	} else {
		s.Failures++
	}
	d.mu.Unlock()
	if err == nil {
		return
	}
	for line := range strings.Lines(err.Error()) {
		d.log.Error("reload", "error", strings.TrimSpace(line))
	}
	d.log.Error("reload failed, what was there goes on")
}

// errStopped is the error of a reload that comes too late.
var errStopped = errors.New("the daemon is stopping")

// Reload makes the daemon what its configuration says now: Config.Load is called again, and all files that
// the configuration names are read anew. All of it is made and checked before anything changes, so an error, which is logged and kept in
// ReloadStatus, leaves everything as it was.
//
// What is the same before and after is kept: the listeners and clients' connections of an address, the connections of a
// backend's endpoints. Calls in flight go on as they began. Clients of a frontend that is gone are drained, and a backend that is gone is closed after
// its last call; both have the time that drain.removed says. Settings of a frontend are for new connections; where they are about
// who is trusted, clients are asked to connect anew.
func (d *Daemon) Reload() error {
	d.reloading.Lock()
	defer d.reloading.Unlock()
	if d.closed {
		return errStopped
	}
	d.observer.reopen()
	err := d.reload()
	d.note(err)

	return err
}

func (d *Daemon) reload() error {
	cfg := d.cfg
	if cfg.Load != nil {
		var err error
		if cfg.File, err = cfg.Load(); err != nil {
			return err
		}
	}
	p, err := cfg.plan()
	if err != nil {
		return err
	}
	out, err := d.observer.openAccess(cfg.File)
	if err != nil {
		return err
	}
	before := d.world.Load()
	if err := d.change(p); err != nil {
		if out != nil {
			out.Close()
		}
		return err
	}
	d.observer.resettle(cfg.File, out)
	d.relog(before.file, cfg.File)
	d.log.Info("reloaded", "frontends", len(p.frontends), "backends", len(p.backends), "routes", len(p.routes),
		"backends_before", len(before.backends), "routes_before", len(before.routes))
	d.warnRestart(cfg.File)

	return nil
}

// change makes p what is in use, or changes nothing. reloading is held.
func (d *Daemon) change(p *plan) error {
	old := d.world.Load()
	frontends, opened, err := d.openFrontends(p)
	if err != nil {
		return err
	}
	w, err := d.prepare(p, old, frontends)
	if err != nil {
		return joined([]error{err, closeAll(opened)})
	}
	d.swap(w, frontends, opened)
	d.retire(old, w)

	return nil
}

// openFrontends returns the frontends of p in their order: those that run on the same addresses, and new ones, which
// are also in opened.
func (d *Daemon) openFrontends(p *plan) (frontends, opened []*frontend, err error) {
	for i := range p.frontends {
		if f := d.keeps(frontendKey(&p.frontends[i])); f != nil {
			frontends = append(frontends, f)
			continue
		}
		f, err := d.openFrontend(&p.frontends[i])
		if err != nil {
			return nil, nil, joined([]error{err, closeAll(opened)})
		}
		frontends, opened = append(frontends, f), append(opened, f)
	}

	return frontends, opened, nil
}

// keeps returns the frontend that serves an address, or nil. One that leaves has closed its listeners then.
func (d *Daemon) keeps(key string) *frontend {
	for _, f := range d.running() {
		if f.key != key {
			continue
		}
		if !slices.Contains(d.leaving, f) {
			return f
		}
		<-f.ended // soon: a drain begins with the listeners
	}

	return nil
}

func closeAll(frontends []*frontend) error {
	var errs []error
	for _, f := range frontends {
		errs = append(errs, f.close())
	}

	return joined(errs)
}

// prepare makes the world of p. Only now it can be seen whether calls would come back to the daemon: port 0 has
// a number.
func (d *Daemon) prepare(p *plan, old *world, frontends []*frontend) (*world, error) {
	var own []net.Addr
	for _, f := range frontends {
		for _, lis := range f.lis {
			own = append(own, lis.Addr())
		}
	}
	if err := p.loops(own); err != nil {
		return nil, err
	}
	w, err := d.openWorld(p, old)
	if err != nil {
		return nil, err
	}
	if err := w.adopt(old); err != nil {
		w.abandon(old)
		return nil, err
	}

	return w, nil
}

// swap puts a world in use: from here on nothing can fail.
func (d *Daemon) swap(w *world, frontends, opened []*frontend) {
	d.observer.renew(w)
	for i, f := range frontends {
		f.update(&w.plan.frontends[i], d.log)
		f.route(w, d.local.backend, d.observer)
	}
	var removed []*frontend
	for _, f := range d.running() {
		if !slices.Contains(frontends, f) && !slices.Contains(d.leaving, f) {
			removed = append(removed, f)
		}
	}
	d.leaving = append(d.leaving, removed...)
	for _, f := range d.leaving {
		f.route(w, d.local.backend, d.observer) // backends of before may close
	}
	d.world.Store(w)
	d.health.change()
	d.mu.Lock()
	d.frontends = frontends
	d.mu.Unlock()
	d.leaving = slices.DeleteFunc(d.leaving, func(f *frontend) bool { return f.gone })

	for _, f := range opened {
		d.log.Info("listening", "address", f.addr(), "tls", f.plan.tls != nil, "frontend", f.plan.name)
		d.serving.Add(1)
		go d.serve(f) // until Shutdown or a reload drains it
	}
	for _, f := range removed {
		d.log.Info("frontend removed, draining", "frontend", f.plan.name, "calls", f.server.InFlight())
		d.retiring.Go(func() { d.leave(w.plan, f) }) // ends with the frontend's connections, or when its time is up
	}
	for _, f := range removed {
		<-f.ended // soon: a drain begins with the listeners
	}
}

// grace returns the context of something that a reload to p removes.
func (d *Daemon) grace(p *plan) (context.Context, context.CancelFunc) {
	if p.removed <= 0 {
		return context.WithCancel(d.retired)
	}

	return context.WithTimeoutCause(d.retired, p.removed, fmt.Errorf("not done within drain.removed %v", p.removed))
}

// leave drains a frontend that is not in use any more.
func (d *Daemon) leave(p *plan, f *frontend) {
	ctx, cancel := d.grace(p)
	defer cancel()
	err := f.server.Shutdown(ctx)
	if err != nil {
		d.log.Warn("calls of a removed frontend cut off", "frontend", f.plan.name, "error", err)
	} else {
		d.log.Info("removed frontend closed", "frontend", f.plan.name)
	}
	d.left(f)
}

// DrainFrontend takes one frontend out of service: its listeners are closed, its clients told to take new calls elsewhere, and calls in flight
// may finish until ctx ends, when they are cut, which is a *CutError. A reload brings it back where the file has it. The others go on;
// without any, the daemon waits for a reload or its Shutdown.
func (d *Daemon) DrainFrontend(ctx context.Context, name string) error {
	d.reloading.Lock()
	var f *frontend
	for _, one := range d.running() {
		if one.router.Load().frontend.name == name && !slices.Contains(d.leaving, one) {
			f = one
		}
	}
	if f == nil {
		d.reloading.Unlock()
		return fmt.Errorf("no frontend %q that serves", name)
	}
	d.leaving = append(slices.Clone(d.leaving), f)
	d.reloading.Unlock()

	d.log.Info("draining a frontend", "frontend", name, "calls", f.server.InFlight())
	err := drainAll(ctx, []*frontend{f})
	d.left(f)
	d.log.Info("frontend drained", "frontend", name)

	return err
}

// left notes that a frontend has no connections any more. One that the file still has is kept among those that leave, so that a
// reload finds it out of service.
func (d *Daemon) left(f *frontend) {
	d.reloading.Lock()
	defer d.reloading.Unlock()
	f.gone = true
	if !slices.Contains(d.running(), f) {
		d.leaving = slices.DeleteFunc(d.leaving, func(l *frontend) bool { return l == f })
	}
}
