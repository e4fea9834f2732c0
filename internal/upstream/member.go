// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"reflect"
	"sync/atomic"
	"time"

	"github.com/manifold-grpc/manifold/internal/address"
	"github.com/manifold-grpc/manifold/internal/config"
	"github.com/manifold-grpc/manifold/relay"
)

// spec is what is said of one endpoint; equal specs are the same endpoint.
type spec struct {
	name       string
	address    address.Endpoint
	serverName string // for TLS, where the configuration has none; empty: the host of the address
}

// weighted is an endpoint with its share of the calls.
type weighted struct {
	spec
	weight int
}

// member is an endpoint of a backend at run time.
type member struct {
	// Immutable.
	spec
	ep *relay.Endpoint

	single *relay.Backend // of this endpoint alone
	extra  bool           // it is not in the set: a caller named it

	// Guarded by Backend.mu.
	state   relay.State
	health  Health
	why     string // it is not healthy
	subject        // its ejection
	chosen  bool   // it is in the view

	// Set with Backend.mu held, read by those who choose.
	share atomic.Int64           // of the calls
	sick  atomic.Pointer[string] // why it is not healthy; nil: it is, or nobody knows

	// Owned by Backend.sweep.
	sweptSuccesses, sweptFailures uint64

	// Guarded by Backend.changing.
	stopChecks context.CancelFunc // nil: there are none

	calls, successes, failures atomic.Uint64
	row                        atomic.Uint32 // failures in a row
}

// weight returns the member's share of the calls, relative to others.
func (m *member) weight() int { return int(m.share.Load()) }

// setHealth notes what checks say. Backend.mu is held.
func (m *member) setHealth(h Health, why string) {
	m.health, m.why = h, why
	if h == NotServing {
		m.sick.Store(&why)
	} else {
		m.sick.Store(nil)
	}
}

// static returns the endpoints that the configuration lists.
func (c *Config) static() []weighted {
	list := make([]weighted, len(c.Endpoints))
	for i, e := range c.Endpoints {
		e.TLS = e.TLS || c.TLS != nil
		list[i] = weighted{spec{name: e.Name, address: e.Endpoint}, 1}
		if w, ok := c.Weights[e.Name]; ok {
			list[i].weight = w
		}
	}

	return list
}

// sameTransport reports whether endpoints that were connected by c are connected as other says.
func (c *Config) sameTransport(other *Config) bool {
	return c.CA == other.CA && c.Authorities == other.Authorities && reflect.DeepEqual(c.TLS, other.TLS) &&
		c.ConnectTimeout == other.ConnectTimeout && c.Authority == other.Authority &&
		c.KeepaliveTime == other.KeepaliveTime && c.KeepaliveTimeout == other.KeepaliveTimeout &&
		c.Breaker.MaxConnections == other.Breaker.MaxConnections && c.Breaker.MaxPending == other.Breaker.MaxPending
}

// setMembers makes the set of endpoints that of list. Where keep is set, those that are there stay. changing is held.
func (b *Backend) setMembers(list []weighted, keep bool) {
	old := map[spec]*member{}
	for _, m := range b.current() {
		old[m.spec] = m
	}
	members := make([]*member, len(list))
	for i, w := range list {
		m, ok := old[w.spec]
		if ok && keep {
			delete(old, w.spec)
		} else {
			m = b.connect(w.spec, false)
		}
		members[i] = m
	}
	b.mu.Lock()
	for i, m := range members {
		m.share.Store(int64(list[i].weight))
	}
	b.members = members
	b.setEach(members)
	b.ring = nil
	if b.balance == config.RingHash {
		b.ring = ringOf(members)
	}
	b.refresh()
	b.mu.Unlock()
	for _, m := range old {
		if m.stopChecks != nil {
			m.stopChecks()
		}
		b.draining.Go(func() { // ends with the calls at the endpoint, or when drain is cut
			m.ep.Shutdown(b.drain) //nolint:errcheck // Retire tells
		})
	}
	for _, m := range members {
		if b.cfg.Health != nil && m.stopChecks == nil {
			b.check(m)
		}
	}
}

// connect returns an endpoint that is connecting. changing is held.
func (b *Backend) connect(s spec, extra bool) *member {
	m := &member{spec: s, extra: extra}
	cfg := relay.EndpointConfig{
		Authority:        b.cfg.Authority,
		ConnectTimeout:   b.cfg.Connecting(),
		MaxConnections:   int(b.cfg.Breaker.MaxConnections),
		MaxWaiting:       int(b.cfg.Breaker.MaxPending),
		BackoffMax:       MaxBackoff,
		KeepaliveTime:    or(time.Duration(b.cfg.KeepaliveTime), defaultKeepalive),
		KeepaliveTimeout: time.Duration(b.cfg.KeepaliveTimeout),
		OnState:          func(_ *relay.Endpoint, s relay.State, err error) { b.stateChanged(m, s, err) },
		ShareReader:      true,
		Buffer:           b.deps.Buffer,
		Dial: func(ctx context.Context) (net.Conn, error) {
			return b.deps.Dial(ctx, s.address.Network, s.address.Addr)
		},
		Owner: m,
	}
	if s.address.TLS {
		files := b.tls
		cfg.TLS = named(files.Config(), s.serverName)
		cfg.CurrentTLS = func() *tls.Config { return named(files.Config(), s.serverName) }
	}
	addr := s.address.Addr
	if s.address.Network == "unix" {
		addr = "unix:" + addr
	}
	m.ep = relay.NewEndpoint(addr, cfg)
	m.single = b.single(m)

	return m
}

// named returns t with a server name where it has none.
func named(t *tls.Config, serverName string) *tls.Config {
	if t.ServerName == "" && serverName != "" {
		t = t.Clone()
		t.ServerName = serverName
	}

	return t
}

// stateChanged takes the state of a member's connections. The lock of its endpoint is held.
func (b *Backend) stateChanged(m *member, s relay.State, err error) {
	level := slog.LevelWarn
	if m.extra { // callers could have any number of lines
		level = slog.LevelDebug
	}
	switch s {
	case relay.Ready:
		b.deps.Log.Log(context.Background(), min(level, slog.LevelInfo), "backend connected", "backend", b.name, "endpoint", m.address)
	case relay.Failing:
		b.deps.Log.Log(context.Background(), level, "backend not reachable", "backend", b.name, "endpoint", m.address, "error", err)
	case relay.Silent:
		b.deps.Log.Log(context.Background(), level, "backend does not answer", "backend", b.name, "endpoint", m.address)
	}
	if m.extra {
		return
	}
	if h := b.deps.Hooks.State; h != nil {
		h(b.name, m.name, s, err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	lost := m.state == relay.Ready && (s == relay.Connecting || s == relay.Failing)
	m.state = s
	b.refresh()
	if lost && b.resolution != nil {
		b.resolution.again()
	}
}

func or[T comparable](v, d T) T {
	var zero T
	if v == zero {
		return d
	}

	return v
}
