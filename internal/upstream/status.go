// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"time"

	"github.com/manifold-grpc/manifold/internal/address"
	"github.com/manifold-grpc/manifold/relay"
)

// EndpointStatus is what is known of an endpoint.
type EndpointStatus struct {
	// Name is the configuration's, else the address.
	Name    string
	Address address.Endpoint
	// State is that of its connections, Err why the last attempt to make one failed, nil once one succeeded.
	State       relay.State
	Err         error
	Connections int
	// Health is what active checks say, with the reason for people where it is not good.
	Health       Health
	HealthReason string
	// Ejected is until when it gets no calls because calls to it failed; zero: it is not ejected.
	Ejected time.Time
	// Weight is its share of the calls.
	Weight int
	// InFlight is the calls that wait for it or are at it.
	InFlight int
	// Calls and Failures count attempts since the endpoint was opened; Failures are those of which the
	// endpoint is likely the cause: it was lost, broke the protocol, did not answer in time, or answered with UNKNOWN,
	// INTERNAL, UNAVAILABLE or DATA_LOSS.
	Calls, Failures uint64
	// Relay is the endpoint itself, for one-to-many calls. It belongs to the backend.
	Relay *relay.Endpoint
}

// Usable reports whether the endpoint takes calls like any other.
func (s *EndpointStatus) Usable() bool {
	return s.State == relay.Ready && s.Health != NotServing && s.Ejected.IsZero()
}

// Health is what active checks say of an endpoint.
type Health int

// Values of Health.
const (
	// Unchecked: there are no checks, or none has come to an end yet.
	Unchecked Health = iota
	Serving
	NotServing
)

var healthNames = [...]string{"unchecked", "serving", "not serving"}

func (h Health) String() string { return healthNames[h] }

// Endpoints returns what is known of each endpoint, in the order of the configuration, or of addresses where
// names are resolved. The slice is the caller's.
func (b *Backend) Endpoints() []EndpointStatus {
	b.mu.Lock()
	list := make([]EndpointStatus, len(b.members))
	for i, m := range b.members {
		list[i] = EndpointStatus{
			Name: m.name, Address: m.address, State: m.state, Weight: m.weight(), Health: m.health, HealthReason: m.why,
			Ejected: m.until, Calls: m.calls.Load(), Failures: m.failures.Load(), Relay: m.ep,
		}
	}
	b.mu.Unlock()
	for i := range list { // the endpoint's lock comes before mu
		s := &list[i]
		s.Err, s.Connections, s.InFlight = s.Relay.Err(), s.Relay.Connections(), s.Relay.InFlight()
	}

	return list
}
