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
	"github.com/manifold-grpc/manifold/fanout/fanoutpb"
	"github.com/manifold-grpc/manifold/internal/h2"
	"github.com/manifold-grpc/manifold/internal/h2/frame"
	"github.com/manifold-grpc/manifold/internal/h2/hpack"
)

// A fanTarget is one target's part in a fanned-out call. It is guarded by the call's lock.
type fanTarget struct {
	f     *fanCall
	index int
	stage targetStage

	ep       *Endpoint
	up       *attempt // the current one; nil before the first
	first    attempt
	attempts int
	since    time.Time // when it had its turn; zero: not yet

	// Requests.
	sent    int64     // octets that left on the current attempt
	stalled time.Time // since when it takes nothing although its queue is full; zero: it does

	// Response.
	responded bool   // its header block came
	merged    bool   // the merger heard of its end
	headed    bool   // header fields of it can come no more
	encoding  string // grpc-encoding
	active    time.Time
	count     messageCounter // its bytes and messages, as they arrive
	in        inbox          // what of the messages waits here
	answer    []byte         // joined messages of a unary method, with their source
	answered  bool           // there is an answer, which may be empty
	arrival   int            // its place among the answers
	held      int            // octets of it in fanCall.held
	key       string         // of its last message, where the call has an order
	header    []hpack.Field  // those to be passed on
	trailer   []hpack.Field
	wrap      *fanout.Envelope // nil: not needed yet

	// End.
	phase    fanoutpb.FanoutPhase
	status   *status.Status // nil: OK
	reason   string         // as CallStats has it
	firstAt  time.Duration
	total    time.Duration
	messages int64 // of the request, by its end
	octets   int64
}

// targetStage is how far a target is.
type targetStage uint8

const (
	targetIdle        targetStage = iota // not begun, or between two endpoints
	targetQueued                         // in an endpoint's queue
	targetOpen                           // has a stream
	targetDraining                       // its stream is over, messages of it wait for the client
	targetEnded                          // the verdict has heard of its end
	targetLoose                          // likewise, and its stream goes on
	targetLooseQueued                    // likewise, and it still waits in an endpoint's queue
)

func (t *fanTarget) init(f *fanCall, index int) { t.f, t.index = f, index }

// recycle empties t but for memory that is worth keeping.
func (t *fanTarget) recycle() {
	clear(t.header)
	clear(t.trailer)
	answer := t.answer[:0]
	if cap(answer) > keepInbox {
		answer = nil
	}
	*t = fanTarget{in: t.in.recycle(), answer: answer, header: t.header[:0], trailer: t.trailer[:0]}
}

// target returns what the call's decision says of t.
func (t *fanTarget) target() *Target { return &t.f.c.decision.targets[t.index] }

var _ seeker = (*fanTarget)(nil)

func (t *fanTarget) lock() *sync.Mutex { return &t.f.c.mu }

func (t *fanTarget) queued() {
	t.stage = targetQueued
	t.f.c.mayReuse = false // who takes it from the queue may come late
}

func (t *fanTarget) waitsFor(e *Endpoint) bool {
	return t.ep == e && (t.stage == targetQueued && t.f.running() || t.stage == targetLooseQueued)
}

func (t *fanTarget) reroute(b *h2.Batch) {
	if t.stage == targetLooseQueued {
		t.looseEnd(b, frame.Cancel, codes.Unavailable, ReasonConnect)
		return
	}
	reason, opened := ReasonConnect, t.stage == targetOpen
	if opened {
		reason = ReasonUnprocessed
	}
	t.stage, t.sent = targetIdle, 0
	t.ep.inFlight.Add(-1)
	t.attemptEnded(opened, codes.Unavailable, reason)
	t.ep = nil
	t.connect(b)
}

// connect picks an endpoint and opens a stream to it, now or when one can be.
func (t *fanTarget) connect(b *h2.Batch) {
	if t.since.IsZero() {
		t.since = b.Now()
	}
	r := seek(t, b, t.target().Backend, t.f.c)
	switch {
	case r == nil:
	case r.Unresolved:
		t.fail(b, phaseResolve, r.Code, r.Reason, r.Message)
	default:
		t.fail(b, phaseConnect, r.Code, r.Reason, r.Message)
	}
}

func (t *fanTarget) goTo(e *Endpoint) *Refusal {
	t.ep = e
	return nil
}

// attemptEnded tells of the end of the attempt at the endpoint.
func (t *fanTarget) attemptEnded(opened bool, code codes.Code, reason string) {
	if h := t.target().Backend.AttemptEnded; h != nil {
		h(t.f.c, AttemptStats{Endpoint: t.ep, Opened: opened, Code: code, Reason: reason})
	}
}

