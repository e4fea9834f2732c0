// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package fanout

import (
	"slices"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// ViaKey is the request metadata that names the proxies that have fanned the call out,
// from the first. Each of them adds itself.
const ViaKey = "manifold-fanout-via"

// DefaultMaxHops is how many proxies one after another may fan a call out.
const DefaultMaxHops = 4

// Guard keeps a call from being fanned out in a circle, where each round multiplies it.
// It is immutable and safe for concurrent use.
type Guard struct {
	// ID is this proxy's own: its replicas may share it. It must not be empty, nor
	// contain commas or spaces.
	ID string
	// MaxHops is how many proxies may fan one call out; 0 means [DefaultMaxHops]. It
	// catches circles of proxies whose IDs change.
	MaxHops int
}

// Enter returns what [ViaKey] says on the requests to the targets. It fails with
// codes.FailedPrecondition, which callers do not retry, if the call has been here or
// has come through too many proxies.
func (g Guard) Enter(md metadata.MD) (via string, err error) {
	hops := listed(md.Get(ViaKey))
	limit := g.MaxHops
	if limit == 0 {
		limit = DefaultMaxHops
	}
	switch {
	case slices.Contains(hops, g.ID):
		return "", status.Errorf(codes.FailedPrecondition, "fanout: loop: %q has fanned this call out already", g.ID)
	case len(hops) >= limit:
		return "", status.Errorf(codes.FailedPrecondition, "fanout: loop: %d proxies have fanned this call out, at most %d may", len(hops), limit)
	}
	return strings.Join(append(hops, g.ID), ","), nil
}

// listed returns the elements of comma-separated values, in their order, without the empty ones.
func listed(values []string) []string {
	var elements []string
	for _, v := range values {
		for element := range strings.SplitSeq(v, ",") {
			if element = strings.TrimSpace(element); element != "" {
				elements = append(elements, element)
			}
		}
	}
	return elements
}
