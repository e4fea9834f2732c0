// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"fmt"

	"github.com/manifold-grpc/manifold/relay"
)

// A Single is one endpoint of a backend, for calls that go to several at once.
type Single struct {
	// Name is the configuration's, else the address.
	Name string
	// Relay takes calls for this endpoint alone. They count as the backend's. Those that it would be no use to send, as
	// it is not connected, silent, or not healthy by active checks, are answered with UNAVAILABLE at once. Ejection
	// and weight are no matter: they are about who takes a call that any endpoint could.
	Relay *relay.Backend
}

// Each returns the endpoints of now, in the order of the configuration. The slice must not be changed; it is another one when
// the set of endpoints is.
func (b *Backend) Each() []Single {
	if each := b.each.Load(); each != nil {
		return *each
	}

	return nil
}

// Unavailable says why no endpoint takes calls, for who found that none does.
func (b *Backend) Unavailable() error { return b.unavailable() }

// setEach notes the members for Each.
func (b *Backend) setEach(members []*member) {
	each := make([]Single, len(members))
	for i, m := range members {
		each[i] = Single{Name: m.name, Relay: m.single}
	}
	b.each.Store(&each)
}

// single returns a backend of one member.
func (b *Backend) single(m *member) *relay.Backend {
	return &relay.Backend{Name: b.name, AttemptEnded: b.attemptEnded, Choose: func(*relay.Call) (*relay.Endpoint, error) {
		if err := b.absent(m); err != nil {
			return nil, err
		}
		if err := b.admit(); err != nil {
			return nil, err
		}
		m.calls.Add(1)

		return m.ep, nil
	}}
}

// absent says why a call for this member alone had better fail at once; nil: it is worth a try. A member that cannot be
// reached, leaves PINGs without an answer, or says itself that it does not serve would only cost the call its time. An
// ejected one is called: its answers may be errors, or late, but no other endpoint can give them in its place, and what had it
// ejected may be a method that this call is not about.
func (b *Backend) absent(m *member) error {
	switch m.ep.State() {
	case relay.Failing, relay.Closed:
		if err := m.ep.Err(); err != nil {
			return fmt.Errorf("backend %s: endpoint is not available, last error: %w", b.name, err)
		}

		return fmt.Errorf("backend %s: endpoint %s is not available", b.name, m.ep.Addr())
	case relay.Silent:
		return fmt.Errorf("backend %s: endpoint %s is connected, but answers nothing, not even a PING", b.name, m.ep.Addr())
	}
	if why := m.sick.Load(); why != nil {
		return fmt.Errorf("backend %s: endpoint %s is not healthy: %s", b.name, m.ep.Addr(), *why)
	}

	return nil
}
