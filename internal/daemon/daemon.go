// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"time"

	"google.golang.org/grpc"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

// Daemon is one running proxy. Make it with New; then Start and Shutdown, once
// each and in this order. The other methods may be called at any time from any
// goroutine after Start.
type Daemon struct {
	// Immutable after New.
	listen     Address
	drainDelay time.Duration
	pathConfig pathConfig
	log        *slog.Logger
	health     *health
	done       chan struct{} // closed when the data path serves no longer

	// Immutable after Start.
	lis  net.Listener
	path *dataPath

	serveErr error // why it serves no longer; set before done is closed
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

	server, serverErr := cfg.TLS.load()
	client, clientErr := clientTLS(cfg.CAFile)
	if err := errors.Join(serverErr, clientErr); err != nil {
		return nil, err
	}

	d := &Daemon{log: cfg.Log, health: newHealth(), done: make(chan struct{})}
	d.listen, d.drainDelay = cfg.Listen, cfg.DrainDelay
	d.pathConfig = pathConfig{
		serverTLS: server,
		clientTLS: client,
		endpoints: slices.Clone(cfg.Endpoints),
		fanOut:    cfg.FanOut,
		local:     d.registerLocal,
		log:       cfg.Log,
	}

	return d, nil
}

// registerLocal registers what the daemon answers itself instead of forwarding.
func (d *Daemon) registerLocal(r grpc.ServiceRegistrar) {
	healthpb.RegisterHealthServer(r, d.health)
}

// Start opens the listener and returns when clients can connect; calls are
// served in the background until Shutdown. If it fails, nothing is left open.
func (d *Daemon) Start() error {
	lis, err := listen(d.listen)
	if err != nil {
		return err
	}
	path, err := d.openPath(lis.Addr())
	if err != nil {
		return errors.Join(err, lis.Close())
	}

	d.lis, d.path = lis, path
	d.log.Info("listening", "address", d.Addr(), "tls", d.pathConfig.serverTLS != nil)
	go d.serve() // until Shutdown drains the data path

	return nil
}

// openPath opens the data path of a daemon that listens on own, which is needed to
// see whether calls would come back to it: port 0 has a number only now.
func (d *Daemon) openPath(own net.Addr) (*dataPath, error) {
	for _, e := range d.pathConfig.endpoints {
		if pointsAt(e, own) {
			return nil, fmt.Errorf("endpoint %q is the address that the proxy itself listens on; expected a backend's", e)
		}
	}

	return openDataPath(d.pathConfig)
}

// serve runs until the data path ends, and keeps the reason for Shutdown.
func (d *Daemon) serve() {
	defer close(d.done)

	d.serveErr = d.path.serve(d.lis)
}

// Addr returns the address the daemon listens on, with the port that was chosen
// if the configuration has port 0.
func (d *Daemon) Addr() Address {
	addr := d.lis.Addr()

	return Address{Network: addr.Network(), Addr: addr.String()}
}

// Done returns a channel that is closed when the daemon accepts no more: after
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
	<-d.done
	err = errors.Join(d.serveErr, err)
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
