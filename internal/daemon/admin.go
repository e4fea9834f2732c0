// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/manifold-grpc/manifold/internal/admin"
	"github.com/manifold-grpc/manifold/internal/config"
	"github.com/manifold-grpc/manifold/internal/metrics"
	"github.com/manifold-grpc/manifold/internal/status"
)

// adminServer is the admin endpoint.
type adminServer struct {
	server *http.Server
	addr   net.Addr
	done   chan struct{} // closed when it serves no longer
}

// openAdmin opens the admin endpoint.
func (d *Daemon) openAdmin(a *config.Admin) (*adminServer, error) {
	if err := config.CheckAdmin(a.Listen, a.AllowRemote); err != nil {
		return nil, fmt.Errorf("admin endpoint %q: %w", a.Listen, err)
	}
	lis, err := net.Listen("tcp", a.Listen)
	if err != nil {
		return nil, fmt.Errorf("admin endpoint: %w", err)
	}
	s := admin.Source{
		Status:  d.Status,
		Metrics: metrics.Handler(&d.observer.registry, func() *status.Status { return d.Status(^uint64(0)) }),
		Config:  d.dump,
		Explain: d.explain,
		Drain:   func() { d.end(nil) },
		Ready:   d.ready,
		Level:   d.cfg.Level,
	}
	srv := &adminServer{
		server: &http.Server{Handler: admin.Handler(s, a.Hosts, a.AllowRemote), ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute},
		addr:   lis.Addr(), done: make(chan struct{}),
	}
	d.log.Info("admin endpoint", "url", "http://"+lis.Addr().String()+"/")
	go func() { // until close
		defer close(srv.done)
		if err := srv.server.Serve(lis); !errors.Is(err, http.ErrServerClosed) {
			d.log.Error("admin endpoint ended", "error", err)
		}
	}()

	return srv, nil
}

func (s *adminServer) close() {
	s.server.Close() //nolint:errcheck,gosec // it ends either way
	<-s.done
}

// AdminAddr returns the address of the admin endpoint; ok is false without one.
func (d *Daemon) AdminAddr() (addr string, ok bool) {
	if d.observer == nil || d.observer.admin == nil {
		return "", false
	}

	return d.observer.admin.addr.String(), true
}

// dump returns the configuration in use.
func (d *Daemon) dump() string {
	if c := d.world.Load().file; c != nil {
		return c.DumpMasked()
	}

	return "# configured by flags\n" + d.flagsAsFile().DumpMasked()
}

// flagsAsFile returns what a file would say for the flags.
func (d *Daemon) flagsAsFile() *config.Config {
	w := d.world.Load()
	c := &config.Config{Backends: map[string]config.Backend{}, Admin: d.cfg.Admin}
	for i := range w.plan.frontends {
		f := &w.plan.frontends[i]
		c.Frontends = append(c.Frontends, config.Frontend{Name: f.name, Listen: f.listen})
	}
	for name, b := range w.backends {
		c.Backends[name] = b.Config.Backend
	}
	for i := range w.routes {
		c.Routes = append(c.Routes, w.routes[i].Route)
	}

	return c
}

func (d *Daemon) explain(host, service, method string, metadata map[string][]string) string {
	c := d.world.Load().file
	if c == nil {
		c = d.flagsAsFile()
	}

	return c.Explain(config.Query{Host: host, Service: service, Method: method, Metadata: metadata})
}

// ready returns why the daemon or a backend takes no calls. The admin endpoint is there before the frontends are.
func (d *Daemon) ready(backend string) (err error, ok bool) {
	if d.starting() {
		return errors.New("starting"), true
	}
	if backend != "" {
		b := d.world.Load().upstreams[backend]
		if b == nil {
			return nil, false
		}
		if !usable(b) {
			return fmt.Errorf("backend %q has no endpoint that takes calls", backend), true
		}
	}
	if d.health.drains() {
		return errors.New("draining"), true
	}

	return nil, true
}
