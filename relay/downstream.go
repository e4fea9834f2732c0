// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package relay

import (
	"crypto/tls"
	"net"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/manifold-grpc/manifold/internal/h2"
	"github.com/manifold-grpc/manifold/internal/h2/frame"
	"github.com/manifold-grpc/manifold/internal/h2/hpack"
)

// downConn is a client's connection.
type downConn struct {
	srv    *Server
	set    *settings
	h2     *h2.Conn
	tls    *tls.ConnectionState   // nil without TLS
	remote net.Addr               // the client
	text   atomic.Pointer[string] // of remote; nil until it is asked for
	// forwarded is what x-forwarded-for gets, empty for nothing.
	forwarded string
	trusted   bool
	calls     callList
	spare     *Call // memory for further calls, during a turn of input; linked by next; owned by the read loop
}

var _ h2.RunEvents = (*downConn)(nil)

// client returns the client's address as text, empty if it is not known.
func (d *downConn) client() string {
	text := d.text.Load()
	if text == nil {
		text = new(string)
		if d.remote != nil {
			*text = d.remote.String()
		}
		d.text.Store(text)
	}
	return *text
}

// NewStream makes a stream's memory: a Call holds both of its streams.
func (d *downConn) NewStream(*h2.Conn) *h2.Stream {
	c := d.spare
	if c == nil {
		c = d.srv.newCall()
	}
	d.spare, c.next = c.next, nil
	c.srv, c.dc, c.maxMsg = d.srv, d, d.set.limits.MaxRequestMessage
	c.down.Owner = c
	return &c.down
}

// Headers takes a request's header block, or its trailers.
func (d *downConn) Headers(s *h2.Stream, b *h2.Batch, head h2.Head) {
	switch o := s.Owner.(type) {
	case *httpStream:
		o.trailers(head)
	case *refusal:
		o.data(b, nil, true)
	case *Call:
		if o.start.IsZero() {
			d.request(o, b, head)
			return
		}
		// gRPC has no request trailers; their END_STREAM counts.
		d.end(o, b)
	}
}

func (d *downConn) end(c *Call, b *h2.Batch) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.requestData(b, nil, true)
}

// Data takes octets of a request.
func (d *downConn) Data(s *h2.Stream, b *h2.Batch, p []byte, end bool) int {
	switch o := s.Owner.(type) {
	case *httpStream:
		return o.data(p, end)
	case *refusal:
		return o.data(b, p, end)
	}
	c := s.Owner.(*Call)
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.requestData(b, p, end)
}

