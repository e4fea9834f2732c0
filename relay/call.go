// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package relay

import (
	"context"
	"crypto/tls"
	"iter"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/manifold-grpc/manifold/internal/h2"
	"github.com/manifold-grpc/manifold/internal/h2/hpack"
)

// A Call is one gRPC call on its way through the relay: a stream of a client's
// connection joined to one of an endpoint's. The exported methods are for Route functions, and what
// they start: any goroutine may call them, while the Set, Add and Del methods are only allowed before Forward.
// A call that is decided before Route returns must not be used after that, save by [Hooks]: its memory is
// used again for other calls. One that is decided later may be kept.
type Call struct {
	// Immutable once routed.
	srv     *Server
	dc      *downConn
	start   time.Time
	host    string
	path    string
	slash   int           // in path, between service and method; 0: it is not canonical
	content string        // the request's content-type
	timeout time.Duration // grpc-timeout; 0: none

	down h2.Stream
	link link     // guarded by the list's mu
	fan  *fanCall // of a call to many targets; nil until it starts, else set for good

	mu sync.Mutex
	// Guarded by mu.
	stage     stage
	routed    bool // Route returned; a decision is carried out by who makes it
	mayReuse  bool // nobody but the relay has seen the call since Route returned
	responded bool // the response's header block was sent
	pushback  bool // a failure tells the caller not to retry at once
	reqEnd    bool // END_STREAM of the request arrived
	decision  decision
	ep        *Endpoint
	up        *attempt // the current one; nil before the first
	first     attempt
	mirror    *mirror // nil: none, or it is over for the call
	released  int32   // of its two streams, those that their connections let go of
	retries   int32   // attempts that Backend.Retry asked for
	attempts  int
	code      codes.Code
	maxMsg    uint32
	reason    string
	pausing   *time.Timer // of stagePausing
	deadline  *time.Timer
	stopped   *time.Timer   // of an earlier call in this memory, for the next to set; else nil
	idle      time.Duration // see SetIdleTimeout; 0: for ever
	active    time.Duration // since start, when something moved, while idle is set
	ctx       *callContext  // nil while nobody asked
	reopened  time.Duration // since start, when the second or a later attempt was opened; 0: none was
	answered  time.Duration // to the response; see Hooks.FirstResponse
	tag       any
	changes   *HeaderChanges // of the response; nil: none

	req      []hpack.Field // the request's fields, as they will be sent
	known    *knownRequest // whose req is; nil: the call's own
	own      *fieldArray   // what req is in unless it is known, or has outgrown it; nil: not needed
	few      *fewFields    // the same, for fewer fields
	reqCount messageCounter
	resCount messageCounter

	replay   replay
	unpassed int        // octets of replay that are not granted to the client again
	next     *Call      // in a list of memory for calls
	lead     *h2.Joined // what came with the request's header block and was counted, while an endpoint is looked for; else nil
}

// An attempt is one stream to an upstream on behalf of a call.
type attempt struct {
	h2.Stream
	call   *Call
	target *fanTarget // of a fanned-out call; else nil
	mirror *mirror    // whose stream it is, without a call; else nil
	origin *Origin    // whose stream it is, without a call; else nil
	skip   int        // octets of its queue that the client was granted before; guarded by call.mu
}

// callContext is what [Call.Context] returns, and what ends it.
type callContext struct {
	context.Context
	cancel context.CancelFunc
}

// stage is how far a call is.
type stage uint8

const (
	stageRouting stage = iota // Route has not decided
	stageWaiting              // in an endpoint's queue
	stagePausing              // until the next attempt
	stageOpen                 // joined to an upstream's stream
	stageDone                 // over; what was sent may still be on its way
)

// decision is what a Route function decided.
type decision struct {
	made    bool
	backend *Backend
	fan     *FanOut
	targets []Target // of fan
	status  *status.Status
	reason  string
}

// Host returns the :authority, or the host field where it is missing.
func (c *Call) Host() string { return c.host }

// Path returns the canonical path, "/service/method".
func (c *Call) Path() string { return c.path }

// Service returns the service's full name.
func (c *Call) Service() string {
	if c.slash == 0 {
		return ""
	}
	return c.path[1:c.slash]
}

// Method returns the method's name.
func (c *Call) Method() string {
	if c.slash == 0 {
		return ""
	}
	return c.path[c.slash+1:]
}

// ContentType returns the request's content-type.
func (c *Call) ContentType() string { return c.content }

// Start returns when the request's header block arrived.
func (c *Call) Start() time.Time { return c.start }

// Timeout returns the caller's grpc-timeout; ok is false without one.
func (c *Call) Timeout() (d time.Duration, ok bool) { return c.timeout, c.timeout > 0 }

// RemoteAddr returns the client's address, as [Server.Preamble] has it.
func (c *Call) RemoteAddr() net.Addr { return c.dc.remote }

// Client returns the client's address as text, empty if it is not known. It is made once for a connection.
func (c *Call) Client() string { return c.dc.client() }

// TLS returns the client's TLS connection, or nil without TLS.
func (c *Call) TLS() *tls.ConnectionState { return c.dc.tls }

