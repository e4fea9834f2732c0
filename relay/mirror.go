// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package relay

import (
	"runtime/debug"
	"sync"
	"time"

	"github.com/manifold-grpc/manifold/internal/h2"
	"github.com/manifold-grpc/manifold/internal/h2/flow"
	"github.com/manifold-grpc/manifold/internal/h2/frame"
)

// A mirror is the copy of a call's request that goes to a second backend, whose answer is dropped. The call feeds
// it and knows nothing of what becomes of it: it waits for no connection, holds nothing of the client's credit,
// and is given up where it would need more memory than it may have. It does not refer to the call, which may end before.
type mirror struct {
	backend *Backend
	up      attempt // its stream

	mu sync.Mutex // taken with or without Call.mu, which is never taken with it held
	// Guarded by mu.
	over   bool
	queued int // octets that wait for the backend
	held   int // octets of mirrorBudget: those, and mirrorCost
	grace  *time.Timer
}

// Bounds of mirrors.
const (
	// maxMirrorQueue is how many octets may wait for the backend of one mirror.
	maxMirrorQueue = 256 << 10
	// mirrorCost is what a mirror counts for in mirrorBudget even if nothing waits: its memory and its header block.
	mirrorCost = 4 << 10
	// maxMirrorBacklog is how much a connection may have to write and still take a mirror.
	maxMirrorBacklog = 256 << 10
	// mirrorGrace is how long a mirror may go on after its call.
	mirrorGrace = 10 * time.Second
)

// mirrorBudget bounds what all mirrors of the process hold: far less than [DefaultBuffer], so that calls find room there.
var mirrorBudget = flow.NewBudget(min(16<<20, defaultBuffer(debug.SetMemoryLimit(-1))/8))

// What became of a mirror, for [Backend].MirrorEnded.
const (
	// MirrorAnswered: the backend answered, with whatever status, or reset the stream itself.
	MirrorAnswered = "answered"
	// MirrorDropped: it was not begun, for want of a connection with room for it, or of memory.
	MirrorDropped = "dropped"
	// MirrorBehind: too much of the request waited for the backend.
	MirrorBehind = "behind"
	// MirrorCut: the call was cancelled, ended before its request, or ran out of time; or the grace after it was over.
	MirrorCut = "cut"
	// MirrorLost: the connection was lost.
	MirrorLost = "lost"
)

// Mirror has a copy of the request sent to b too, if the call is sent to a backend by [Call.Forward], before which
// it must be called. What b answers is dropped; nothing that b does or fails to do reaches the call. The
// copy has the same header fields, :authority and grpc-timeout included as they go to the call's own backend, but for those that
// [Hooks].AttemptOpening sets; nothing tells b that it is a copy.
//
// A copy is sent at best effort: only at once, on a connection that is ready and has a fifth of its streams to
// spare; only while no more than 256 KiB of it wait, and 16 MiB of all copies in the process (or an eighth of [DefaultBuffer]);
// it is not tried again. It counts for neither [Endpoint.InFlight] nor [Backend].AttemptEnded. If the call ends with its request complete
// the copy goes on for up to 10 s, or to the call's deadline; otherwise, and when the client cancels the call, it is reset.
func (c *Call) Mirror(b *Backend) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.decision.made || c.stage == stageDone {
		return
	}
	c.mirror = &mirror{backend: b}
}

// startMirror opens the mirror's stream and sends what there is of the request, or drops the mirror. mu is held.
func (c *Call) startMirror(b *h2.Batch) {
	m := c.mirror
	m.mu.Lock()
	defer m.mu.Unlock()
	ep := m.backend.pickMirror(c)
	if ep == nil || !mirrorBudget.Reserve(mirrorCost) {
		m.end(MirrorDropped)
		c.mirror = nil
		return
	}
	m.held = mirrorCost
	if !ep.submitMirror(mirrorOpener{c, m}, b) {
		m.end(MirrorDropped)
		c.mirror = nil
		return
	}
	if len(c.replay.p) > 0 {
		m.send(b, c.replay.p, c.reqEnd)
	}
}

// A mirrorOpener opens a mirror's stream for its call. The locks of both are held.
type mirrorOpener struct {
	c *Call
	m *mirror
}

func (o mirrorOpener) open(u *upConn, b *h2.Batch) error {
	if active, room := u.h2.Load(); room <= active/4 || u.h2.Backlog() >= maxMirrorBacklog {
		return h2.ErrFull // what is left is for calls
	}
	a := &o.m.up
	a.mirror, a.Owner = o.m, a
	return o.c.openOn(u, b, a, o.c.reqEnd && len(o.c.replay.p) == 0)
}

