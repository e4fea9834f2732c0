// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"reflect"
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
	// Authorities tells the contents of the file of authorities apart: endpoints are connected anew where it is another.
	// Default: the same always.
	Authorities [sha256.Size]byte
}

// CAFile returns the file of authorities, empty for those of the system.
func (c *Config) CAFile() config.File {
	if c.TLS != nil {
		return c.TLS.CA
	}

	return c.CA
}

// ClientTLS returns how endpoints with TLS are spoken to now.
func (c *Config) ClientTLS(log *slog.Logger) (*tls.Config, error) {
	client, err := c.client(log)
	if err != nil {
		return nil, err
	}

	return client.Config(), nil
}

// client returns how endpoints with TLS are spoken to. What becomes of the files later goes to log.
func (c *Config) client(log *slog.Logger) (*tlsfiles.Client, error) {
	t := c.TLS
	if t == nil {
		t = &config.BackendTLS{CA: c.CA}
	}

	return tlsfiles.NewClient(t, log)
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
	// Dial makes the connections to endpoints, for calls and for checks; network is tcp or unix. nil dials them.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
}

// A Backend is a set of endpoints that changes as its configuration does and as what is known of them
// does. Its methods are safe for concurrent use.
type Backend struct {
	// Immutable.
	name  string
	deps  Deps
	relay *relay.Backend

	// What calls look at.
	view        atomic.Pointer[view]
	each        atomic.Pointer[[]Single]
	policy      atomic.Pointer[retryPolicy] // nil: no retries
	maxRequests atomic.Int64                // 0: no limit
	consecutive atomic.Uint32               // failures in a row that eject
	budget      budget
	turn        atomic.Uint64 // of round robin
	inFlight    atomic.Int64
	extras      extras

	changing sync.Mutex // held while the set changes
	// Guarded by changing.
	cfg    Config
	tls    *tlsfiles.Client
	closed bool

	draining sync.WaitGroup // members on their way out
	drain    context.Context
	cut      context.CancelFunc // ends drain
	running  sync.WaitGroup     // the watch, resolutions, checks
	life     context.Context
	stop     context.CancelFunc // ends life
	woken    chan struct{}      // the watch has something to see

	mu sync.Mutex
	// Guarded by mu.
	members    []*member // in the order of the configuration
	balance    config.Balance
	hashKey    string
	ring       []point // of all members
	checks     bool    // there are active checks
	rules      ejectionRules
	resolution *resolution   // nil without a target; changing is held too where it changes
	changed    chan struct{} // closed by the next refresh
}

// Open returns a backend whose endpoints are being connected. Its error is about files or a target that the configuration
// names. Close it, or have it retire.
func Open(name string, cfg Config, deps Deps) (*Backend, error) {
	if deps.Log == nil {
		deps.Log = slog.New(slog.DiscardHandler)
	}
	if deps.Dial == nil {
		deps.Dial = new(net.Dialer).DialContext
	}
	b := &Backend{name: name, deps: deps, woken: make(chan struct{}, 1), changed: make(chan struct{})}
	b.drain, b.cut = context.WithCancel(context.Background())
	b.life, b.stop = context.WithCancel(context.Background())
	b.relay = &relay.Backend{
		Name: name, Choose: b.choose, AttemptEnded: b.attemptEnded, Retry: b.retry,
		ChooseMirror: b.chooseMirror, MirrorEnded: b.mirrorEnded,
	}
	b.view.Store(&view{})
	if err := b.Update(cfg); err != nil {
		b.Close()
		return nil, err
	}
	b.running.Go(b.watch) // ends with life

	return b, nil
}

// Name returns the name.
func (b *Backend) Name() string { return b.name }

// Relay returns the backend as calls are forwarded to it. It is the same for all of the backend's life.
func (b *Backend) Relay() *relay.Backend { return b.relay }

