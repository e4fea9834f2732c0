// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"

	manifold "github.com/manifold-grpc/manifold/internal/daemon"
	"github.com/manifold-grpc/manifold/internal/filewatch"
)

// server is a serve command that runs.
type server struct {
	cfg          manifold.Config
	signals      <-chan os.Signal
	watched      string // file whose changes reload; empty for none
	drainTimeout time.Duration
	timeoutGiven bool // by a flag, which goes before the file
}

// serve runs a daemon until a signal, or until its listener fails.
func (r *server) serve() error {
	d, err := manifold.New(r.cfg)
	if err != nil {
		return err
	}
	if file := r.cfg.File; file != nil {
		r.cfg.Log.Info("manifold", "version", version(), "frontends", len(file.Frontends), "backends", len(file.Backends), "routes", len(file.Routes))
	} else {
		r.cfg.Log.Info("manifold", "version", version(), "backends", r.cfg.Endpoints)
	}
	changed, stop := r.watch()
	defer stop()
	if err := d.Start(); err != nil {
		return failed(err)
	}
	r.tell(daemon.SdNotifyReady)
	r.until(d, changed)
	r.tell(daemon.SdNotifyStopping)

	return failed(r.shutdown(d))
}

// until returns when the daemon is to stop, and reloads meanwhile.
func (r *server) until(d *manifold.Daemon, changed <-chan struct{}) {
	for {
		select {
		case s := <-r.signals:
			if s != syscall.SIGHUP {
				r.cfg.Log.Info("stopping; a second signal stops at once", "signal", s.String())
				return
			}
			r.reload(d, "signal")
		case <-changed:
			r.reload(d, "file changed")
		case <-d.Done():
			return
		}
	}
}

// reload reloads, and tells systemd of it, for which the old configuration is as good as the new one.
func (r *server) reload(d *manifold.Daemon, why string) {
	r.cfg.Log.Info("reloading", "why", why)
	r.tell(daemon.SdNotifyReloading + "\n" + daemon.SdNotifyMonotonicUsec())
	d.Reload() //nolint:errcheck // it is logged
	r.tell(daemon.SdNotifyReady)
}

// tell tells systemd, if that has started the process and wants to know.
func (r *server) tell(state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		r.cfg.Log.Warn("systemd cannot be told", "error", err)
	}
}

// watch watches the configuration file until stop is called.
func (r *server) watch() (changed <-chan struct{}, stop func()) {
	if r.watched == "" {
		return nil, func() {}
	}
	told := make(chan struct{}, 1)
	w, err := filewatch.New(r.watched, func() {
		select {
		case told <- struct{}{}:
		default: // a reload is due anyway
		}
	})
	if err != nil {
		r.cfg.Log.Warn("no events of the configuration file, it is looked at every few seconds", "error", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { // until stop
		defer close(done)
		w.Run(ctx)
	}()

	return told, func() { cancel(); <-done }
}

// timeout returns how long a drain may take, and who says so.
func (r *server) timeout(d *manifold.Daemon) (time.Duration, string) {
	if t := d.DrainTimeout(); t > 0 && !r.timeoutGiven {
		return t, "drain.timeout"
	}

	return r.drainTimeout, "--drain-timeout"
}

// shutdown drains d until its time is up or the next signal. Calls that were cut then
// are in the log and are no failure: stopping is what was asked for.
func (r *server) shutdown(d *manifold.Daemon) error {
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	timeout, who := r.timeout(d)
	timer := time.AfterFunc(timeout, func() { cancel(fmt.Errorf("not done within %s %v", who, timeout)) })
	defer timer.Stop()

	result := make(chan error, 1)
	go func() { result <- d.Shutdown(ctx) }() // until the drain ends, bounded by ctx

	err := r.await(result, cancel)
	if cut, ok := errors.AsType[*manifold.CutError](err); ok {
		r.cfg.Log.Warn("calls cut off", "calls", cut.Calls, "cause", cut.Cause)
		return nil
	}

	return err
}

// await returns the result of a drain, which a second signal cuts short.
func (r *server) await(result <-chan error, cancel context.CancelCauseFunc) error {
	for {
		select {
		case err := <-result:
			return err
		case s := <-r.signals:
			if s != syscall.SIGHUP {
				cancel(fmt.Errorf("second signal: %s", s))
			}
		}
	}
}
