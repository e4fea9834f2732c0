// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/manifold-grpc/manifold/fanout"
)

// Fanout says how one-to-many calls are decided, answered and bounded. docs/fanout.md is the guide, package fanout the
// rules. A handler gets one by [WithFanout], a call by [SetFanout]; without either, calls are as the package
// documentation says under "One to many", and nothing here costs anything.
//
// The zero value joins the answers and needs all of them to be OK. A Fanout must not change once a handler or a call has
// it, and any number of calls may have it at once.
type Fanout struct {
	// Policy says when a call has succeeded. The zero value is fanout.All. A call that a policy makes no sense for, such as
	// fanout.Quorum(3) of two targets, is refused with codes.FailedPrecondition.
	//
	// Under fanout.BestEffort a backend whose BuildError makes no message fails the call, as ever; but not a SingleBackend,
	// nor an Upstream without an Annotator, which have nothing to make one with. Under the other policies the messages of BuildError are
	// part of the answer of a call that succeeds, and a backend that makes none costs nothing.
	//
	// Once the call is decided the targets that still run are cancelled. When it cannot succeed any more, the others first
	// get a moment to fail as well, so that the status does not depend on who was first.
	Policy fanout.Policy

	// CodeRule chooses the code of a call that failed from those of its targets.
	CodeRule fanout.CodeRule

	// Envelope wraps all that targets send into messages of FanoutMessage (package fanoutpb). A unary method is
	// called as one that streams then. AppendInfo and BuildError of the backends are not called.
	Envelope bool

	// Merger makes the program's own function the maker of the answer. The backends' AppendInfo and BuildError
	// are not called. It prevails over Envelope.
	Merger NewMerger

	// Summary puts the outcomes of all targets into the call's trailers, within the limits of Report.
	Summary bool
	Report  fanout.ReportLimits

	// ByArrival joins the answers of unary calls in the order in which the targets ended, in place of the director's.
	ByArrival bool

	// OrderKey makes one order of the messages of a streaming call whose targets each send theirs in the order of a key: a
	// message waits until each target that has not ended has sent a later one. It gets a target's message,
	// without AppendInfo's additions, and must not keep it. See fanout.NumberKey for keys that are numbers.
	//
	// OrderWindow and OrderBytes bound what waits: 1024 messages and 4 MiB by default. When it is more, the
	// first of them goes out although a silent target may still send an earlier one.
	OrderKey                func(message []byte) string
	OrderWindow, OrderBytes int

	// Distinct drops backends whose name came before. Without it each is a target of its own, and the index tells them apart.
	Distinct bool

	// ConnectTimeout bounds the time until a target's stream is open, 5 s by default. IdleTimeout bounds the time without a
	// message to or from a target, while none of its answers waits for the caller, and TotalTimeout all of a
	// target's part in the call. Both are off by default, and negative is off for all of them. A target that exceeds one has failed with
	// codes.DeadlineExceeded; the others go on.
	ConnectTimeout, IdleTimeout, TotalTimeout time.Duration

	// Reserve is the time before the caller's deadline at which targets that still run have failed with
	// codes.DeadlineExceeded, so that the answers of the others still reach the caller. By default it is a tenth of the time that the caller
	// gives, at most 250 ms; never more than half of it. Negative: none.
	Reserve time.Duration

	// LetFinish is how long the targets that a decided call needs no more may go on, after the caller has its answer; the caller's deadline
	// holds for them too. One that still waits for its connection goes on with that; one that had not had its turn, with Hedge, gets none. 0: they are
	// cancelled. The handler returns when they have ended. It needs the server streams of grpc-go and has no effect with
	// [WithInterceptedStatus], nor for a call whose requests are not complete by then.
	LetFinish time.Duration

	// Hedge starts calls with so many targets; after each HedgeDelay (default 100 ms), and when one of them fails,
	// comes one more, as long as the call is not decided. 0: all start at once. The requests wait in the queues of the
	// targets to come, and so must fit into them (see [FanoutLimits]).
	Hedge      int
	HedgeDelay time.Duration

	// MaxTargets is the most targets that a call may have, 128 by default. A call with more ends in codes.ResourceExhausted.
	MaxTargets int

	// TargetBytes bounds the answer of one target of a unary call, and each message of one that streams: 16 MiB by default. A
	// target that exceeds it has failed with codes.ResourceExhausted. Negative: no bound.
	TargetBytes int

	// DropSlow ends a target whose queue of requests is full with codes.ResourceExhausted at once, in place of having
	// the caller wait for it (see [FanoutLimits]).
	DropSlow bool

	// Guard, if not nil, ends calls that go round in a circle of proxies, and adds this proxy to the
	// request metadata fanout.ViaKey.
	Guard *fanout.Guard
}

const (
	defaultConnectTimeout = 5 * time.Second
	defaultHedgeDelay     = 100 * time.Millisecond
	defaultTargetBytes    = 16 << 20
	defaultOrderBytes     = 4 << 20
	maxDefaultReserve     = 250 * time.Millisecond
)

// withDefaults replaces zero by the default, and what is negative by what means none to the code that reads it.
func (o Fanout) withDefaults() *Fanout {
	byDefault := func(d *time.Duration, value time.Duration) {
		if *d == 0 {
			*d = value
		}
	}
	number := func(n *int, value int) {
		if *n == 0 {
			*n = value
		}
	}

	byDefault(&o.ConnectTimeout, defaultConnectTimeout)
	byDefault(&o.HedgeDelay, defaultHedgeDelay)
	number(&o.MaxTargets, fanout.DefaultMaxTargets)
	number(&o.TargetBytes, defaultTargetBytes)
	number(&o.OrderBytes, defaultOrderBytes)

	if o.TargetBytes < 0 {
		o.TargetBytes = int(^uint(0) >> 1)
	}

	return &o
}

// reserve returns the time to keep of what the caller gives.
func (o *Fanout) reserve(left time.Duration) time.Duration {
	switch {
	case o.Reserve < 0:
		return 0
	case o.Reserve == 0:
		return min(left/10, maxDefaultReserve)
	default:
		return min(o.Reserve, left/2)
	}
}

// tells reports whether somebody gets the outcomes of targets. It is false for nil.
func (o *Fanout) tells() bool { return o != nil && (o.Summary || o.Envelope || o.Merger != nil) }

// WithFanout sets how the handler's one-to-many calls are decided, answered and bounded.
func WithFanout(f Fanout) Option {
	return func(o *handlerOptions) {
		o.fanout = f.withDefaults()
	}
}

// SetFanout does the same for one call, whatever the handler has. It is for directors, with the context that they were
// called with, before they return; elsewhere it returns an error, a status with codes.Internal. It copies f.
func SetFanout(ctx context.Context, f *Fanout) error {
	c, _ := ctx.Value(callKey{}).(*call)
	if c == nil || !c.directing || f == nil {
		return status.Error(codes.Internal, "proxy: SetFanout is for directors, with the context that they were called with")
	}

	c.fanout = f.withDefaults()

	return nil
}