// open opens the target's stream on uc and sends what there is of the request.
func (t *fanTarget) open(uc *upConn, b *h2.Batch) error {
	f, c := t.f, t.f.c
	a := &t.first
	if t.attempts > 0 {
		a = new(attempt)
	}
	a.call, a.target, a.Owner, a.Growth = c, t, a, c.dc.h2.Growth()
	loose, kept := t.stage == targetLooseQueued, len(c.replay.p)
	if loose {
		kept = len(f.looseRequest)
	}
	if h := c.srv.Hooks.TargetOpening; h != nil && !loose { // of a call that has ended nobody is told
		h(c, t.index, t.target(), t.attempts)
	}
	if err := c.openOn(uc, b, a, c.reqEnd && kept == 0); err != nil {
		return err
	}
	waited := t.stage == targetQueued
	t.attempts++
	f.opened++
	t.up = a
	if loose {
		t.sendLoose(b)
		return nil
	}
	f.unopened--
	t.stage, t.sent = targetOpen, 0
	t.touch()
	if kept > 0 {
		t.send(b, c.replay.p, c.reqEnd)
	}
	if waited && f.running() {
		f.arm(time.Now()) // who has its targets start does, for those that need not wait
	}
	return nil
}

// touch notes that the target did something.
func (t *fanTarget) touch() {
	if t.f.cfg.IdleTimeout > 0 {
		t.active = time.Now()
	}
}

// current reports whether a is what t waits for.
func (t *fanTarget) current(a *attempt) bool {
	return t.up == a && t.stage == targetOpen && t.f.running()
}

// headers takes a response's header block, with what came joined to it, or its trailers.
func (t *fanTarget) headers(a *attempt, b *h2.Batch, head h2.Head) {
	c := a.call
	c.mu.Lock()
	defer c.mu.Unlock()
	t.takeHeaders(a, b, head)
	if j := head.Joined; j != nil {
		j.Taken, j.Passed = true, t.takeData(a, b, j.Data, j.End)
		if j.Trailers.Known != nil {
			t.takeHeaders(a, b, j.Trailers)
		}
	}
}

// takeHeaders is headers without what is joined. The call's lock is held.
func (t *fanTarget) takeHeaders(a *attempt, b *h2.Batch, head h2.Head) {
	if !t.current(a) {
		if t.isLoose(a) {
			t.looseHeaders(b, head)
		}
		return
	}
	switch {
	case head.TooLarge != nil:
		t.fail(b, phaseReceive, codes.ResourceExhausted, ReasonUpstreamHeaders, "response headers: "+head.TooLarge.Error())
	case t.responded:
		t.complete(b, head.Fields, &t.trailer)
	default:
		t.response(b, head)
	}
}

// response takes the header block that opens the response.
func (t *fanTarget) response(b *h2.Batch, head h2.Head) {
	httpStatus := head.Fields[0].Value
	if httpStatus[0] == '1' {
		return // interim responses have no place in gRPC
	}
	contentType := find(head.Fields, "content-type")
	switch {
	case httpStatus != "200" && find(head.Fields, "grpc-status") == "":
		t.fail(b, phaseReceive, codeOfHTTP(httpStatus), ReasonUpstreamNotGRPC,
			fmt.Sprintf("upstream answered with HTTP status %s and content-type %q", httpStatus, contentType))
		return
	case httpStatus == "200" && !isGRPC(contentType):
		t.fail(b, phaseReceive, codes.Unknown, ReasonUpstreamNotGRPC,
			fmt.Sprintf("upstream answered with content-type %q, expected application/grpc", contentType))
		return
	}
	t.responded = true
	t.firstAt = t.f.spent(b)
	t.touch()
	if head.EndStream {
		t.complete(b, head.Fields, &t.trailer)
		return
	}
	t.encoding = find(head.Fields, "grpc-encoding")
	t.header = passedOn(t.header, head.Fields)
	t.f.headed(b, t, true)
}

// complete takes the status of the target, among the fields that ended its response.
func (t *fanTarget) complete(b *h2.Batch, fields []hpack.Field, trailer *[]hpack.Field) {
	*trailer = passedOn(*trailer, fields)
	t.status = statusOfFields(fields)
	t.phase = phaseComplete
	t.leave(b, frame.NoError, t.status.Code(), "") // a reset, if the request has not ended
	if t.status == nil && !t.in.whole() {
		t.setFailure(phaseReceive, codes.Internal, ReasonUpstreamProtocol, "response ended in the middle of a message")
	}
	t.end(b)
}

// data takes octets of the response.
func (t *fanTarget) data(a *attempt, b *h2.Batch, p []byte, end bool) (passed int) {
	a.call.mu.Lock()
	defer a.call.mu.Unlock()
	return t.takeData(a, b, p, end)
}

