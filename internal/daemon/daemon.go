// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

// Daemon is one running proxy. Make it with New; then Start and Shutdown, once
// each and in this order. The other methods may be called at any time from any
// goroutine after Start.
type Daemon struct {
	// Immutable after New.
	drainDelay time.Duration
	plan       *plan
	log        *slog.Logger
	health     *health
	done       chan struct{} // closed when a frontend serves no longer

	// Immutable after Start.
	lis  []net.Listener // of the frontends, in their order
	path *dataPath

	serving sync.WaitGroup // frontends

	mu sync.Mutex
	// Guarded by mu.
	serveErr error // why frontends serve no longer
	ended    bool  // done is closed
}

// New checks cfg, loads the files it names, and returns a daemon that has not
// opened or connected anything yet; it need not be shut down unless it is
// started. Its error has one line for each thing that is wrong.
func New(cfg Config) (*Daemon, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}

	var err error
	d := &Daemon{log: cfg.Log, drainDelay: cfg.DrainDelay, health: newHealth(), done: make(chan struct{})}
	if cfg.File != nil {
		d.plan, err = planOfFile(cfg.File, cfg.Log)
	} else {
		d.plan, err = planOfFlags(&cfg)
	}
	if err != nil {
		return nil, err
	}
	d.plan.index()
	d.plan.local, d.plan.log = d.registerLocal, cfg.Log

	return d, nil
}

// registerLocal registers what the daemon answers itself instead of forwarding.
func (d *Daemon) registerLocal(r grpc.ServiceRegistrar) {
	healthpb.RegisterHealthServer(r, d.health)
}

// Start opens the listeners and returns when clients can connect; calls are
// served in the background until Shutdown. If it fails, nothing is left open.
func (d *Daemon) Start() error {
	err := d.listen()
	if err == nil {
		d.path, err = d.openPath()
	}
	if err != nil {
		for _, lis := range d.lis {
			err = joined([]error{err, lis.Close()})
		}
		return err
	}

	for i := range d.lis {
		f := &d.plan.frontends[i]
		d.log.Info("listening", "address", d.addr(i), "tls", f.tls != nil, "frontend", f.name)
		d.serving.Add(1)
		go d.serve(i) // until Shutdown drains the data path
	}

	return nil
}

// listen opens the listeners of all frontends, or as far as it goes.
func (d *Daemon) listen() error {
	for _, f := range d.plan.frontends {
		lis, err := listen(f.listen)
		if err != nil {
			return err
		}
		d.lis = append(d.lis, lis)
	}

	return nil
}

// openPath opens the data path. Only now it can be seen whether calls would come
// back to the daemon: port 0 has a number.
func (d *Daemon) openPath() (*dataPath, error) {
	var own []net.Addr
	for _, lis := range d.lis {
		own = append(own, lis.Addr())
	}
	if err := d.plan.loops(own); err != nil {
		return nil, err
	}

	return openDataPath(d.plan)
}

// serve runs until a frontend's listener ends, and keeps the reason for Shutdown.
func (d *Daemon) serve(frontend int) {
	defer d.serving.Done()

	err := d.path.serve(frontend, d.lis[frontend])
	d.mu.Lock()
	defer d.mu.Unlock()
	d.serveErr = joined([]error{d.serveErr, err})
	if !d.ended {
		d.ended = true
		close(d.done)
	}
}

// Addr returns the address the first frontend listens on, with the port that was
// chosen if the configuration has port 0.
func (d *Daemon) Addr() Address { return d.addr(0) }

// AddrOf returns the address that a frontend of the file listens on; ok is false if there is none
// of the name.
func (d *Daemon) AddrOf(frontend string) (addr Address, ok bool) {
	for i := range d.plan.frontends {
		if d.plan.frontends[i].name == frontend {
			return d.addr(i), true
		}
	}

	return Address{}, false
}

func (d *Daemon) addr(frontend int) Address {
	addr := d.lis[frontend].Addr()

	return Address{Network: addr.Network(), Addr: addr.String()}
}

// Done returns a channel that is closed when a frontend accepts no more: after
// Shutdown, or because its listener failed, which Shutdown then returns.
func (d *Daemon) Done() <-chan struct{} { return d.done }

// Shutdown stops the daemon and returns when nothing of it is left.
//
// Its own health becomes NOT_SERVING and, after Config.DrainDelay, no new calls
// are taken; those in flight may finish until ctx ends, and are cut then, which
// is a *CutError. With a ctx that has ended already, all stops at once.
func (d *Daemon) Shutdown(ctx context.Context) error {
	d.log.Info("draining", "calls", d.path.inFlight())
	d.health.drain()
	pause(ctx, d.drainDelay)

	err := d.path.drain(ctx)
	d.serving.Wait()
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
