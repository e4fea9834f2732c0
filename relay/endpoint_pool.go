// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package relay

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/manifold-grpc/manifold/internal/h2"
)

// submission is what became of a call offered to an endpoint.
type submission int

const (
	submitOpened submission = iota // its stream is open
	submitQueued                   // it waits for a connection or a stream
	submitFull                     // too many wait
	submitGone                     // the endpoint closed, or failed just now
)

// A seeker wants a stream of an endpoint: a call, a target of a fanned-out one, or an origin. The
// call's lock is held whenever a method is called, but for lock.
type seeker interface {
	opener
	// lock returns the call's lock.
	lock() *sync.Mutex
	// goTo notes the endpoint that it is about to be offered to, or says why it must not be; nil is none.
	goTo(e *Endpoint) *Refusal
	// attemptEnded tells the backend of the end of the attempt at that endpoint.
	attemptEnded(opened bool, code codes.Code, reason string)
	// queued notes that it waits in the endpoint's queue.
	queued()
	// waitsFor reports whether it still waits in the endpoint's queue.
	waitsFor(e *Endpoint) bool
	// reroute has it go elsewhere, or fail, since the endpoint will not serve it.
	reroute(b *h2.Batch)
}

// An opener opens a stream on a connection. The error is one of h2.Conn.Open. The call's lock is held.
type opener interface {
	open(u *upConn, b *h2.Batch) error
}

// submit opens a stream for c, or has it wait for one. The lock of c's call is held.
func (e *Endpoint) submit(c seeker, b *h2.Batch) submission {
	if conns := e.offered.Load(); conns != nil && e.openOn(*conns, c, b) {
		e.inFlight.Add(1)
		return submitOpened
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.enqueue(c, b)
}

// setConns replaces the list of connections. mu is held.
func (e *Endpoint) setConns(conns []*upConn) {
	e.conns, e.offers = conns, &conns
	e.offer()
}

// offer has submit know of the connections, without a lock, unless calls wait for one. It follows each change of conns, waiting
// and serving. mu is held.
func (e *Endpoint) offer() {
	if len(e.waiting) > 0 || e.serving {
		e.offered.Store(nil)
	} else {
		e.offered.Store(e.offers)
	}
}

// openOn opens a stream for c on one of conns, each in its turn first. The lock of c's call is held, mu is not.
func (e *Endpoint) openOn(conns []*upConn, c opener, b *h2.Batch) bool {
	start := 0
	if len(conns) > 1 {
		start = int(e.turn.Add(1) % uint32(len(conns)))
	}
	for i := range conns {
		u := conns[(start+i)%len(conns)]
		switch err := c.open(u, b); err {
		case nil:
			return true
		case h2.ErrGone:
			// Closing, or out of identifiers: its streams go on, and it is replaced.
			e.connRetired(u)
			u.h2.Drain(b)
		}
	}
	return false
}

// enqueue has c wait. mu and the lock of c's call are held.
func (e *Endpoint) enqueue(c seeker, b *h2.Batch) submission {
	if e.hopeless() {
		return submitGone
	}
	if len(e.waiting) >= e.cfg.MaxWaiting {
		return submitFull
	}
	e.waiting = append(e.waiting, c)
	e.offer()
	e.inFlight.Add(1)
	c.queued()
	e.growLocked()
	for _, u := range e.conns {
		u.h2.NotifyFree(b)
	}
	return submitQueued
}

// growLocked starts a further connection for calls that wait, where those that are there have no
// room. mu is held.
func (e *Endpoint) growLocked() {
	if e.dialing > 0 || len(e.conns) >= e.cfg.MaxConnections || time.Now().Before(e.pause) {
		return
	}
	for _, u := range e.conns {
		if _, room := u.h2.Load(); room > 0 {
			return // made since the call was refused: NotifyFree finds it
		}
	}
	e.dialLocked()
}

// forget takes c out of the queue. The lock of c's call is held.
func (e *Endpoint) forget(c seeker) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if i := slices.Index(e.waiting, c); i >= 0 {
		e.waiting = slices.Delete(e.waiting, i, i+1)
		e.offer()
	}
}

// next takes the first seeker from the queue, with a snapshot of the connections.
func (e *Endpoint) next() (seeker, []*upConn) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.waiting) == 0 || len(e.conns) == 0 || e.serving {
		return nil, nil // who serves one goes on with the next, or has itself notified
	}
	e.serving = true
	c := e.waiting[0]
	e.waiting[0] = nil
	e.waiting = e.waiting[1:]
	e.offer()
	return c, e.conns
}

// serveWaiting opens streams for calls that wait, in their order, while there is room. No lock is held.
func (e *Endpoint) serveWaiting(b *h2.Batch) {
	for {
		c, conns := e.next()
		if c == nil {
			return
		}
		if !e.openWaiting(c, conns, b) {
			return
		}
	}
}

