// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"cmp"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"slices"
	"time"

	"github.com/manifold-grpc/manifold/internal/config"
	"github.com/manifold-grpc/manifold/internal/metrics"
	"github.com/manifold-grpc/manifold/internal/route"
	"github.com/manifold-grpc/manifold/internal/tlsfiles"
	"github.com/manifold-grpc/manifold/internal/upstream"
	"github.com/manifold-grpc/manifold/proxy/splice"
	"github.com/manifold-grpc/manifold/relay"
)

// A plan is what a data path has to know: a configuration, of flags or of a file, whose files are read.
type plan struct {
	frontends []frontendPlan
	backends  map[string]*backendPlan
	routes    []routePlan
	table     *route.Table        // of routes, by index
	file      *config.Config      // nil for flags
	methods   metrics.Methods     // that have names in metrics
	names     []string            // of backends, sorted
	services  map[string][]string // see readiness
	log       *slog.Logger

	drainDelay   time.Duration // before a drain, in which new calls are still taken
	drainTimeout time.Duration // for a drain in all; 0 is not said
	removed      time.Duration // for what a reload removes; below 0 is no bound
}

// frontendPlan is a listener.
type frontendPlan struct {
	config       *config.Frontend // nil for flags
	name         string
	listen       Address
	tls          *tls.Config // nil is plaintext
	pairs        *tlsfiles.Pairs
	guarded      bool // services that tell too much need a route that names them
	identified   bool // clients have certificates
	forwardedFor bool
	trusted      []config.Peer
	proxies      []config.Peer // who sends a header of the PROXY protocol; empty for nobody
	mode         fs.FileMode   // of a Unix socket; 0 is none said
	limits       relay.Limits
}

// backendPlan is a set of endpoints. Endpoints, with TLS set for all that speak it, and tls are for one-to-many calls.
type backendPlan struct {
	upstream.Config
	endpoints []config.NamedEndpoint
	tls       *tls.Config
}

// routePlan is a route. Layout and streams are those of its one-to-many calls; streams is nil where only the
// backend knows.
type routePlan struct {
	config.Route
	layout  splice.Layout
	streams func(fullMethod string) bool
}

// defaultName is that of the frontend and the backend that flags make.
const defaultName = "default"

// defaultRemoved is config.Drain's default.
const defaultRemoved = time.Hour

// plan returns the plan of a configuration that is checked.
func (c *Config) plan() (*plan, error) {
	var (
		p   *plan
		err error
	)
	if c.File != nil {
		p, err = planOfFile(c.File, c.Log)
	} else {
		p, err = planOfFlags(c)
	}
	if err != nil {
		return nil, err
	}
	p.index()
	p.names, p.services = slices.Sorted(maps.Keys(p.backends)), servicesOf(p.routes)
	p.log = c.Log
	p.removed = cmp.Or(p.removed, defaultRemoved)
	p.drainDelay = cmp.Or(c.DrainDelay, p.drainDelay)

	return p, nil
}

// planOfFlags returns the plan of a configuration without a file.
func planOfFlags(cfg *Config) (*plan, error) {
	server, pairs, serverErr := cfg.TLS.load(cfg.Log)
	c := upstream.Config{CA: config.File(cfg.CAFile)}
	for _, e := range cfg.Endpoints {
		c.Endpoints = append(c.Endpoints, config.NamedEndpoint{Name: e.String(), Endpoint: e})
	}
	backend, clientErr := planBackend(defaultName, c, cfg.Log)
	if err := errors.Join(serverErr, clientErr); err != nil {
		return nil, err
	}
	p := &plan{
		frontends: []frontendPlan{{name: defaultName, listen: cfg.Listen, tls: server, pairs: pairs}},
		backends:  map[string]*backendPlan{defaultName: backend},
		routes:    []routePlan{{Route: config.Route{Backend: config.Targets{{Name: defaultName, Weight: 1}}}}},
	}
	for _, service := range cfg.FanOut.Services {
		streams := cfg.FanOut.Streaming
		if streams == nil {
			streams = func(string) bool { return true }
		}
		p.routes = append(p.routes, routePlan{
			Route:   config.Route{Match: config.Match{Service: service}, FanOut: &config.FanOut{Backend: defaultName}},
			layout:  cfg.FanOut.Layout,
			streams: streams,
		})
	}

	return p, nil
}

