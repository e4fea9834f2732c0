// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/manifold-grpc/manifold/internal/config"
	"github.com/manifold-grpc/manifold/internal/tlsfiles"
	"github.com/manifold-grpc/manifold/relay"
)

// Config is what a backend is made of. It is plain data.
type Config struct {
	// Backend is what a file declares, with package config's meaning of zero fields.
	config.Backend
	// CA is a PEM file of the authorities of https:// endpoints where Backend.TLS is nil. Default: those
	// of the system.
	CA config.File
}

// ClientTLS returns how endpoints with TLS are spoken to. What becomes of the files later goes to log.
func (c *Config) ClientTLS(log *slog.Logger) (*tls.Config, error) {
	t := c.TLS
	if t == nil {
		t = &config.BackendTLS{CA: c.CA}
	}

	return tlsfiles.Client(t, log)
}

// Connecting returns how long one attempt to connect may take.
func (c *Config) Connecting() time.Duration {
	return or(time.Duration(c.ConnectTimeout), defaultConnectTimeout)
}

// Deps is what a backend needs from its surroundings. The zero value works.
type Deps struct {
	// Log gets what an operator should know. nil: nothing is logged.
	Log *slog.Logger
	// Hooks observe.
	Hooks Hooks
	// Buffer is the budget for octets that wait for slow endpoints. nil means relay.DefaultBuffer.
	Buffer *relay.Buffer
}

// A Backend is a set of endpoints that changes as its configuration does and as what is known of them
// does. Its methods are safe for concurrent use.
type Backend struct {
	// Immutable.
	name  string
	deps  Deps
	relay *relay.Backend

	view atomic.Pointer[view]
	each atomic.Pointer[[]Single]
	turn atomic.Uint64 // of round robin

	inFlight atomic.Int64

	changing sync.Mutex // held while the set changes
	// Guarded by changing.
	cfg    Config
	closed bool

	draining sync.WaitGroup // members on their way out
	drain    context.Context
	cut      context.CancelFunc // ends drain

	mu sync.Mutex
	// Guarded by mu.
	members []*member // in the order of the configuration
	balance config.Balance
}

// Open returns a backend whose endpoints are being connected. Its error is about files that the configuration
// names. Close it, or have it retire.
func Open(name string, cfg Config, deps Deps) (*Backend, error) {
	if deps.Log == nil {
		deps.Log = slog.New(slog.DiscardHandler)
	}
	b := &Backend{name: name, deps: deps}
	b.drain, b.cut = context.WithCancel(context.Background())
	b.relay = &relay.Backend{Name: name, Choose: b.choose, AttemptEnded: b.attemptEnded}
	b.view.Store(&view{})
	if err := b.Update(cfg); err != nil {
		b.cut()
		return nil, err
	}

	return b, nil
}

// Name returns the name.
func (b *Backend) Name() string { return b.name }

// Relay returns the backend as calls are forwarded to it. It is the same for all of the backend's life.
func (b *Backend) Relay() *relay.Backend { return b.relay }

// Update makes cfg the configuration, for calls from now on. Connections to endpoints that stay the same, in address,
// name and how they are spoken to, are kept; endpoints that are no more there run their calls to the end. Its
// error is about files that cfg names; nothing has changed then.
func (b *Backend) Update(cfg Config) error {
	b.changing.Lock()
	defer b.changing.Unlock()
	if b.closed {
		return fmt.Errorf("backend %q: closed", b.name)
	}
	tls, err := cfg.ClientTLS(b.deps.Log)
	if err != nil {
		return fmt.Errorf("backend %q: %w", b.name, err)
	}
	keep := b.cfg.sameTransport(&cfg)
	b.cfg = cfg
	b.mu.Lock()
	b.balance = cfg.Balance
	b.mu.Unlock()
	b.setMembers(cfg.members(), tls, keep)

	return nil
}

// AwaitTries returns when each endpoint is known to be up or down, or when ctx ends: calls that come
// then are balanced like all later ones.
func (b *Backend) AwaitTries(ctx context.Context) {
	for _, m := range b.current() {
		m.ep.WaitForStateChange(ctx, relay.Connecting)
	}
}

// InFlight returns the number of calls that wait for an endpoint or are at one, also at those that are on their way out.
func (b *Backend) InFlight() int { return int(b.inFlight.Load()) }

// Retire takes the backend out of service, for when no further calls are forwarded to it: it closes the backend when
// there has been no call for a second, or when ctx ends, which cuts calls off. Its error is that of ctx then.
// A second, because a call may be between its route and its endpoint, or between two attempts.
func (b *Backend) Retire(ctx context.Context) error {
	defer b.Close()
	tick := time.NewTicker(retireTick)
	defer tick.Stop()
	for quiet := time.Duration(0); quiet < retireQuiet; {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		quiet += retireTick
		if b.InFlight() > 0 {
			quiet = 0
		}
	}

	return nil
}

const (
	retireTick  = 100 * time.Millisecond
	retireQuiet = time.Second
)

// Close ends the backend at once; calls at its endpoints end with UNAVAILABLE. Nothing is left running when it returns.
func (b *Backend) Close() {
	b.cut()
	b.end()
	b.draining.Wait()
}

// end has all members leave.
func (b *Backend) end() {
	b.changing.Lock()
	defer b.changing.Unlock()
	b.closed = true
	b.setMembers(nil, nil, true)
}

// current returns the members of now.
func (b *Backend) current() []*member {
	b.mu.Lock()
	defer b.mu.Unlock()

	return b.members
}

const (
	// defaultConnectTimeout is config.Backend's default.
	defaultConnectTimeout = 5 * time.Second
	// MaxBackoff is the longest wait between two attempts to connect, hence about how long an endpoint that is back
	// stays unused.
	MaxBackoff = 5 * time.Second
)
