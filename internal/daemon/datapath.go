// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"slices"
	"time"

	"google.golang.org/grpc"

	"github.com/manifold-grpc/manifold/relay"
)

const (
	// connectTimeout is how long one attempt to connect may take.
	connectTimeout = 5 * time.Second
	// maxBackoff is the longest wait between two attempts, hence about how long
	// a backend that is back stays unused.
	maxBackoff = 5 * time.Second
	// firstTries is how long the start may wait for the endpoints.
	firstTries = time.Second
)

// healthService is what the daemon answers itself instead of forwarding it.
const healthService = "grpc.health.v1.Health"

// pathConfig is what a data path has to know.
type pathConfig struct {
	serverTLS *tls.Config // of listeners; nil is plaintext
	clientTLS *tls.Config // towards TLS endpoints
	endpoints []Endpoint
	fanOut    FanOut
	local     func(grpc.ServiceRegistrar) // registers services not to forward
	log       *slog.Logger
}

// dataPath moves calls from a listener to endpoints. The daemon uses openDataPath
// and the methods serve, drain, inFlight and close, and nothing else of it. It is
// package relay, with the daemon's own services and one-to-many calls as one more
// backend, in memory.
type dataPath struct {
	server    *relay.Server
	endpoints []*relay.Endpoint
	local     *localServices
}

// openDataPath makes a data path and begins to connect to its endpoints. Its
// owner ends it with drain, or with close if it never served.
func openDataPath(cfg pathConfig) (*dataPath, error) {
	local, err := openLocal(cfg)
	if err != nil {
		return nil, err
	}
	p := &dataPath{local: local}
	for _, e := range cfg.endpoints {
		p.endpoints = append(p.endpoints, openEndpoint(e, cfg))
	}
	p.server = &relay.Server{TLS: cfg.serverTLS, Route: p.router(cfg.fanOut.Services)}
	p.awaitFirstTries()

	return p, nil
}

// openEndpoint returns an endpoint that is connecting and whose states are logged.
func openEndpoint(e Endpoint, cfg pathConfig) *relay.Endpoint {
	c := relay.EndpointConfig{
		ConnectTimeout: connectTimeout,
		BackoffMax:     maxBackoff,
		OnState:        func(_ *relay.Endpoint, s relay.State, err error) { logState(cfg.log, e, s, err) },
	}
	if e.TLS {
		c.TLS = cfg.clientTLS
	}
	addr := e.Addr
	if e.Network == "unix" {
		addr = "unix:" + addr
	}

	return relay.NewEndpoint(addr, c)
}

func logState(log *slog.Logger, e Endpoint, s relay.State, err error) {
	switch s {
	case relay.Ready:
		log.Info("backend connected", "endpoint", e)
	case relay.Failing:
		log.Warn("backend not reachable", "endpoint", e, "error", err)
	}
}

// awaitFirstTries waits until each endpoint is known to be up or down, so that
// the first calls are balanced like all others, but not for long.
func (p *dataPath) awaitFirstTries() {
	ctx, cancel := context.WithTimeout(context.Background(), firstTries)
	defer cancel()
	for _, e := range p.endpoints {
		e.WaitForStateChange(ctx, relay.Connecting)
	}
}

// router returns what says where each call goes: the daemon's own services and those of fanOut
// to the local server, all else to the next endpoint in turn.
func (p *dataPath) router(fanOut []string) func(*relay.Call) {
	local := &relay.Backend{Name: "local", Endpoints: []*relay.Endpoint{p.local.endpoint}}
	backend := &relay.Backend{Name: "default", Endpoints: p.endpoints}
	here := append(slices.Clone(fanOut), healthService)

	return func(c *relay.Call) {
		if slices.Contains(here, c.Service()) {
			c.Forward(local)
			return
		}
		c.Forward(backend)
	}
}

// inFlight returns the number of calls that have not ended.
func (p *dataPath) inFlight() int64 { return int64(p.server.InFlight()) }

// serve takes over lis and serves it until drain. Its error is nil after that,
// and else what was wrong with the listener.
func (p *dataPath) serve(lis net.Listener) error {
	err := p.server.Serve(lis)
	if errors.Is(err, relay.ErrServerClosed) {
		return nil // drain came first
	}

	return err
}

// drain closes the listener, tells clients to take new calls elsewhere, lets the
// calls in flight finish until ctx ends, and closes everything. If calls had to
// be cut then, it returns a *CutError.
func (p *dataPath) drain(ctx context.Context) error {
	err := p.server.Shutdown(ctx)
	p.close()
	if cut, ok := errors.AsType[*relay.CutError](err); ok {
		return &CutError{Calls: int64(cut.Calls), Cause: cut.Cause}
	}

	return err
}

// close closes the connections to the endpoints.
func (p *dataPath) close() {
	p.server.Close()
	for _, e := range p.endpoints {
		e.Close()
	}
	p.local.close()
}
