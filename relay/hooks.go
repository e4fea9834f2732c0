// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package relay

import (
	"net"
	"time"

	"google.golang.org/grpc/codes"
)

// Hooks observe a server. Each may be nil; each may be called from many goroutines
// at once, some with locks of the relay held, and must neither block nor call the relay, save for
// methods of the given Call that say so.
type Hooks struct {
	// ConnOpened and ConnClosed frame the life of a client's connection. err is why it ended;
	// its text has a stable reason in brackets where the client broke a rule.
	ConnOpened func(remote net.Addr)
	ConnClosed func(remote net.Addr, err error)

	// ConnRejected tells of a connection that a limit turned away.
	ConnRejected func(remote net.Addr, reason string)

	// CallEnded tells of the end of a call.
	CallEnded func(*Call, CallStats)
}

// CallStats is what became of a call.
type CallStats struct {
	// Start is when the request's header block arrived.
	Start time.Time
	// Duration is the time to the end of the response being handed over.
	Duration time.Duration
	// Code is the status that the client gets.
	Code codes.Code
	// Reason is empty for a status of the upstream's, else one of the Reason
	// constants.
	Reason string
	// Endpoint is the address of the endpoint, empty if none was chosen; Attempts counts the streams opened for the call.
	Endpoint string
	Attempts int
	// Messages and octets (message prefixes included) of either direction.
	RequestMessages, RequestBytes   int64
	ResponseMessages, ResponseBytes int64
}
