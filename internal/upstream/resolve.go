// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/serviceconfig"

	"github.com/manifold-grpc/manifold/internal/address"
)

// A resolution turns a target into endpoints, by one of grpc-go's resolvers: it is the ClientConn of it. What the
// resolver says is taken by a goroutine, so that it may say it from wherever it likes.
type resolution struct {
	b        *Backend
	target   string
	host     string // of the target, for TLS
	tls      bool
	interval time.Duration
	stop     context.CancelFunc
	wanted   chan struct{} // another look, soon
	news     chan struct{} // list or err are new

	mu sync.Mutex
	// Guarded by mu.
	list []weighted
	err  error // of the last look; nil after a good one

	// Guarded by Backend.changing.
	renew bool // endpoints that stay have to be connected anew, as the next answer comes

	// Guarded by Backend.mu.
	came bool // there was an answer
}

var _ resolver.ClientConn = (*resolution)(nil)

// resolve starts to resolve the target. changing is held.
func (b *Backend) resolve() (*resolution, error) {
	u, err := url.Parse(b.cfg.Target)
	if err != nil {
		return nil, err
	}
	r := &resolution{
		b: b, target: b.cfg.Target, tls: b.cfg.TLS != nil,
		interval: or(time.Duration(b.cfg.ResolveInterval), 30*time.Second),
		wanted:   make(chan struct{}, 1), news: make(chan struct{}, 1),
	}
	target := resolver.Target{URL: *u}
	if host, _, err := net.SplitHostPort(target.Endpoint()); err == nil && net.ParseIP(host) == nil {
		r.host = strings.TrimSuffix(host, ".") // certificates have names without
	}
	builder := resolver.Get(u.Scheme)
	if u.Scheme == srvScheme {
		builder = srvBuilder{net.DefaultResolver}
	}
	if builder == nil {
		return nil, fmt.Errorf("target %q: unknown scheme %q", b.cfg.Target, u.Scheme)
	}
	built, err := builder.Build(target, r, resolver.BuildOptions{DisableServiceConfig: true})
	if err != nil {
		return nil, fmt.Errorf("target %q: %w", b.cfg.Target, err)
	}
	ctx, stop := context.WithCancel(b.life)
	r.stop = stop
	b.running.Go(func() { r.run(ctx, built) }) // ends with the context, when the target changes or the backend ends

	return r, nil
}

// run takes what the resolver says, and has it look again.
func (r *resolution) run(ctx context.Context, built resolver.Resolver) {
	defer built.Close()
	tick := time.NewTicker(r.interval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.news:
			r.take()
		case <-r.wanted:
			built.ResolveNow(resolver.ResolveNowOptions{})
		case <-tick.C:
			built.ResolveNow(resolver.ResolveNowOptions{})
		}
	}
}

// known returns the endpoints of the last good answer.
func (r *resolution) known() []weighted {
	r.mu.Lock()
	defer r.mu.Unlock()

	return r.list
}

// again asks for another look.
func (r *resolution) again() { poke(r.wanted) }

func poke(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default: // it is to come
	}
}

// failure returns the error of the last look.
func (r *resolution) failure() error {
	r.mu.Lock()
	defer r.mu.Unlock()

	return r.err
}

// take makes what the resolver said last the backend's endpoints. After an error they stay.
func (r *resolution) take() {
	r.mu.Lock()
	list, err := r.list, r.err
	r.mu.Unlock()
	b := r.b
	b.changing.Lock()
	defer b.changing.Unlock()
	if b.closed || b.resolution != r {
		return
	}
	b.mu.Lock()
	r.came = true
	before := len(b.members)
	b.mu.Unlock()
	if err != nil {
		b.deps.Log.Warn("target not resolved, the endpoints stay", "backend", b.name, "target", r.target, "endpoints", before, "error", err)
		b.mu.Lock()
		b.refresh() // for who waits
		b.mu.Unlock()
	} else {
		b.setMembers(list, !r.renew)
		r.renew = false
	}
	if h := b.deps.Hooks.Resolved; h != nil {
		h(b.name, len(list), err)
	}
}

// UpdateState is what the resolver calls with addresses.
func (r *resolution) UpdateState(s resolver.State) error {
	addrs := s.Addresses
	if len(addrs) == 0 {
		for _, e := range s.Endpoints {
			addrs = append(addrs, e.Addresses...)
		}
	}
	list := r.listOf(addrs)
	if len(list) == 0 {
		err := errors.New("no address")
		r.ReportError(err)
		return err // the resolver tries again
	}
	r.mu.Lock()
	same := r.err == nil && slices.Equal(r.list, list)
	r.list, r.err = list, nil
	r.mu.Unlock()
	if !same {
		poke(r.news)
	}

	return nil
}

// listOf returns the endpoints at the addresses, each once, in their order of names: that of answers changes.
func (r *resolution) listOf(addrs []resolver.Address) []weighted {
	var list []weighted
	for _, a := range addrs {
		network := "tcp"
		if strings.HasPrefix(a.Addr, "/") || strings.HasPrefix(a.Addr, "@") {
			network = "unix"
		}
		e := address.Endpoint{Address: address.Address{Network: network, Addr: a.Addr}, TLS: r.tls}
		weight, ok := a.Attributes.Value(weightKey{}).(int)
		if !ok {
			weight = 1
		}
		list = append(list, weighted{spec{a.Addr, e, or(a.ServerName, r.host)}, weight})
	}
	slices.SortFunc(list, func(a, b weighted) int { return strings.Compare(a.name, b.name) })

	return slices.CompactFunc(list, func(a, b weighted) bool { return a.name == b.name })
}

// ReportError is what the resolver calls when it found nothing. The same error again is no news.
func (r *resolution) ReportError(err error) {
	r.mu.Lock()
	same := r.err != nil && r.err.Error() == err.Error()
	r.err = err
	r.mu.Unlock()
	if !same {
		poke(r.news)
	}
}

// NewAddress is of an older form of the interface.
func (r *resolution) NewAddress(addrs []resolver.Address) {
	r.UpdateState(resolver.State{Addresses: addrs}) //nolint:errcheck // it has no way to tell
}

// ParseServiceConfig takes none: the configuration alone says where calls go.
func (r *resolution) ParseServiceConfig(string) *serviceconfig.ParseResult {
	return &serviceconfig.ParseResult{Err: errors.New("service configurations are not used")}
}
