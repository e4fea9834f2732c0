// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package relay

import (
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/manifold-grpc/manifold/fanout"
	"github.com/manifold-grpc/manifold/internal/h2"
	"github.com/manifold-grpc/manifold/internal/h2/frame"
	"github.com/manifold-grpc/manifold/internal/h2/hpack"
)

// A fanCall is what a call has besides when it is fanned out. All of it, its targets included, is guarded
// by the call's lock; whoever calls a method holds it.
type fanCall struct {
	c       *Call
	cfg     *FanOut
	targets []fanTarget // does not change: streams lie in it
	names   []string
	verdict *fanout.Call
	started int // targets that had their turn; hedging starts few
	live    int // targets whose end the verdict has not heard
	opened  int // streams opened, all attempts

	// Requests.
	granted  int64 // octets that the client was granted again
	unopened int   // live targets without a stream: they need the replay buffer
	replayed int   // octets of it that are reserved in the server's budget

	// Answers.
	waiting  int                                   // octets that wait for the client
	held     int                                   // octets of all targets that wait here, reserved in the server's budget
	due      int                                   // targets whose header fields may still come
	arrivals int                                   // targets that had an answer to be joined
	merge    Merger                                // nil: none
	turn     int                                   // the target that may send first when the client has room again
	order    *fanout.Merge[string, orderedMessage] // nil: messages of a stream go out as they come

	// Timer; the call's own is used for all that has a time.
	armed    time.Time // when it fires; zero: not
	reserve  time.Time // when targets must have ended; zero: no matter
	settle   time.Time // when a doomed call ends; zero: it is not doomed
	hedge    time.Time // when the next target starts; zero: no matter
	reserved bool      // reserve has come

	// Targets that go on although the call is over.
	loose        int
	looseUntil   time.Time
	looseTimer   *time.Timer
	looseRequest []byte // for those that wait for a stream, reserved in the server's budget; nil: an empty one
}

var fanPool = sync.Pool{New: func() any { return new(fanCall) }}

// newFan returns the memory of a fanned-out call with n targets.
func newFan(n int) *fanCall {
	f := fanPool.Get().(*fanCall)
	if cap(f.targets) < n {
		f.targets = make([]fanTarget, n)
	}
	f.targets = f.targets[:n]
	return f
}

// recycle gives the memory back: nothing refers to it.
func (f *fanCall) recycle() {
	for i := range f.targets {
		f.targets[i].recycle()
	}
	clear(f.names)
	*f = fanCall{targets: f.targets[:0], names: f.names[:0]}
	fanPool.Put(f)
}

// startFan carries out the decision to fan out. mu is held.
func (c *Call) startFan(b *h2.Batch) {
	d := &c.decision
	if limit := or(d.fan.Limits.Targets, fanout.DefaultMaxTargets); len(d.targets) > limit {
		c.fail(b, failure(codes.ResourceExhausted, ReasonFanLimit,
			fmt.Sprintf("call to %d targets, at most %d allowed", len(d.targets), limit)), ReasonFanLimit)
		return
	}
	f := newFan(len(d.targets))
	f.c, f.cfg = c, d.fan
	for i := range d.targets {
		f.names = append(f.names, d.targets[i].Name)
		f.targets[i].init(f, i)
	}
	verdict, err := fanout.NewCall(d.fan.Policy, d.fan.CodeRule, f.names)
	if err != nil {
		c.fail(b, status.Convert(err), ReasonFanOut)
		return
	}
	f.verdict = verdict
	if err := f.initMerger(); err != nil {
		c.fail(b, status.Convert(err), ReasonHook)
		return
	}
	f.initOrder()
	f.live, f.due, f.unopened = len(f.targets), len(f.targets), len(f.targets)
	c.fan, c.stage = f, stageOpen
	c.askIdentity()
	f.start(b)
}

// start opens the streams of the first targets.
func (f *fanCall) start(b *h2.Batch) {
	c := f.c
	if r := f.cfg.reserve(c.timeout); r > 0 {
		f.reserve = c.start.Add(c.timeout - r)
	}
	n := len(f.targets)
	if h := f.cfg.Hedge; h > 0 && h < n {
		n = h
		f.hedge = time.Now().Add(or(f.cfg.HedgeDelay, defaultHedgeDelay))
	}
	for f.started < n && f.running() {
		f.startNext(b)
	}
	if f.running() {
		f.grantNow(b)
		f.arm(time.Now())
	}
}

// spent returns how old the call is. What b brings may have been read before the call began.
func (f *fanCall) spent(b *h2.Batch) time.Duration { return max(0, b.Now().Sub(f.c.start)) }

// running reports whether the call goes on.
func (f *fanCall) running() bool { return f.c.stage == stageOpen }

// startNext gives the next target its turn.
func (f *fanCall) startNext(b *h2.Batch) {
	for f.started < len(f.targets) {
		t := &f.targets[f.started]
		f.started++
		if t.stage == targetIdle { // else it has failed before its turn
			t.connect(b)
			return
		}
	}
}

