// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"crypto/tls"
	"reflect"
	"sync/atomic"

	"google.golang.org/grpc/codes"

	"github.com/manifold-grpc/manifold/internal/config"
	"github.com/manifold-grpc/manifold/relay"
)

// spec is what the configuration says of one endpoint; equal specs are the same endpoint.
type spec config.NamedEndpoint

// member is an endpoint of a backend at run time.
type member struct {
	spec // immutable
	ep   *relay.Endpoint

	single *relay.Backend // of this endpoint alone

	// Guarded by Backend.mu.
	state relay.State

	calls, failures atomic.Uint64
}

// members returns the endpoints that the configuration names.
func (c *Config) members() []spec {
	specs := make([]spec, len(c.Endpoints))
	for i, e := range c.Endpoints {
		specs[i] = spec(e)
		specs[i].TLS = e.TLS || c.TLS != nil
	}

	return specs
}

// sameTransport reports whether endpoints that were connected by c are connected as other says.
func (c *Config) sameTransport(other *Config) bool {
	return c.CA == other.CA && reflect.DeepEqual(c.TLS, other.TLS) &&
		c.ConnectTimeout == other.ConnectTimeout && c.Authority == other.Authority
}

// setMembers makes the set of endpoints specs. Where keep is set, those that are there stay. changing is held.
func (b *Backend) setMembers(specs []spec, tls *tls.Config, keep bool) {
	old := map[spec]*member{}
	for _, m := range b.current() {
		old[m.spec] = m
	}
	var members []*member
	for _, s := range specs {
		m, ok := old[s]
		if ok && keep {
			delete(old, s)
		} else {
			m = b.connect(s, tls)
		}
		members = append(members, m)
	}
	b.mu.Lock()
	b.members = members
	b.setEach(members)
	b.refresh()
	b.mu.Unlock()
	for _, m := range old {
		b.draining.Go(func() { // ends with the calls at the endpoint, or when drain is cut
			m.ep.Shutdown(b.drain) //nolint:errcheck // Retire tells
		})
	}
}

// connect returns an endpoint that is connecting.
func (b *Backend) connect(s spec, tls *tls.Config) *member {
	m := &member{spec: s}
	cfg := relay.EndpointConfig{
		Authority:      b.cfg.Authority,
		ConnectTimeout: b.cfg.Connecting(),
		BackoffMax:     MaxBackoff,
		OnState:        func(_ *relay.Endpoint, s relay.State, err error) { b.stateChanged(m, s, err) },
		Buffer:         b.deps.Buffer,
		Owner:          m,
	}
	if s.TLS {
		cfg.TLS = tls
	}
	addr := s.Addr
	if s.Network == "unix" {
		addr = "unix:" + addr
	}
	m.ep = relay.NewEndpoint(addr, cfg)
	m.single = b.single(m)

	return m
}

// stateChanged takes the state of a member's connections. The lock of its endpoint is held.
func (b *Backend) stateChanged(m *member, s relay.State, err error) {
	switch s {
	case relay.Ready:
		b.deps.Log.Info("backend connected", "backend", b.name, "endpoint", m.Endpoint)
	case relay.Failing:
		b.deps.Log.Warn("backend not reachable", "backend", b.name, "endpoint", m.Endpoint, "error", err)
	}
	if h := b.deps.Hooks.State; h != nil {
		h(b.name, m.Name, s, err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	m.state = s
	b.refresh()
}

// attemptEnded is relay.Backend's.
func (b *Backend) attemptEnded(_ *relay.Call, a relay.AttemptStats) {
	b.inFlight.Add(-1)
	m := a.Endpoint.Owner().(*member)
	if a.Code == codes.OK {
		return
	}
	if failed(a) {
		m.failures.Add(1)
	}
}

func or[T comparable](v, d T) T {
	var zero T
	if v == zero {
		return d
	}

	return v
}