// Header returns the first value of a request field, by its name in lower case.
// Binary values ("-bin") come as on the wire, in base64.
func (c *Call) Header(name string) (value string, ok bool) {
	for i := range c.req {
		if c.req[i].Name == name {
			return c.req[i].Value, true
		}
	}
	return "", false
}

// Headers returns all request fields in their order, pseudo-header fields included.
func (c *Call) Headers() iter.Seq2[string, string] {
	return func(yield func(string, string) bool) {
		for i := range c.req {
			if !yield(c.req[i].Name, c.req[i].Value) {
				return
			}
		}
	}
}

// SetHeader sets a request field, by its name in lower case; ":authority" as well.
func (c *Call) SetHeader(name, value string) { c.change(fieldChange{setHeader, name, value}) }

// AddHeader adds a request field, by its name in lower case, after those that are there.
func (c *Call) AddHeader(name, value string) { c.change(fieldChange{addHeader, name, value}) }

// DelHeader removes all request fields of the name in lower case.
func (c *Call) DelHeader(name string) { c.change(fieldChange{delHeader, name, ""}) }

// SetMaxRequestMessage bounds each message of this call's request, in octets; 0 means no bound.
func (c *Call) SetMaxRequestMessage(n uint32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.maxMsg = n
}

// SetTag keeps v with the call, for [Hooks]: the Route function's way to say what it
// made of the call. Route may call it before it decides; hooks may not. A pointer costs no allocation.
func (c *Call) SetTag(v any) {
	c.mu.Lock() // the call may end, by its deadline, while it is routed
	defer c.mu.Unlock()
	c.tag = v
}

// Tag returns what SetTag was given, else nil. It is for [Hooks], and for who called SetTag.
func (c *Call) Tag() any { return c.tag }

// Backend returns the backend that the call was forwarded to, or nil. It is for [Hooks].
func (c *Call) Backend() *Backend { return c.decision.backend }

// Context returns a context that ends with the call, for whatever a Route
// function starts. It has the caller's deadline, and no values.
func (c *Call) Context() context.Context {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ctx == nil {
		c.mayReuse = false
		c.ctx = new(callContext)
		if c.timeout > 0 {
			c.ctx.Context, c.ctx.cancel = context.WithDeadline(context.Background(), c.start.Add(c.timeout))
		} else {
			c.ctx.Context, c.ctx.cancel = context.WithCancel(context.Background())
		}
		if c.stage == stageDone {
			c.ctx.cancel()
		}
	}
	return c.ctx.Context
}

// Forward sends the call to b. It returns false, and does nothing, if the call is decided
// already or over.
func (c *Call) Forward(b *Backend) bool { return c.decide(decision{backend: b}) }

// Reject answers the call with st, which is sent as it is. reason goes to [CallStats]; empty means [ReasonRejected]. A nil or OK
// status is answered as Unknown. It returns false, and does nothing, if the call is decided already or over.
func (c *Call) Reject(st *status.Status, reason string) bool {
	if st.Code() == codes.OK {
		st = status.New(codes.Unknown, "relay: rejected without a status")
	}
	return c.decide(decision{status: st, reason: or(reason, ReasonRejected)})
}

func (c *Call) decide(d decision) bool {
	c.mu.Lock()
	if c.decision.made || c.stage == stageDone {
		c.mu.Unlock()
		return false
	}
	c.decision, c.decision.made = d, true
	late := c.routed
	c.mu.Unlock()
	if late {
		c.actLate()
	}
	return true
}

// actLate carries out a decision that was made after Route returned.
func (c *Call) actLate() {
	var b h2.Batch
	c.mu.Lock()
	if c.stage == stageRouting {
		c.act(&b)
	}
	c.mu.Unlock()
	b.Flush()
}

// act carries out the decision. mu is held.
func (c *Call) act(b *h2.Batch) {
	if c.decision.fan != nil {
		c.startFan(b)
		return
	}
	if c.decision.backend == nil {
		c.fail(b, c.decision.status, c.decision.reason)
		return
	}
	if c.mirror != nil {
		c.startMirror(b) // first, while all of the request is kept
	}
	c.connect(b)
}

// stats returns what CallEnded gets. mu is held.
func (c *Call) stats(now time.Time) CallStats {
	if !now.After(c.start) {
		now = time.Now() // it ended as it began, with the same batch
	}
	s := CallStats{
		Start: c.start, Duration: now.Sub(c.start), Code: c.code, Reason: c.reason, Attempts: c.attempts,
		RequestMessages: c.reqCount.messages, RequestBytes: c.reqCount.bytes,
		ResponseMessages: c.resCount.messages, ResponseBytes: c.resCount.bytes,
		FirstResponse: c.answered, LastAttempt: c.attemptStart(),
	}
	if c.ep != nil {
		s.Endpoint = c.ep.addr
	}
	if h := &c.srv.Hooks; c.fan != nil && (h.CallEnded != nil || h.CallProgress != nil) {
		s.Targets, s.Attempts = c.fan.stats()
	}
	return s
}