// decided acts on what the verdict says after the end of a target.
func (f *fanCall) decided(b *h2.Batch, d fanout.Decision, failed bool) {
	switch {
	case d.State == fanout.Pending:
		if failed || f.live == len(f.targets)-f.started {
			f.more(b)
		}
	case d.Final:
		f.conclude(b)
	case f.settle.IsZero():
		now := time.Now()
		f.settle = now.Add(min(max(now.Sub(f.c.start), minSettleTime), maxSettleTime))
		f.arm(now)
	}
}

// A call goes on for a while after it is doomed, if other targets have not ended by then: for as long as
// it took until then, within these bounds. Targets often fail together and for different reasons, and
// the status shall not depend on whose failure comes first.
const (
	minSettleTime = 100 * time.Millisecond
	maxSettleTime = 500 * time.Millisecond
)

// more starts a target that has not had its turn, where the end of another leaves the call undecided.
func (f *fanCall) more(b *h2.Batch) {
	if f.cfg.Hedge > 0 && f.started < len(f.targets) {
		f.hedge = time.Now().Add(or(f.cfg.HedgeDelay, defaultHedgeDelay))
		f.startNext(b)
		if f.running() {
			f.arm(time.Now())
		}
	}
}

// conclude ends the call by the verdict. Targets that still run are cancelled.
func (f *fanCall) conclude(b *h2.Batch) {
	if !f.running() {
		return
	}
	if f.verdict.Decision().State == fanout.Met {
		f.letGoOn(b)
	}
	f.cancelAll(b)
	if !f.tellCancelled(b) {
		return
	}
	c := f.c
	st := f.verdict.Status()
	if st.Code() != codes.OK {
		c.fail(b, st, f.reason())
		return
	}
	if !f.cfg.streams() && !f.sendJoined(b) {
		return
	}
	if !f.drainOrdered(b) || !f.mergeEnd(b) {
		return
	}
	f.sendHead(b)
	c.down.SendLast(b, f.trailers(okFields))
	c.finish(b, codes.OK, "")
}

// okFields are the trailers of a call that succeeded.
var okFields = []hpack.Field{{Name: "grpc-status", Value: "0"}}

// reason is why the call failed: nothing of the relay's if one target alone made the status.
func (f *fanCall) reason() string {
	if len(f.targets) == 1 {
		return f.targets[0].reason
	}
	return ReasonFanOut
}

// cancelAll ends the part of all targets that still run.
func (f *fanCall) cancelAll(b *h2.Batch) {
	for i := range f.targets {
		t := &f.targets[i]
		if t.stage >= targetEnded {
			continue
		}
		t.leave(b, frame.Cancel, codes.Canceled, ReasonCanceled)
		t.cancelled()
		t.stage = targetEnded
	}
}

// cancelled notes that the call goes on without t.
func (t *fanTarget) cancelled() {
	t.phase, t.status = phaseCanceled, nil
	t.total = time.Since(t.f.c.start)
	t.f.live--
	t.f.verdict.End(t.index, fanout.End{Cancelled: true})
}

// close is told that the call is over, with code: it gives back what was reserved.
func (f *fanCall) close(b *h2.Batch, code codes.Code) {
	f.c.srv.budget.Release(int64(f.held + f.replayed))
	f.held, f.replayed, f.order = 0, 0, nil
	if f.loose > 0 {
		f.closeLoose(b, code)
	}
}

// hold reserves memory for n octets of t's answer. If it returns false, t has failed or the call is over.
func (f *fanCall) hold(b *h2.Batch, t *fanTarget, n int) bool {
	merged := or(f.cfg.Limits.MergedBytes, defaultMergedBytes)
	switch {
	case !f.cfg.streams() && t.held+n > or(f.cfg.Limits.TargetBytes, defaultTargetBytes):
		t.fail(b, phaseReceive, codes.ResourceExhausted, ReasonFanLimit,
			fmt.Sprintf("answer exceeds the limit of %d bytes for one target (TargetBytes)", or(f.cfg.Limits.TargetBytes, defaultTargetBytes)))
		return false
	case f.held+n > merged:
		f.cancelAll(b)
		f.c.fail(b, failure(codes.ResourceExhausted, ReasonFanLimit,
			fmt.Sprintf("answers of all targets exceed the limit of %d bytes (MergedBytes)", merged)), ReasonFanLimit)
		return false
	case !f.c.srv.budget.Reserve(int64(n)):
		f.cancelAll(b)
		f.c.fail(b, failure(codes.ResourceExhausted, ReasonBufferBudget, "answers that wait exceed the memory for slow clients"), ReasonBufferBudget)
		return false
	}
	t.held += n
	f.held += n
	return true
}

// unhold gives n octets of t back.
func (f *fanCall) unhold(t *fanTarget, n int) {
	t.held -= n
	f.held -= n
	f.c.srv.budget.Release(int64(n))
}

// streams reports whether messages go to the client as they come.
func (f *FanOut) streams() bool { return f.Streaming || f.Envelope || f.Merger != nil }

// wraps reports whether answers come in envelopes.
func (f *FanOut) wraps() bool { return f.Envelope && f.Merger == nil }