// Run takes octets of a request that came in several frames.
func (d *downConn) Run(s *h2.Stream, b *h2.Batch, r h2.Run) (passed int) {
	c, ok := s.Owner.(*Call)
	if !ok {
		for p := range r.All() {
			passed += d.Data(s, b, p, false)
		}
		return passed
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.requestRun(b, r)
}

// End is told when the client resets a stream, breaks a rule on it, or its connection is lost.
func (d *downConn) End(s *h2.Stream, b *h2.Batch, e h2.End) {
	if x, ok := s.Owner.(*httpStream); ok {
		x.lost()
	}
	c, ok := s.Owner.(*Call)
	if !ok {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stage == stageDone || c.start.IsZero() {
		return // over, or its header block was refused before it became a call
	}
	c.dropUpstream(b, frame.Cancel)
	c.finish(b, codes.Canceled, ReasonCanceled)
}

// Credit is told when response octets left that the client had no room for.
func (d *downConn) Credit(s *h2.Stream, b *h2.Batch, n int) {
	if x, ok := s.Owner.(*httpStream); ok {
		x.credit()
	}
	c, ok := s.Owner.(*Call)
	if !ok {
		return
	}
	c.mu.Lock()
	c.moved(b)
	if c.fan != nil {
		c.fan.clientCredit(b, n)
	}
	up := c.up
	c.mu.Unlock()
	if up != nil {
		up.Consumed(b, n)
	}
}

// Released is told when the connection has let go of a stream.
func (d *downConn) Released(s *h2.Stream) {
	if c, ok := s.Owner.(*Call); ok && c.letGo() {
		c = c.empty()
		c.next, d.spare = d.spare, c
	}
}

// Turned gives back the memory of the turn's calls.
func (d *downConn) Turned() {
	if d.spare != nil {
		d.srv.calls.Put(d.spare)
		d.spare = nil
	}
}

func (d *downConn) Free(*h2.Conn, *h2.Batch)               {}
func (d *downConn) Ready(*h2.Conn, *h2.Batch)              {}
func (d *downConn) GoAway(*h2.Conn, *h2.Batch, frame.Code) {}

// request starts a call from its header block.
func (d *downConn) request(c *Call, b *h2.Batch, head h2.Head) {
	c.start = b.Now()
	c.reqEnd = head.EndStream
	if head.TooLarge != nil {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.content, c.mayReuse = usualContent, true
		c.srv.inFlight.Add(1)
		c.fail(b, failure(codes.ResourceExhausted, ReasonHeadersTooLarge, "request headers: "+head.TooLarge.Error()), ReasonHeadersTooLarge)
		return
	}
	grpc := false
	if head.Known != nil {
		grpc = c.takeKnown(head.Known)
	} else {
		grpc = c.take(head.Fields) == "POST" && isGRPC(c.content)
	}
	if !grpc {
		d.serveHTTP(c, b, head)
		return
	}
	c.route(b, head.Joined)
}

// take copies the request's fields into the call, without those that are not forwarded,
// and notes what routing needs. It returns the :method.
func (c *Call) take(fields []hpack.Field) (method string) {
	c.req = c.ownArray(len(fields))
	for _, f := range fields {
		switch f.Name {
		case ":method":
			method = f.Value
		case ":path":
			c.path = f.Value
		case ":authority":
			c.host = f.Value
		case "host":
			if c.host == "" {
				c.host = f.Value
			}
			continue // becomes :authority
		case "content-type":
			c.content = f.Value
		case "grpc-timeout":
			c.takeTimeout(f.Value)
		case "content-length", "te":
			continue
		default:
			if !c.dc.trusted && forwarding(f.Name) {
				continue
			}
		}
		c.req = append(c.req, f)
	}
	return method
}

// badTimeout marks a grpc-timeout that cannot be read.
const badTimeout = -1

func (c *Call) takeTimeout(s string) {
	d, ok := parseTimeout(s)
	switch {
	case !ok:
		c.timeout = badTimeout
	case c.timeout != badTimeout:
		c.timeout = max(d, 1)
	}
}

// route checks the request and asks the Route function. j is what came with the header block, or nil.
func (c *Call) route(b *h2.Batch, j *h2.Joined) {
	var ok bool
	if r := c.known; r != nil {
		c.slash, ok = r.slash, r.ok
	} else {
		c.slash, ok = splitPath(c.path)
	}
	c.srv.inFlight.Add(1)
	c.follow()
	answered := true
	switch {
	case !ok:
		c.failStock(b, malformedPath)
	case c.timeout == badTimeout:
		c.failStock(b, malformedTimeout)
	case c.srv.overloaded.Load():
		c.failStock(b, shortOfMemory)
	default:
		c.armDeadline()
		c.srv.Route(c)
		c.mu.Lock()
		c.routed = true
		c.mayReuse = c.decision.made && c.ctx == nil
		if c.decision.made && c.stage == stageRouting {
			c.begin(b, j)
		}
		answered = c.stage == stageDone
		if j != nil && !j.Taken {
			j.Passed, j.Taken = c.requestData(b, j.Data, j.End), true
		}
		c.mu.Unlock()
	}
	if answered {
		c.dc.h2.Answered()
	}
}

// begin carries out the decision. What came with the header block, if that is not nil, leaves with it where it can. mu is held.
func (c *Call) begin(b *h2.Batch, j *h2.Joined) {
	if j == nil || c.decision.backend == nil || c.mirror != nil {
		c.act(b)
		return
	}
	j.Taken = true
	c.moved(b)
	if n := c.reqCount.feed(j.Data, c.maxMsg); n > 0 {
		j.Passed = len(j.Data)
		c.tooLarge(b, n)
		return
	}
	c.lead = j
	c.act(b)
	if c.lead != nil {
		c.lead = nil
		j.Passed = c.pass(b, j.Data, j.End)
		return
	}
	c.replay.keepSome(j.Data, int(c.reqCount.left))
}

// armDeadline has the call end with the caller's deadline.
func (c *Call) armDeadline() {
	if c.timeout > 0 {
		c.mu.Lock() // expire may come at once
		defer c.mu.Unlock()
		c.newTimer(c.timeout)
	}
}

// newTimer sets the call's timer for the first time. mu is held.
func (c *Call) newTimer(d time.Duration) {
	if c.stopped == nil {
		c.deadline = time.AfterFunc(d, c.expire)
		return
	}
	c.deadline, c.stopped = c.stopped, nil
	c.deadline.Reset(d)
}

// expire ends the call at its deadline, or when it has been idle for too long.
func (c *Call) expire() {
	var b h2.Batch
	c.mu.Lock()
	switch {
	case c.stage == stageDone:
	case c.fan != nil && !c.fan.atDeadline(&b):
	case c.fan == nil && c.idle > 0 && c.checkIdle(&b):
	default:
		c.dropUpstream(&b, frame.Cancel)
		c.fail(&b, failure(codes.DeadlineExceeded, ReasonDeadline, "deadline exceeded"), ReasonDeadline)
	}
	c.mu.Unlock()
	b.Flush()
}
