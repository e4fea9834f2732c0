// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package relay

import (
	"crypto/tls"
	"net"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/manifold-grpc/manifold/internal/h2"
	"github.com/manifold-grpc/manifold/internal/h2/frame"
	"github.com/manifold-grpc/manifold/internal/h2/hpack"
)

// An Origin is the upstream half of a call that this process makes rather than forwards. It finds an endpoint and a
// connection as a forwarded call does, waits in the same queues, and is tried again where an upstream provably did nothing.
//
// It is for package channel, which makes a grpc.ClientConnInterface of it: its methods take types that are internal to this
// module. Set Backend and Events, and call the methods with the lock held, as those of Events are; the Batch is to be
// flushed without it. Its memory belongs to one call for ever.
type Origin struct {
	// Backend chooses the endpoint. Its Retry is not asked, and its Pick, Choose and AttemptEnded see a [Call] of which
	// only the path, the authority and the start are set.
	Backend *Backend

	// Events is told what becomes of the call.
	Events OriginEvents

	// Path and Authority are those of the call, for Backend's functions.
	Path, Authority string

	// Secure refuses endpoints without TLS.
	Secure bool

	mu       sync.Mutex
	stage    originStage
	ep       *Endpoint
	up       *attempt // the current one; nil before the first
	first    attempt
	attempts int
	seen     *Call // by the backend's functions; nil: none is set
}

// OriginEvents is what an [Origin] tells. The origin's lock is held; the methods must not block, and may call those of the
// Origin.
type OriginEvents interface {
	// Request appends the request's fields for an endpoint, all but :scheme, which is the second and to be set to scheme. The
	// request ends with them if end is true.
	Request(dst []hpack.Field, scheme string, e *Endpoint, now time.Time) (fields []hpack.Field, end bool)

	// Opened tells that there is a stream, which Request went to. What there is of the request is to be sent.
	Opened(b *h2.Batch)

	// Headers tells of a header block of the response, Data of its octets, as h2.Events has them.
	Headers(b *h2.Batch, head h2.Head)
	Data(b *h2.Batch, p []byte, end bool) (passed int)

	// Credit tells that n octets left that Send had queued.
	Credit(b *h2.Batch, n int)

	// Again reports whether the request can be sent once more, from its beginning, after an upstream provably
	// did nothing about it. If so, Opened follows, or Refused.
	Again() bool

	// Lost tells of the early end of the stream. Nothing follows.
	Lost(b *h2.Batch, e h2.End)

	// Refused tells that there is no endpoint for the call. Nothing follows.
	Refused(b *h2.Batch, code codes.Code, msg string)
}

type originStage uint8

const (
	originIdle   originStage = iota // not begun, or between two endpoints
	originQueued                    // in an endpoint's queue
	originOpen                      // has a stream
	originDone
)

// Lock and Unlock guard the origin, and what its Events are told of.
func (o *Origin) Lock() { o.mu.Lock() }

// Unlock is the opposite of Lock.
func (o *Origin) Unlock() { o.mu.Unlock() }

// Open reports whether the origin has a stream.
func (o *Origin) Open() bool { return o.stage == originOpen }

// Connect has the origin find an endpoint and open a stream: at once if it can, else when a connection has room.
func (o *Origin) Connect(b *h2.Batch) {
	if r := seek(o, b, o.Backend, o.call()); r != nil {
		o.stage = originDone
		o.Events.Refused(b, r.Code, r.Message)
	}
}

func (o *Origin) goTo(e *Endpoint) *Refusal {
	if o.ep = e; e != nil && o.Secure && e.cfg.TLS == nil {
		return &Refusal{Code: codes.Unauthenticated, Reason: ReasonConnect,
			Message: "endpoint " + e.addr + ": cannot send secure credentials on an insecure connection"}
	}
	return nil
}

// Restart has an origin that was refused begin anew with Connect.
func (o *Origin) Restart() {
	if o.stage == originDone && o.ep == nil {
		o.stage = originIdle
	}
}

// Send sends octets of the request, as h2.Stream.Send does; only on a stream that is open.
func (o *Origin) Send(b *h2.Batch, p []byte, end bool) (passed int, err error) {
	return o.up.Send(b, p, end)
}

// Consumed grants the upstream n octets again.
func (o *Origin) Consumed(b *h2.Batch, n int) {
	if o.stage == originOpen {
		o.up.Consumed(b, n)
	}
}

