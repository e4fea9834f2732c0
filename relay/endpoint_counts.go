// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package relay

import "sync/atomic"

// EndpointCounts is what happened to an endpoint's connections since it was made.
type EndpointCounts struct {
	// Connected and Failed are the attempts to connect that succeeded and that did not,
	// Lost the connections that ended, for whatever reason. Connected less Lost are open, those among them
	// that finish their last calls.
	Connected, Failed, Lost uint64
}

// endpointCounts is EndpointCounts while it is counted.
type endpointCounts struct {
	connected, failed, lost atomic.Uint64
}

// Counts returns what happened to the connections so far.
func (e *Endpoint) Counts() EndpointCounts {
	return EndpointCounts{e.counts.connected.Load(), e.counts.failed.Load(), e.counts.lost.Load()}
}
