// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

// Daemon is one running proxy. Make it with New; then Start and Shutdown, once
// each and in this order. The other methods may be called at any time from any
// goroutine after Start.
type Daemon struct {
	// Immutable after New.
	cfg      Config
	log      *slog.Logger
	health   *health
	observer *observer // nil: nothing is watched
	started  time.Time
	first    *plan         // for Start
	done     chan struct{} // closed when the daemon serves no longer as it should

	// Immutable after Start.
	local *localServices // what the daemon answers itself

	world    atomic.Pointer[world] // in use; never nil
	serving  sync.WaitGroup        // frontends
	retiring sync.WaitGroup        // what a reload removed; it grows while reloading is held and closed is not set
	retired  context.Context       // ends what retires
	cut      context.CancelFunc    // ends retired

	reloading sync.Mutex // held while the world changes; before mu
	// Guarded by reloading.
	closed  bool
	leaving []*frontend // removed by a reload or drained; their connections may still bring calls

	mu sync.Mutex
	// Guarded by mu.
	frontends []*frontend // of the world in use, in the order of the configuration
	status    ReloadStatus
	serveErr  error // why frontends serve no longer
	ended     bool  // done is closed
}

// New checks cfg, loads the files it names, and returns a daemon that has not
// opened or connected anything yet; it need not be shut down unless it is
// started. Its error has one line for each thing that is wrong.
func New(cfg Config) (*Daemon, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.File == nil && cfg.Load != nil {
		file, err := cfg.Load()
		if err != nil {
			return nil, err
		}
		cfg.File = file
	}
	if err := cfg.check(); err != nil {
		return nil, err
	}
	p, err := cfg.plan()
	if err != nil {
		return nil, err
	}
	if cfg.Level == nil {
		cfg.Level = new(slog.LevelVar)
	}
	d := &Daemon{cfg: cfg, log: cfg.Log, started: time.Now(), first: p, done: make(chan struct{})}
	d.health = newHealth(d.readiness)
	d.world.Store(&world{plan: &plan{}})
	d.retired, d.cut = context.WithCancel(context.Background())

	return d, nil
}

// registerLocal registers what the daemon answers itself instead of forwarding.
func (d *Daemon) registerLocal(r grpc.ServiceRegistrar) {
	healthpb.RegisterHealthServer(r, d.health)
}

// Start opens the listeners and returns when clients can connect; calls are
// served in the background until Shutdown. If it fails, nothing is left open.
func (d *Daemon) Start() error {
	d.reloading.Lock()
	defer d.reloading.Unlock()

	var err error
	if d.observer, err = newObserver(&d.cfg); err != nil {
		d.cut()
		return err
	}
	d.local = openHealth(d.registerLocal)
	if err := d.observer.start(d); err != nil {
		return d.unstart(err)
	}
	if err := d.change(d.first); err != nil {
		return d.unstart(err)
	}
	d.first = nil
	d.note(nil)

	return nil
}

// unstart closes what a start has opened that failed.
func (d *Daemon) unstart(err error) error {
	d.observer.close()
	d.local.close()
	d.cut()

	return err
}

// serve runs until a frontend's listeners end, and keeps the reason for Shutdown.
func (d *Daemon) serve(f *frontend) {
	defer d.serving.Done()

	if err := f.serve(); err != nil {
		d.end(err)
	}
}

// end has Done tell that the daemon does not serve any longer, or not all.
func (d *Daemon) end(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.serveErr = joined([]error{d.serveErr, err})
	if !d.ended {
		d.ended = true
		close(d.done)
	}
}

// starting reports whether no frontend listens yet.
func (d *Daemon) starting() bool { return len(d.running()) == 0 }

// running returns the frontends of the world in use.
func (d *Daemon) running() []*frontend {
	d.mu.Lock()
	defer d.mu.Unlock()

	return d.frontends
}

// all returns the frontends that may have calls. reloading is held.
func (d *Daemon) all() []*frontend {
	all := slices.Clone(d.running())
	for _, f := range d.leaving {
		if !slices.Contains(all, f) { // one that DrainFrontend drains is in both
			all = append(all, f)
		}
	}

	return all
}

// Addr returns the address the first frontend listens on, with the port that was
// chosen if the configuration has port 0.
func (d *Daemon) Addr() Address { return d.running()[0].addr() }

// AddrOf returns the address that a frontend of the file listens on; ok is false if there is none
// of the name.
func (d *Daemon) AddrOf(frontend string) (addr Address, ok bool) {
	for _, f := range d.running() {
		if f.router.Load().frontend.name == frontend {
			return f.addr(), true
		}
	}

	return Address{}, false
}

// Done returns a channel that is closed when a frontend accepts no more: after
// Shutdown, or because its listener failed, which Shutdown then returns.
func (d *Daemon) Done() <-chan struct{} { return d.done }

// DrainTimeout returns how long a Shutdown may take as the file in use has it, 0 where it says nothing.
func (d *Daemon) DrainTimeout() time.Duration { return d.world.Load().drainTimeout }

// inFlight returns the number of calls that have not ended.
func (d *Daemon) inFlight() int64 {
	d.reloading.Lock()
	defer d.reloading.Unlock()
	n := 0
	for _, f := range d.all() {
		n += f.server.InFlight()
	}

	return int64(n)
}

// Shutdown stops the daemon and returns when nothing of it is left.
//
// Its own health becomes NOT_SERVING and, after the drain delay, no new calls
// are taken; those in flight may finish until ctx ends, and are cut then, which
// is a *CutError. With a ctx that has ended already, all stops at once; spans that wait for a collector may take a
// few seconds more.
func (d *Daemon) Shutdown(ctx context.Context) error {
	d.log.Info("draining", "calls", d.inFlight())
	d.health.drain()
	pause(ctx, d.world.Load().drainDelay)

	d.reloading.Lock()
	d.closed = true
	all := d.all()
	d.reloading.Unlock()
	err := drainAll(ctx, all)
	d.cut()
	d.serving.Wait()
	d.retiring.Wait()
	d.world.Load().abandon(&world{})
	d.local.close()
	d.observer.close()
	d.end(nil)
	err = joined([]error{d.serveErr, err})
	if err == nil {
		d.log.Info("stopped")
	}

	return err
}

// CutError is the error of a drain whose time was not enough.
type CutError struct {
	// Calls is the number of calls that were in flight when time was up.
	Calls int64
	// Cause is why time was up: the cause of the drain's context.
	Cause error
}

// Error implements error.
func (e *CutError) Error() string {
	return fmt.Sprintf("%d calls cut off while draining: %v", e.Calls, e.Cause)
}

// Unwrap returns the cause.
func (e *CutError) Unwrap() error { return e.Cause }

// pause returns after d, or when ctx ends.
func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()

	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