// planOfFile returns the plan of a file that package config has checked.
func planOfFile(file *config.Config, log *slog.Logger) (*plan, error) {
	p := &plan{
		file:       file,
		backends:   map[string]*backendPlan{},
		drainDelay: time.Duration(file.Drain.Delay), drainTimeout: time.Duration(file.Drain.Timeout), removed: time.Duration(file.Drain.Removed),
	}
	var errs []error
	var err error
	p.methods, err = methodsOf(file.Metrics.Descriptors, log)
	errs = append(errs, err)
	if t := file.Tracing; t != nil {
		_, err = tracingOf(t, &Config{Log: log}) // whether its files can be read
		errs = append(errs, err)
	}
	for i := range file.Frontends {
		f, err := planFrontend(&file.Frontends[i], log)
		errs = append(errs, err)
		p.frontends = append(p.frontends, f)
	}
	for _, name := range slices.Sorted(maps.Keys(file.Backends)) {
		b, err := planBackend(name, upstream.Config{Backend: file.Backends[name]}, log)
		errs = append(errs, err)
		p.backends[name] = b
	}
	for i := range file.Routes {
		r := routePlan{Route: file.Routes[i]}
		if r.FanOut != nil {
			var err error
			r.layout = r.FanOut.Layout.Splice()
			if r.streams, err = kinds(r.FanOut); err != nil {
				errs = append(errs, fmt.Errorf("routes[%d].fan_out.descriptors: %w", i, err))
			}
		}
		p.routes = append(p.routes, r)
	}

	return p, errors.Join(errs...)
}

func planFrontend(f *config.Frontend, log *slog.Logger) (frontendPlan, error) {
	p := frontendPlan{
		config: f, name: f.Name, listen: f.Listen, forwardedFor: f.ForwardedFor, limits: relayLimits(&f.Limits),
		trusted: f.Trusted, proxies: f.Proxies, mode: fs.FileMode(f.SocketMode),
	}
	if f.TLS == nil {
		return p, nil
	}
	p.guarded, p.identified = true, f.TLS.ClientCA != ""
	var err error
	if p.tls, p.pairs, err = serverTLS(f.TLS, log); err != nil {
		err = fmt.Errorf("frontend %q: %w", f.Name, err)
	}

	return p, err
}

func planBackend(name string, c upstream.Config, log *slog.Logger) (*backendPlan, error) {
	if ca := c.CAFile(); ca != "" {
		text, err := os.ReadFile(string(ca))
		if err != nil {
			return nil, fmt.Errorf("backend %q: CA file: %w", name, err)
		}
		c.Authorities = sha256.Sum256(text)
	}
	p := &backendPlan{Config: c, endpoints: slices.Clone(c.Endpoints)}
	for i := range p.endpoints {
		p.endpoints[i].TLS = p.endpoints[i].TLS || c.TLS != nil
	}
	var err error
	if p.tls, err = c.ClientTLS(log); err != nil {
		err = fmt.Errorf("backend %q: %w", name, err)
	}

	return p, err
}

// relayLimits returns limits in the engine's terms; zero is its default in both.
func relayLimits(l *config.Limits) relay.Limits {
	return relay.Limits{
		MaxConcurrentStreams:     uint32(l.MaxConcurrentStreams),
		MaxHeaderBytes:           uint32(l.MaxHeaderBytes),
		MaxHeaderFields:          int(l.MaxHeaderFields),
		StreamWindow:             uint32(l.StreamWindow),
		MaxStreamWindow:          uint32(l.MaxStreamWindow),
		Buffer:                   int64(l.Buffer),
		MaxRequestMessage:        uint32(l.MaxRequestMessage),
		MaxConnections:           int(l.MaxConnections),
		MaxConnectionsPerAddress: int(l.MaxConnectionsPerAddress),
		HandshakeTimeout:         time.Duration(l.HandshakeTimeout),
		SettingsTimeout:          time.Duration(l.SettingsTimeout),
		IdleTimeout:              time.Duration(l.IdleTimeout),
		MaxAge:                   time.Duration(l.MaxAge),
		MaxAgeGrace:              time.Duration(l.MaxAgeGrace),
		WriteTimeout:             time.Duration(l.WriteTimeout),
		MinPingInterval:          time.Duration(l.MinPingInterval),
		KeepaliveTime:            time.Duration(l.KeepaliveTime),
		KeepaliveTimeout:         time.Duration(l.KeepaliveTimeout),
	}
}

// index makes the table of the routes.
func (p *plan) index() {
	matches := make([]route.Match, len(p.routes))
	for i := range p.routes {
		m := &p.routes[i].Match
		matches[i] = route.Match{Host: m.Host, Service: m.Service, Method: m.Method, Metadata: m.Metadata}
	}
	p.table, _ = route.New(matches) // a file's conflicts were told; flags make none that matter
}