// openWaiting opens a stream for a seeker from the queue, or puts it back and returns false.
func (e *Endpoint) openWaiting(c seeker, conns []*upConn, b *h2.Batch) bool {
	mu := c.lock()
	mu.Lock()
	defer mu.Unlock()
	if !c.waitsFor(e) || e.openOn(conns, c, b) { // over meanwhile, or served
		e.served()
		return true
	}
	if !e.putBack(c, b) {
		c.reroute(b)
	}
	return false
}

// served ends the turn of the one that was taken from the queue.
func (e *Endpoint) served() {
	e.mu.Lock()
	e.serving = false
	e.offer()
	e.mu.Unlock()
}

// putBack makes c the next in the queue again, unless nobody would serve it. The lock of c's call is held.
func (e *Endpoint) putBack(c seeker, b *h2.Batch) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	defer e.offer()
	e.serving = false
	if e.hopeless() {
		return false
	}
	e.waiting = slices.Insert(e.waiting, 0, c)
	e.growLocked()
	for _, u := range e.conns {
		u.h2.NotifyFree(b)
	}
	return true
}

// hopeless reports whether calls had better go elsewhere. mu is held.
func (e *Endpoint) hopeless() bool { return e.closed || e.retired || len(e.conns) == 0 && e.fails > 0 }

// connReady puts a connection into service.
func (e *Endpoint) connReady(u *upConn, b *h2.Batch) {
	e.mu.Lock()
	u.readyAt = time.Now()
	e.dialing--
	e.fails, e.err = 0, nil
	e.counts.connected.Add(1)
	retired := e.retired
	if !e.closed && !retired {
		e.setConns(append(slices.Clone(e.conns), u)) // others read the old list
	}
	e.setState()
	e.mu.Unlock()
	if retired {
		u.h2.Drain(b)
		return
	}
	e.serveWaiting(b)
}

// connRetired takes a connection out of service; its streams go on.
func (e *Endpoint) connRetired(u *upConn) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.removeLocked(u)
}

// removeLocked takes u from the list, and starts a successor for the last one. mu is held.
func (e *Endpoint) removeLocked(u *upConn) {
	i := slices.Index(e.conns, u)
	if i < 0 {
		return
	}
	e.setConns(slices.Delete(slices.Clone(e.conns), i, i+1))
	if u.served.Load() || time.Since(u.readyAt) >= e.cfg.BackoffBase {
		e.useless = 0
	} else {
		e.useless++
	}
	if len(e.conns) == 0 && e.dialing == 0 {
		// A connection may end at any time, for its age or a deployment. Only an upstream that
		// makes a habit of ending those that served nobody shall not have us dial as fast as it can close.
		if e.useless > 1 {
			e.failed(errShortLived)
		} else {
			e.fails = 0 // those to make a further one, however long ago: calls wait for this one
			e.dialLocked()
		}
	}
	e.setState()
}

// failed notes a failure and has the next attempt follow after a pause. mu is held.
func (e *Endpoint) failed(err error) {
	e.fails++
	e.err = fmt.Errorf("%s: %w", e.addr, err)
	if e.closed || e.retired {
		return
	}
	d := e.backoff()
	e.pause = time.Now().Add(d)
	e.retry = time.AfterFunc(d, e.redial)
}

// connEnded is told when an attempt failed (u is nil, or was not ready) or a
// connection ended.
func (e *Endpoint) connEnded(u *upConn, err error) {
	e.mu.Lock()
	if u != nil && !u.readyAt.IsZero() {
		e.counts.lost.Add(1)
		e.removeLocked(u)
	} else {
		if u != nil {
			err = fmt.Errorf("%w: %w", errNoSettings, err)
		}
		e.dialing--
		e.counts.failed.Add(1)
		e.failed(err)
		e.setState()
	}
	failing := len(e.conns) == 0 && e.fails > 0
	e.mu.Unlock()
	if failing {
		e.moveWaiting()
	}
}

// backoff returns the pause after failures in a row: doubling, with a jitter of a fifth. mu is held.
func (e *Endpoint) backoff() time.Duration {
	n := max(e.fails, e.useless)
	d := min(e.cfg.BackoffBase<<min(n-1, 10), e.cfg.BackoffMax)
	return d - d/5 + rand.N(2*d/5+1)
}

// redial tries again after a pause.
func (e *Endpoint) redial() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.dialing == 0 && (len(e.conns) == 0 || len(e.waiting) > 0 && len(e.conns) < e.cfg.MaxConnections) {
		e.dialLocked()
	}
}

// moveWaiting gives the calls that wait to other endpoints, or has them fail. No lock is held.
func (e *Endpoint) moveWaiting() {
	e.mu.Lock()
	calls := e.waiting
	e.waiting = nil
	e.offer()
	e.mu.Unlock()
	var b h2.Batch
	for _, c := range calls {
		mu := c.lock()
		mu.Lock()
		if c.waitsFor(e) {
			c.reroute(&b)
		}
		mu.Unlock()
	}
	b.Flush()
}