// End takes the call from its endpoint: out of the queue, or off its stream, which is reset with the code if it is
// not over. code is the call's status, reason as AttemptStats has it.
func (o *Origin) End(b *h2.Batch, reset frame.Code, code codes.Code, reason string) {
	stage := o.stage
	o.stage = originDone
	switch stage {
	case originQueued:
		o.ep.forget(o)
	case originOpen:
		o.up.Reset(b, reset)
	case originDone:
		return
	}
	if o.ep != nil {
		o.leave(stage == originOpen, code, reason)
	}
}

// Endpoint returns where the call is or was; nil before.
func (o *Origin) Endpoint() *Endpoint { return o.ep }

// Peer returns the upstream's address and TLS connection, or nil before there is a stream, and without TLS.
func (o *Origin) Peer() (local, remote net.Addr, state *tls.ConnectionState) {
	if o.up == nil || o.up.Conn() == nil {
		return nil, nil, nil
	}
	nc := o.up.Conn().NetConn()
	return nc.LocalAddr(), nc.RemoteAddr(), o.up.Conn().TLS()
}

// call returns what the backend's functions see of the origin, or nil if there are none.
func (o *Origin) call() *Call {
	b := o.Backend
	if o.seen == nil && (b.Choose != nil || b.Pick != nil || b.AttemptEnded != nil) {
		o.seen = &Call{dc: originConn, start: time.Now(), path: o.Path, host: o.Authority, content: usualContent}
		o.seen.slash, _ = splitPath(o.Path)
	}
	return o.seen
}

// originConn is the client's connection of calls that have none.
var originConn = &downConn{}

func (o *Origin) leave(opened bool, code codes.Code, reason string) {
	o.ep.inFlight.Add(-1)
	o.attemptEnded(opened, code, reason)
}

func (o *Origin) attemptEnded(opened bool, code codes.Code, reason string) {
	if h := o.Backend.AttemptEnded; h != nil {
		h(o.call(), AttemptStats{Endpoint: o.ep, Opened: opened, Code: code, Reason: reason})
	}
}

var _ seeker = (*Origin)(nil)

func (o *Origin) lock() *sync.Mutex { return &o.mu }

func (o *Origin) queued() { o.stage = originQueued }

func (o *Origin) waitsFor(e *Endpoint) bool { return o.stage == originQueued && o.ep == e }

func (o *Origin) reroute(b *h2.Batch) {
	reason, opened := ReasonConnect, o.stage == originOpen
	if opened {
		reason = ReasonUnprocessed
	}
	o.stage = originIdle
	o.leave(opened, codes.Unavailable, reason)
	o.ep = nil
	o.Connect(b)
}

// open opens the origin's stream on uc.
func (o *Origin) open(uc *upConn, b *h2.Batch) error {
	a := &o.first
	if o.attempts > 0 {
		a = new(attempt)
	}
	a.origin, a.Owner = o, a
	var array [24]hpack.Field
	fields, end := o.Events.Request(array[:0], uc.scheme, uc.ep, b.Now())
	if err := uc.h2.Open(b, &a.Stream, fields, end); err != nil {
		return err
	}
	o.attempts++
	o.up, o.stage = a, originOpen
	o.Events.Opened(b)
	return nil
}

// current takes the lock, and reports whether a is what the origin waits for.
func (o *Origin) current(a *attempt) bool {
	o.mu.Lock()
	return o.up == a && o.stage == originOpen
}

func (o *Origin) headers(a *attempt, b *h2.Batch, head h2.Head) {
	defer o.mu.Unlock()
	if o.current(a) {
		o.Events.Headers(b, head)
	}
}

func (o *Origin) data(a *attempt, b *h2.Batch, p []byte, end bool) (passed int) {
	defer o.mu.Unlock()
	if !o.current(a) {
		return len(p)
	}
	return o.Events.Data(b, p, end)
}

func (o *Origin) credit(a *attempt, b *h2.Batch, n int) {
	defer o.mu.Unlock()
	if o.current(a) {
		o.Events.Credit(b, n)
	}
}

func (o *Origin) lost(a *attempt, b *h2.Batch, e h2.End) {
	defer o.mu.Unlock()
	if !o.current(a) {
		return
	}
	if e.Unprocessed && o.attempts < maxAttempts && o.Events.Again() {
		o.reroute(b)
		return
	}
	o.Events.Lost(b, e)
}

// Secure reports whether the connections use TLS.
func (e *Endpoint) Secure() bool { return e.cfg.TLS != nil }

// Authority returns the :authority of calls that have none of their own: the configuration's, or the address.
func (e *Endpoint) Authority() string {
	if e.cfg.Authority != "" {
		return e.cfg.Authority
	}
	if strings.HasPrefix(e.addr, "unix:") {
		return "localhost" // as grpc-go has it
	}
	return e.addr
}
