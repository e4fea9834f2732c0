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

	// Glitch tells of a frame of a client that is allowed but useless, by its kind: a short stable name
	// such as "priority" or "empty_data"; not of WINDOW_UPDATE, PING and acknowledged SETTINGS. In masses such frames end the connection.
	Glitch func(kind string)

	// CallEnded tells of the end of a call.
	CallEnded func(*Call, CallStats)

	// AttemptOpening comes before each attempt to open a stream for a call to one backend; n counts from 0 those
	// that were opened before. It may change the request's headers by Call.SetHeader.
	AttemptOpening func(c *Call, n int)

	// TargetOpening is AttemptOpening for a target of a fanned-out call, at a place among its targets; n counts from 0 the streams that
	// were opened to it before. A header that it sets is seen by the targets after it too, unless set again for them.
	TargetOpening func(c *Call, target int, to *Target, n int)

	// AttemptRetried tells of the end of an attempt, made at start, that another one follows. The last attempt ends with
	// the call.
	AttemptRetried func(c *Call, a AttemptStats, start time.Time)

	// CallProgress tells of calls that go on for long: of each the first time within a second of ProgressAfter after its
	// start, and again each ProgressEvery. [CallStats] is then what became of it so far; Code and Reason are unset.
	CallProgress func(*Call, CallStats)

	// ProgressAfter defaults to 10 s, ProgressEvery to 5 min.
	ProgressAfter, ProgressEvery time.Duration

	// FirstResponse has CallStats.FirstResponse filled in, which costs a look at the clock for each call.
	FirstResponse bool
}

// CallStats is what became of a call.
type CallStats struct {
	// Start is when the request's header block arrived.
	Start time.Time
	// Duration is the time to the end of the response being handed over.
	Duration time.Duration
	// FirstResponse is the time to the response's header block, 0 if none came from an upstream, or if Hooks.FirstResponse
	// is not set.
	FirstResponse time.Duration
	// LastAttempt is when the last attempt was opened, if there was more than one; else it is Start.
	LastAttempt time.Time
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
	// Targets is what became of each target of a fanned-out call, in their order; nil for any other.
	Targets []TargetStats
}