// takeData is data. The call's lock is held.
func (t *fanTarget) takeData(a *attempt, b *h2.Batch, p []byte, end bool) (passed int) {
	if !t.current(a) {
		if end && t.isLoose(a) {
			t.looseEnd(b, frame.NoError, codes.Internal, ReasonUpstreamNoStatus)
		}
		return len(p)
	}
	t.touch()
	t.count.feed(p, 0)
	passed = t.receive(b, p)
	if end && t.current(a) {
		t.fail(b, phaseReceive, codes.Internal, ReasonUpstreamNoStatus, "upstream ended the response without a status")
	}
	if !t.current(a) {
		return len(p)
	}
	return passed
}

// lost takes the early end of the stream: another attempt where the upstream provably did nothing, or a failure.
func (t *fanTarget) lost(a *attempt, b *h2.Batch, e h2.End) {
	c := a.call
	c.mu.Lock()
	defer c.mu.Unlock()
	if !t.current(a) {
		if t.isLoose(a) {
			code, reason, _ := c.describeEnd(e, t.responded)
			if reason == ReasonDeadline { // the caller's, which this target was in nobody's way of
				code, reason = codes.Canceled, ReasonCanceled
			}
			t.looseEnd(b, frame.Cancel, code, reason)
		}
		return
	}
	if e.Unprocessed && !t.responded && !c.replay.over && t.attempts < maxAttempts {
		t.f.unopened++
		t.reroute(b)
		if t.f.running() && t.stage != targetOpen {
			t.f.arm(time.Now())
		}
		return
	}
	code, reason, msg := c.describeEnd(e, t.responded)
	t.fail(b, phaseReceive, code, reason, msg)
}

// leave takes the target from its endpoint: out of the queue, or off its stream. code and reason are those of
// the attempt.
func (t *fanTarget) leave(b *h2.Batch, reset frame.Code, code codes.Code, reason string) {
	opened := t.stage == targetOpen
	switch t.stage {
	case targetQueued:
		t.ep.forget(t)
	case targetOpen:
		t.up.Reset(b, reset)
		t.messages, t.octets = t.f.c.reqCount.messages, t.f.c.reqCount.bytes
	case targetDraining, targetEnded, targetLoose, targetLooseQueued:
		return
	}
	if !opened {
		t.f.unopened--
	}
	t.stage = targetDraining
	if t.ep != nil {
		t.ep.inFlight.Add(-1)
		t.attemptEnded(opened, code, reason)
	}
}

// fail ends the target's part in the call with a failure of the relay's making.
func (t *fanTarget) fail(b *h2.Batch, phase fanoutpb.FanoutPhase, code codes.Code, reason, msg string) {
	if t.stage >= targetEnded {
		return
	}
	t.leave(b, frame.Cancel, code, reason)
	t.setFailure(phase, code, reason, msg)
	t.end(b)
}

func (t *fanTarget) setFailure(phase fanoutpb.FanoutPhase, code codes.Code, reason, msg string) {
	if t.ep != nil {
		msg = "endpoint " + t.ep.addr + ": " + msg
	}
	t.phase, t.reason = phase, reason
	if t.f.c.dc.set.OmitErrorInfo {
		t.status = status.New(code, msg)
	} else {
		t.status = failure(code, reason, msg)
	}
}

// end is told when nothing more comes of the target. What waits for the client goes first.
func (t *fanTarget) end(b *h2.Batch) {
	t.total = t.f.spent(b)
	t.f.headed(b, t, false)
	switch {
	case !t.f.running():
	case t.in.messages > 0 && t.f.cfg.streams():
		t.f.grantNow(b) // the request need not wait for it
	default:
		t.settle(b)
	}
}

// settle tells the verdict of the target's end, once the client was told of it.
func (t *fanTarget) settle(b *h2.Batch) {
	if t.stage >= targetEnded {
		return
	}
	t.stage = targetEnded
	f := t.f
	f.live--
	f.unhold(t, t.in.drop())
	e := fanout.End{Status: t.status}
	e.InAnswer, e.Veto = t.tell(b)
	if f.running() {
		t.endOrdered(b)
	}
	if !f.running() {
		return
	}
	d := f.verdict.End(t.index, e)
	f.decided(b, d, t.status.Code() != codes.OK)
	if f.running() {
		f.grantNow(b)
	}
}

// The phases by shorter names.
const (
	phaseComplete = fanoutpb.FanoutPhase_FANOUT_PHASE_COMPLETE
	phaseResolve  = fanoutpb.FanoutPhase_FANOUT_PHASE_RESOLVE
	phaseConnect  = fanoutpb.FanoutPhase_FANOUT_PHASE_CONNECT
	phaseSend     = fanoutpb.FanoutPhase_FANOUT_PHASE_SEND
	phaseReceive  = fanoutpb.FanoutPhase_FANOUT_PHASE_RECEIVE
	phaseHook     = fanoutpb.FanoutPhase_FANOUT_PHASE_HOOK
	phaseCanceled = fanoutpb.FanoutPhase_FANOUT_PHASE_CANCELLED
)