// Update makes cfg the configuration, for calls from now on. Connections to endpoints that stay the same, in address,
// name and how they are spoken to, are kept; endpoints that are no more there run their calls to the end. Its
// error is about files or a target that cfg names; nothing has changed then.
func (b *Backend) Update(cfg Config) error {
	b.changing.Lock()
	defer b.changing.Unlock()
	if b.closed {
		return fmt.Errorf("backend %q: closed", b.name)
	}
	t, err := cfg.client(b.deps.Log)
	if err != nil {
		return fmt.Errorf("backend %q: %w", b.name, err)
	}
	before, tlsBefore := b.cfg, b.tls
	keep := before.sameTransport(&cfg)
	b.cfg, b.tls = cfg, t
	from, err := b.follow(&before)
	if err != nil {
		b.cfg, b.tls = before, tlsBefore
		return fmt.Errorf("backend %q: %w", b.name, err)
	}
	b.policy.Store(policyOf(cfg.Retry))
	if !reflect.DeepEqual(before.Retry, cfg.Retry) {
		b.budget.set(cfg.Retry)
	}
	b.maxRequests.Store(int64(cfg.Breaker.MaxRequests))
	rules := rulesOf(&cfg.Ejection)
	b.consecutive.Store(rules.consecutive)
	b.mu.Lock()
	same := b.resolution == from
	b.balance, b.hashKey, b.rules, b.resolution, b.checks = cfg.Balance, cfg.HashKey, rules, from, cfg.Health != nil
	b.mu.Unlock()
	b.wake()
	if !keep {
		b.dropExtras(false)
	}
	if !keep || !reflect.DeepEqual(before.Health, cfg.Health) {
		b.stopChecks()
	}
	switch {
	case from == nil:
		b.setMembers(cfg.static(), keep)
	case same:
		b.setMembers(from.known(), keep)
	default:
		from.renew = !keep
		b.setMembers(b.weights(), true) // those that are there, until the target is resolved
	}

	return nil
}

// follow returns what resolves the target, nil without one; that of the configuration before, if it does
// the same. changing is held.
func (b *Backend) follow(before *Config) (*resolution, error) {
	b.mu.Lock()
	now := b.resolution
	b.mu.Unlock()
	if now != nil && before.Target == b.cfg.Target && before.ResolveInterval == b.cfg.ResolveInterval && (before.TLS == nil) == (b.cfg.TLS == nil) {
		return now, nil
	}
	var next *resolution
	if b.cfg.Target != "" {
		var err error
		if next, err = b.resolve(); err != nil {
			return nil, err
		}
	}
	if now != nil {
		now.stop()
	}

	return next, nil
}

// stopChecks ends the checks of all members. What they found holds until others say something else, or is forgotten if there
// are to be none. changing is held.
func (b *Backend) stopChecks() {
	for _, m := range b.current() {
		if m.stopChecks != nil {
			m.stopChecks()
			m.stopChecks = nil
		}
	}
	if b.cfg.Health != nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, m := range b.members {
		m.setHealth(Unchecked, "")
	}
}

// AwaitTries returns when the target is resolved and each endpoint known to be fit for calls or not, or when ctx
// ends: calls that come then are balanced like all later ones.
func (b *Backend) AwaitTries(ctx context.Context) {
	for {
		b.mu.Lock()
		settled, changed := b.settled(), b.changed
		b.mu.Unlock()
		if settled {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
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
	b.stop()
	b.cut()
	b.changing.Lock()
	b.closed = true
	b.setMembers(nil, true)
	b.dropExtras(true)
	b.changing.Unlock()
	b.draining.Wait()
	b.running.Wait()
}

// weights returns the members of now as they would be set.
func (b *Backend) weights() []weighted {
	b.mu.Lock()
	defer b.mu.Unlock()
	list := make([]weighted, len(b.members))
	for i, m := range b.members {
		list[i] = weighted{m.spec, m.weight()}
	}

	return list
}

// current returns the members of now.
func (b *Backend) current() []*member {
	b.mu.Lock()
	defer b.mu.Unlock()

	return b.members
}

const (
	// defaultKeepalive and defaultConnectTimeout are config.Backend's defaults.
	defaultKeepalive      = 2 * time.Second
	defaultConnectTimeout = 5 * time.Second
	// MaxBackoff is the longest wait between two attempts to connect, hence about how long an endpoint that is back
	// stays unused.
	MaxBackoff = 5 * time.Second
)
