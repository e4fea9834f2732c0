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
	// Relay takes calls for this endpoint alone. They count as the backend's.
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
		switch m.ep.State() {
		case relay.Failing, relay.Closed:
			if err := m.ep.Err(); err != nil {
				return nil, fmt.Errorf("backend %s: endpoint is not available, last error: %w", b.name, err)
			}

			return nil, fmt.Errorf("backend %s: endpoint %s is not available", b.name, m.ep.Addr())
		}
		if err := b.admit(); err != nil {
			return nil, err
		}
		m.calls.Add(1)

		return m.ep, nil
	}}
}