// submitMirror opens a mirror's stream, or has the pool grow for later ones. The locks of the mirror and its call are held.
func (e *Endpoint) submitMirror(o mirrorOpener, b *h2.Batch) bool {
	e.mu.Lock()
	conns := e.conns
	e.mu.Unlock()
	if e.openOn(conns, o, b) {
		return true
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.conns) > 0 && e.dialing == 0 && len(e.conns) < e.cfg.MaxConnections && !time.Now().Before(e.pause) {
		e.dialLocked()
	}
	return false
}

// pickMirror chooses the endpoint of a mirror: nil, if none is ready.
func (b *Backend) pickMirror(c *Call) *Endpoint {
	if b.ChooseMirror != nil {
		return b.ChooseMirror(c)
	}
	if b.Choose != nil {
		return nil
	}
	if e, err := b.roundRobin(); err == nil && e.State() == Ready {
		return e
	}
	return nil
}

// feed sends octets of the request. The call's lock is held.
func (m *mirror) feed(b *h2.Batch, p []byte, end bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.send(b, p, end)
}

// send sends octets of the request, or gives the mirror up. mu is held.
func (m *mirror) send(b *h2.Batch, p []byte, end bool) {
	if m.over || m.up.Conn() == nil {
		return // the latter: not begun, and what comes meanwhile is kept by the call
	}
	// All of p may have to wait: what does not is given back at once.
	if m.queued > 0 && m.queued+len(p) > maxMirrorQueue || !mirrorBudget.Reserve(int64(len(p))) {
		m.reset(b, frame.Cancel, MirrorBehind)
		return
	}
	m.held += len(p)
	passed, err := m.up.Send(b, p, end)
	m.held -= passed
	mirrorBudget.Release(int64(passed))
	m.queued += len(p) - passed
	if err != nil || m.queued > maxMirrorQueue {
		m.reset(b, frame.Cancel, MirrorBehind)
	}
}

// credit is told that octets left that had waited. No lock is held.
func (m *mirror) credit(n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.over {
		return // given back with the rest
	}
	m.queued -= n
	m.held -= n
	mirrorBudget.Release(int64(n))
}

// headers takes a header block of the answer. No lock is held.
func (m *mirror) headers(b *h2.Batch, head h2.Head) {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case head.TooLarge != nil:
		m.reset(b, frame.Cancel, MirrorAnswered)
	case head.EndStream && head.Over:
		m.end(MirrorAnswered)
	case head.EndStream:
		m.reset(b, frame.NoError, MirrorAnswered) // the request has not ended
	}
}

// data takes octets of the answer. No lock is held.
func (m *mirror) data(b *h2.Batch, end bool) {
	if !end {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.reset(b, frame.Cancel, MirrorAnswered)
}

// lost takes the early end of the stream. No lock is held.
func (m *mirror) lost(e h2.End) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if e.Err == nil {
		m.end(MirrorAnswered)
		return
	}
	m.end(MirrorLost)
}

// endMirror lets go of the mirror of a call that ends: it goes on by itself, or is reset. mu is held.
func (c *Call) endMirror(b *h2.Batch, reason string) {
	m := c.mirror
	c.mirror = nil
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.over || m.up.Conn() == nil {
		return // the latter: never begun, the call was not forwarded
	}
	grace := mirrorGrace
	if c.timeout > 0 {
		grace = min(grace, c.timeout-time.Since(c.start))
	}
	if !c.reqEnd || reason == ReasonCanceled || grace <= 0 {
		m.reset(b, frame.Cancel, MirrorCut)
		return
	}
	m.grace = time.AfterFunc(grace, m.expire)
}

// expire ends a mirror whose time is up.
func (m *mirror) expire() {
	var b h2.Batch
	m.mu.Lock()
	m.reset(&b, frame.Cancel, MirrorCut)
	m.mu.Unlock()
	b.Flush()
}

// reset ends the mirror and its stream. mu is held.
func (m *mirror) reset(b *h2.Batch, code frame.Code, result string) {
	if m.over {
		return
	}
	m.up.Reset(b, code) // if it has not ended
	m.end(result)
}

// end gives back what the mirror holds. mu is held.
func (m *mirror) end(result string) {
	if m.over {
		return
	}
	m.over = true
	mirrorBudget.Release(int64(m.held))
	m.held, m.queued = 0, 0
	if m.grace != nil {
		m.grace.Stop()
	}
	if h := m.backend.MirrorEnded; h != nil {
		h(result)
	}
}
