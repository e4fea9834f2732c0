// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"time"

	"google.golang.org/grpc/codes"

	"github.com/manifold-grpc/manifold/relay"
)

// outcome is what an attempt says of its endpoint.
type outcome int

const (
	tellsNothing outcome = iota // the caller gave up, or the endpoint had no part in it
	tellsGood
	tellsBad  // it answered, with an error that is likely its own
	tellsGone // as if there was nobody: it counts among the failures in a row
)

// patient is how long a call must have waited for its deadline to say something of the endpoint: with less,
// a caller could have endpoints ejected that answer as fast as ever.
const patient = 100 * time.Millisecond

// outcomeOf judges an attempt that took so long.
func outcomeOf(a relay.AttemptStats, took time.Duration) outcome {
	code := a.Code
	if !a.Opened {
		return tellsNothing // the state of its connections does
	}
	switch a.Reason {
	case "":
		switch code {
		case codes.Unavailable:
			return tellsGone
		case codes.Unknown, codes.DeadlineExceeded, codes.Internal, codes.DataLoss:
			return tellsBad
		}
		return tellsGood
	case relay.ReasonUpstreamLost:
		return tellsGone
	case relay.ReasonDeadline:
		if took >= patient {
			return tellsGone
		}
	case relay.ReasonUpstreamReset, relay.ReasonUpstreamProtocol, relay.ReasonUpstreamNoStatus:
		return tellsBad
	case relay.ReasonUpstreamNotGRPC:
		if code == codes.Unavailable { // 502, 503, 504
			return tellsGone
		}
		return tellsBad
	}

	return tellsNothing
}

// attemptEnded is relay.Backend's.
func (b *Backend) attemptEnded(c *relay.Call, a relay.AttemptStats) {
	b.inFlight.Add(-1)
	m := a.Endpoint.Owner().(*member)
	switch {
	case m.extra:
		return // nobody is chosen in its place
	case a.Code == codes.OK:
		m.good()
		b.budget.success()
		return
	}
	switch outcomeOf(a, time.Since(c.Start())) {
	case tellsGood:
		m.good()
		b.budget.success()
	case tellsBad:
		m.failures.Add(1)
	case tellsGone:
		m.failures.Add(1)
		b.gone(m)
	}
}

// good notes a call that went well.
func (m *member) good() {
	m.successes.Add(1)
	if m.row.Load() != 0 {
		m.row.Store(0)
	}
}
