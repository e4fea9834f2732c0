// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/manifold-grpc/manifold/internal/address"
	"github.com/manifold-grpc/manifold/relay"
)

// extras are endpoints beside those of the backend, which callers name by address. They are connected as the backend's own are, and
// are neither balanced over nor checked, ejected, or in metrics and status by name: callers choose how many there are.
type extras struct {
	mu sync.Mutex
	// Guarded by mu.
	byAddress map[string]*extra
	closed    bool
}

// An extra is one of them.
type extra struct {
	*member
	used time.Time   // guarded by extras.mu
	idle *time.Timer // looks whether it is used
}

const (
	// MaxExtras is how many endpoints that callers named are kept at once.
	MaxExtras = 1024
	// extraIdle is how long one is kept without a call, extraTick how often that is looked at. One that cannot be reached goes with
	// the first look, so that nothing dials for long what nobody asks for.
	extraIdle = 5 * time.Minute
	extraTick = 30 * time.Second
	// maxExtraName is more than any host with its port has.
	maxExtraName = 262
	// extraFresh is how long one is spared for the call that it was made for.
	extraFresh = 5 * time.Second
)

// ErrClosed is the error of Named when the backend has ended.
var ErrClosed = errors.New("the backend is closed")

// ErrTooManyExtras is the error of Named when as many endpoints as may be are in use.
var ErrTooManyExtras = errors.New("too many endpoints that callers named are in use")

// Named returns the endpoint of the name or address, which need not be one of the backend's: one that is not is connected
// when it is first named, and closed when it was not named for five minutes and has no call, or cannot be reached. It must be host:port. Calls count as
// the backend's for its limits. The error is [ErrTooManyExtras], [ErrClosed], or says what is wrong with the address.
func (b *Backend) Named(name string) (Single, error) {
	for _, s := range b.Each() {
		if s.Name == name {
			return s, nil
		}
	}
	if len(name) > maxExtraName {
		return Single{}, fmt.Errorf("%d characters, expected an address", len(name))
	}
	at, err := address.ParseEndpoint(name)
	switch {
	case err != nil:
		return Single{}, err
	case at.Network != "tcp":
		return Single{}, errors.New("a socket of this machine, expected host:port")
	}
	b.extras.mu.Lock()
	e := b.extras.byAddress[name]
	if e != nil {
		e.used = time.Now()
	}
	b.extras.mu.Unlock()
	if e == nil {
		if e, err = b.addExtra(name, at); err != nil {
			return Single{}, err
		}
	}

	return Single{Name: name, Relay: e.single}, nil
}

// addExtra connects to an address that a caller named.
func (b *Backend) addExtra(name string, at address.Endpoint) (*extra, error) {
	b.changing.Lock()
	defer b.changing.Unlock()
	b.extras.mu.Lock()
	defer b.extras.mu.Unlock()
	if e := b.extras.byAddress[name]; e != nil { // another caller was faster
		e.used = time.Now()
		return e, nil
	}
	if b.closed || b.extras.closed {
		return nil, ErrClosed
	}
	if len(b.extras.byAddress) >= MaxExtras && !b.evictExtra() {
		return nil, ErrTooManyExtras
	}
	at.TLS = at.TLS || b.cfg.TLS != nil
	e := &extra{member: b.connect(spec{name: name, address: at}, true), used: time.Now()}
	e.idle = time.AfterFunc(extraTick, func() { b.expireExtra(name, e) })
	if b.extras.byAddress == nil {
		b.extras.byAddress = map[string]*extra{}
	}
	b.extras.byAddress[name] = e

	return e, nil
}

// evictExtra drops the extra that was unused for longest. The locks of addExtra are held.
func (b *Backend) evictExtra() bool {
	var name string
	var oldest *extra
	for n, e := range b.extras.byAddress {
		if e.unused(extraFresh) && (oldest == nil || e.used.Before(oldest.used)) {
			name, oldest = n, e
		}
	}
	if oldest != nil {
		b.dropExtra(name, oldest)
	}

	return oldest != nil
}

// expireExtra is what an extra's timer does.
func (b *Backend) expireExtra(name string, e *extra) {
	b.changing.Lock()
	defer b.changing.Unlock()
	b.extras.mu.Lock()
	defer b.extras.mu.Unlock()
	if b.extras.byAddress[name] != e {
		return
	}
	if e.unused(extraIdle) || e.ep.State() == relay.Failing && e.unused(extraFresh) {
		b.dropExtra(name, e)
		return
	}
	e.idle.Reset(extraTick)
}

// unused reports whether the endpoint has no call and was not named for so long. The extras' lock is held.
func (e *extra) unused(d time.Duration) bool { return e.ep.InFlight() == 0 && time.Since(e.used) >= d }

// dropExtra has an extra end with its calls. changing and the extras' lock are held.
func (b *Backend) dropExtra(name string, e *extra) {
	e.idle.Stop()
	delete(b.extras.byAddress, name)
	b.draining.Go(func() { // ends with the calls at the endpoint, or when drain is cut
		e.ep.Shutdown(b.drain) //nolint:errcheck // Retire tells
	})
}

// dropExtras has all of them end; final says that there are to be no others. changing is held.
func (b *Backend) dropExtras(final bool) {
	b.extras.mu.Lock()
	defer b.extras.mu.Unlock()
	b.extras.closed = final
	for name, e := range b.extras.byAddress {
		b.dropExtra(name, e)
	}
}
