// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"time"

	"google.golang.org/grpc/codes"

	"github.com/manifold-grpc/manifold/relay"
)

// Hooks observe backends, of which the first argument is the name, the second, where there is one, that of an
// endpoint. Each may be nil; each may be called from many goroutines at once, some with locks held, and must
// neither block nor call the backend.
type Hooks struct {
	// State tells of a connection to an endpoint that was made or lost; err is why, where there is a reason.
	State func(backend, endpoint string, s relay.State, err error)

	// Health tells of a change of an endpoint's health by active checks; why is for people.
	Health func(backend, endpoint string, healthy bool, why string)

	// Changed tells that calls may go to other endpoints than before, for any reason: of all that is known of them, and of
	// which there are, some may be different.
	Changed func(backend string)

	// Ejected tells that an endpoint gets no calls for a while, as calls to it fail. cause says by what rule.
	Ejected func(backend, endpoint, cause string, until time.Time)

	// Readmitted tells that an ejection is over.
	Readmitted func(backend, endpoint string)

	// Resolved tells of the endpoints that a target led to, or of an error; the endpoints before stay in use then.
	Resolved func(backend string, endpoints int, err error)

	// Dropped tells of a call that a limit turned away; reason is the reason in its ErrorInfo detail.
	Dropped func(backend, reason string)

	// Mirrored tells of what became of a copy of a call, by one of the Mirror constants of package relay.
	Mirrored func(backend, result string)

	// Retried tells of an attempt that failed and is followed by another; Exhausted of one that would have been but for the budget
	// of retries.
	Retried, Exhausted func(backend string, code codes.Code)
}
