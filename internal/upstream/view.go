// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"fmt"

	"github.com/manifold-grpc/manifold/internal/config"
	"github.com/manifold-grpc/manifold/relay"
)

// A view is what calls choose among. It never changes.
type view struct {
	balance config.Balance
	members []*member // those that calls may go to; empty: none
}

// refresh makes the view anew. mu is held.
func (b *Backend) refresh() {
	v := &view{balance: b.balance}
	for _, want := range [...]relay.State{relay.Ready, relay.Connecting} {
		for _, m := range b.members {
			if m.state == want {
				v.members = append(v.members, m)
			}
		}
		if len(v.members) > 0 {
			break
		}
	}
	b.view.Store(v)
}

// choose is relay.Backend's.
func (b *Backend) choose(c *relay.Call) (*relay.Endpoint, error) {
	v := b.view.Load()
	if len(v.members) == 0 {
		return nil, b.unavailable()
	}
	m := v.pick(c, &b.turn)
	m.calls.Add(1)
	b.inFlight.Add(1)

	return m.ep, nil
}

// unavailable says why no endpoint can be had.
func (b *Backend) unavailable() error {
	members := b.current()
	if len(members) == 0 {
		return fmt.Errorf("backend %s has no endpoint", b.name)
	}
	for _, m := range members {
		if err := m.ep.Err(); err != nil {
			return fmt.Errorf("backend %s: no endpoint is available, last error: %w", b.name, err)
		}
	}

	return fmt.Errorf("backend %s: no endpoint is available", b.name)
}
