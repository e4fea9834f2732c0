// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package relay

import (
	"errors"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/manifold-grpc/manifold/internal/h2"
	"github.com/manifold-grpc/manifold/internal/h2/frame"
	"github.com/manifold-grpc/manifold/internal/h2/hpack"
)

// upConn is a connection to an endpoint.
type upConn struct {
	ep      *Endpoint
	h2      *h2.Conn
	scheme  string
	scratch []hpack.Field // owned by the read loop
	readyAt time.Time     // guarded by ep.mu: when SETTINGS arrived; zero: not yet
	silent  bool          // guarded by ep.mu: a PING is not answered
	served  atomic.Bool   // a response arrived
	ticker  *time.Timer   // owned by tick
}

var _ h2.RunEvents = (*upConn)(nil)

// NewStream is for servers; a client's connection refuses pushed streams by protocol.
func (u *upConn) NewStream(*h2.Conn) *h2.Stream { return nil }

// current returns the call of s with its lock held, or nil if s is not what the call waits for any more.
func current(s *h2.Stream) *Call {
	a := s.Owner.(*attempt)
	c := a.call
	c.mu.Lock()
	if c.up != a || c.stage != stageOpen {
		c.mu.Unlock()
		return nil
	}
	return c
}

// Headers takes a response's header block, or its trailers.
func (u *upConn) Headers(s *h2.Stream, b *h2.Batch, head h2.Head) {
	if !u.served.Load() {
		u.served.Store(true)
	}
	switch a := s.Owner.(*attempt); {
	case a.target != nil:
		a.target.headers(a, b, head)
		return
	case a.mirror != nil:
		a.mirror.headers(b, head)
		return
	case a.origin != nil:
		a.origin.headers(a, b, head)
		return
	}
	c := current(s)
	if c == nil {
		return
	}
	defer c.mu.Unlock()
	c.moved(b)
	switch {
	case head.TooLarge != nil:
		c.abort(b, codes.ResourceExhausted, ReasonUpstreamHeaders, "response headers: "+head.TooLarge.Error())
	case !c.responded && c.joined(b, &head):
	case !c.responded:
		c.response(b, head, &u.scratch)
	default:
		c.trailers(b, head, &u.scratch)
	}
}

// Data takes octets of a response.
func (u *upConn) Data(s *h2.Stream, b *h2.Batch, p []byte, end bool) int {
	switch a := s.Owner.(*attempt); {
	case a.target != nil:
		return a.target.data(a, b, p, end)
	case a.mirror != nil:
		a.mirror.data(b, end)
		return len(p)
	case a.origin != nil:
		return a.origin.data(a, b, p, end)
	}
	c := current(s)
	if c == nil {
		return len(p)
	}
	defer c.mu.Unlock()
	return c.responseData(b, p, end)
}

// Run takes octets of a response that came in several frames.
func (u *upConn) Run(s *h2.Stream, b *h2.Batch, r h2.Run) (passed int) {
	if a := s.Owner.(*attempt); a.call == nil || a.target != nil {
		for p := range r.All() {
			passed += u.Data(s, b, p, false)
		}
		return passed
	}
	c := current(s)
	if c == nil {
		return r.Len()
	}
	defer c.mu.Unlock()
	return c.responseRun(b, r)
}

// End is told when the upstream resets a stream, or its connection is lost.
func (u *upConn) End(s *h2.Stream, b *h2.Batch, e h2.End) {
	switch a := s.Owner.(*attempt); {
	case a.target != nil:
		a.target.lost(a, b, e)
		return
	case a.mirror != nil:
		a.mirror.lost(e)
		return
	case a.origin != nil:
		a.origin.lost(a, b, e)
		return
	}
	if c := current(s); c != nil {
		defer c.mu.Unlock()
		c.upstreamEnd(b, e)
	}
}

// Credit is told when request octets left that the upstream had no room for.
func (u *upConn) Credit(s *h2.Stream, b *h2.Batch, n int) {
	a := s.Owner.(*attempt)
	switch {
	case a.target != nil:
		a.target.credit(a, b, n)
		return
	case a.mirror != nil:
		a.mirror.credit(n)
		return
	case a.origin != nil:
		a.origin.credit(a, b, n)
		return
	}
	a.call.mu.Lock()
	a.call.moved(b)
	skip := min(a.skip, n)
	a.skip -= skip
	a.call.mu.Unlock()
	if n > skip {
		a.call.down.Consumed(b, n-skip)
	}
}

// Released is told when the connection has let go of a stream.
func (u *upConn) Released(s *h2.Stream) {
	if c := s.Owner.(*attempt).call; c != nil && c.letGo() { // a mirror and an origin have none, and their memory is nobody's
		pool := &c.srv.calls
		pool.Put(c.empty())
	}
}

// Turned is told after each turn of input; it holds nothing.
func (u *upConn) Turned() {}

// Free is told when a stream can be opened again while calls wait.
func (u *upConn) Free(_ *h2.Conn, b *h2.Batch) { u.ep.serveWaiting(b) }

// Ready is told when the upstream's SETTINGS arrived.
func (u *upConn) Ready(_ *h2.Conn, b *h2.Batch) { u.ep.connReady(u, b) }

// GoAway is told when the upstream takes no new streams.
func (u *upConn) GoAway(_ *h2.Conn, b *h2.Batch, _ frame.Code) {
	u.ep.connRetired(u)
	u.h2.Drain(b)
}

// tick has the connection look at the clock once a second until it ends.
func (u *upConn) tick() {
	select {
	case <-u.h2.Done():
		return
	default:
	}
	now := time.Now()
	u.h2.Tick(now)
	u.ep.listen(u, u.h2.Unanswered(now) >= silence)
	u.ticker.Reset(tickInterval)
}

func asError(err error, target **frame.Error) bool { return errors.As(err, target) }
