// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/manifold-grpc/manifold/relay"
)

// frontend is one that runs: its listeners, and the server of their connections. It lives as long as its address
// is in the configuration, through all reloads, and so do its connections.
type frontend struct {
	// Immutable.
	key    string // of the address; see frontendKey
	server *relay.Server
	lis    []net.Listener
	ended  chan struct{} // closed when the listeners are

	observed *frontendObserver // nil: nobody watches

	// router is that of the world in use. A call loads it once.
	router atomic.Pointer[router]

	// Guarded by Daemon.reloading.
	plan *frontendPlan
	gone bool // drained to the end
}

// frontendKey tells listeners apart: by their address or, where the system chooses the port, by the name too.
func frontendKey(p *frontendPlan) string {
	key := p.listen.String()
	if strings.HasSuffix(key, ":0") {
		key += " " + p.name
	}

	return key
}

// openFrontend opens the listeners of a frontend. It serves after route and serve.
func (d *Daemon) openFrontend(p *frontendPlan) (*frontend, error) {
	f := &frontend{key: frontendKey(p), plan: p, ended: make(chan struct{})}
	var err error
	if f.lis, err = d.listen(p); err != nil {
		return nil, err
	}
	s := p.settings(d.log)
	var hooks relay.Hooks
	hooks, f.observed = d.observer.hooks(p.name)
	f.server = &relay.Server{
		ShareReader:  true,
		Route:        func(c *relay.Call) { f.router.Load().take(c) },
		TLS:          s.TLS,
		ForwardedFor: s.ForwardedFor, TrustedClient: s.TrustedClient, Preamble: s.Preamble,
		Limits: s.Limits,
		Hooks:  hooks,
	}

	return f, nil
}

// settings are those of a server.
func (p *frontendPlan) settings(log *slog.Logger) relay.Settings {
	s := relay.Settings{TLS: p.tls, ForwardedFor: p.forwardedFor, Limits: p.limits}
	if len(p.trusted) > 0 {
		s.TrustedClient = func(addr net.Addr) bool { return anyIs(p.trusted, addr) }
	}
	if len(p.proxies) > 0 {
		s.Preamble = proxyHeader(p.proxies, p.name, log)
	}

	return s
}

// equal reports whether connections need not tell p from other.
func (p *frontendPlan) equal(other *frontendPlan) bool {
	return reflect.DeepEqual(p.config, other.config) && p.name == other.name &&
		(p.tls == nil) == (other.tls == nil) && (p.tls == nil || p.tls.ClientCAs.Equal(other.tls.ClientCAs))
}

// trusts reports whether the same clients are let in and believed by p and other.
func (p *frontendPlan) trusts(other *frontendPlan) bool {
	if (p.tls == nil) != (other.tls == nil) {
		return false
	}
	if p.tls != nil && (p.tls.ClientAuth != other.tls.ClientAuth || !p.tls.ClientCAs.Equal(other.tls.ClientCAs)) {
		return false
	}

	return slices.Equal(p.trusted, other.trusted) && slices.Equal(p.proxies, other.proxies)
}

// update has connections that come from now on be as p says. One that is as before is left alone, as new TLS settings end the
// resumption of sessions.
func (f *frontend) update(p *frontendPlan, log *slog.Logger) {
	if f.plan.equal(p) {
		p.tls, p.pairs = f.plan.tls, f.plan.pairs
		f.plan = p
		return
	}
	if p.mode != 0 && p.mode != f.plan.mode {
		if err := os.Chmod(p.listen.Addr, p.mode); err != nil {
			log.Error("mode of a Unix socket stays", "frontend", p.name, "error", err)
		}
	}
	f.server.Update(p.settings(log))
	if !f.plan.trusts(p) {
		f.server.Renew()
	}
	f.plan = p
}

// route has calls go by w from now on.
func (f *frontend) route(w *world, health *relay.Backend, o *observer) {
	f.observed.name(f.plan.name) // is in this world too
	r := &router{frontend: f.plan, table: w.table, routes: w.routed, health: health, cells: o.cells(f.plan.name, w)}
	if o != nil {
		r.tracer = o.tracer
	}
	f.router.Store(r)
}

// serve runs until the listeners are closed. Its error is nil after a drain, and else what was wrong
// with one of them.
func (f *frontend) serve() error {
	defer close(f.ended)
	errs := make([]error, len(f.lis))
	var wg sync.WaitGroup
	for i, lis := range f.lis {
		wg.Go(func() { // until the server is shut down
			if err := f.server.Serve(lis); !errors.Is(err, relay.ErrServerClosed) {
				errs[i] = err
			}
		})
	}
	wg.Wait()

	return joined(errs)
}

// close ends a frontend that may not have served yet.
func (f *frontend) close() error {
	f.server.Close()
	var errs []error
	for _, lis := range f.lis {
		if err := lis.Close(); !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}

	return joined(errs)
}

// addr returns the address of the first listener.
func (f *frontend) addr() Address {
	addr := f.lis[0].Addr()

	return Address{Network: addr.Network(), Addr: addr.String()}
}

// drainAll drains frontends at once: their listeners are closed, clients told to take new calls elsewhere, and calls in
// flight may finish until ctx ends. If calls had to be cut then, it returns a *CutError.
func drainAll(ctx context.Context, frontends []*frontend) error {
	errs := make([]error, len(frontends))
	var wg sync.WaitGroup
	for i, f := range frontends {
		wg.Go(func() { errs[i] = f.server.Shutdown(ctx) }) // until the drain ends, bounded by ctx
	}
	wg.Wait()

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
