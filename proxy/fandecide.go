// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/manifold-grpc/manifold/fanout"
	"github.com/manifold-grpc/manifold/fanout/fanoutpb"
)

// course is how a call with options goes. It is guarded by fanCall.mu.
type course struct {
	decision *fanout.Call
	begun    int           // targets; those behind it wait for their turn
	live     int           // targets that have begun and not ended
	over     bool          // no further target begins
	met      chan struct{} // closed when the policy is met; nil if nobody waits for that
	answered bool          // the caller has the answer: what still comes is for nobody
	hedge    *time.Timer   // begins a further target; nil: none
}

// phases are the names of the phases in reports.
var phases = map[Phase]fanoutpb.FanoutPhase{
	PhaseComplete:  fanoutpb.FanoutPhase_FANOUT_PHASE_COMPLETE,
	PhaseConnect:   fanoutpb.FanoutPhase_FANOUT_PHASE_CONNECT,
	PhaseRequest:   fanoutpb.FanoutPhase_FANOUT_PHASE_SEND,
	PhaseResponse:  fanoutpb.FanoutPhase_FANOUT_PHASE_RECEIVE,
	PhaseHook:      fanoutpb.FanoutPhase_FANOUT_PHASE_HOOK,
	PhaseCancelled: fanoutpb.FanoutPhase_FANOUT_PHASE_CANCELLED,
}

// report is the outcome as reports have it.
func (o *Outcome) report(index int) fanout.Outcome {
	return fanout.Outcome{
		Name: o.Backend, Index: index, Phase: phases[o.Phase], Status: o.Status,
		FirstResponse: o.FirstResponse, Total: o.Duration,
		RequestMessages: o.RequestMessages, RequestBytes: o.RequestBytes,
		ResponseMessages: o.ResponseMessages, ResponseBytes: o.ResponseBytes,
		Header: o.Header, Trailer: o.Trailer,
	}
}

// ended reports whether the call has ended for a reason that is not a target's.
func (f *fanCall) ended() bool {
	f.mu.Lock()
	answered := f.course.answered
	f.mu.Unlock()

	return !answered && (f.ctx.Err() != nil || f.callerGone() != nil)
}

// targetEnded takes the end of a target into the decision, and does what follows from it.
func (f *fanCall) targetEnded(t *fanTarget, phase Phase, err error, told telling) {
	f.mu.Lock()
	defer f.mu.Unlock()

	f.course.live--

	before := f.course.decision.Decision().State
	d := f.course.decision.End(t.index, fanout.End{
		Status: status.Convert(err), InAnswer: told.inAnswer, Veto: told.veto, Cancelled: phase == PhaseCancelled,
	})

	switch {
	case d.State == fanout.Pending:
		if err != nil && phase != PhaseCancelled || f.course.live == 0 {
			f.beginNext()
		}
	case d.State == fanout.Met && f.course.met != nil:
		if before != fanout.Met {
			close(f.course.met)
		}

		f.course.over = true
	case d.Final:
		f.endTargets(d.Cancel)
	default:
		f.course.over = true
		f.settleThen(f.giveUp)
	}
}

// giveUp ends a call that can only fail.
func (f *fanCall) giveUp() {
	f.mu.Lock()
	defer f.mu.Unlock()

	f.endTargets(f.course.decision.Decision().Cancel)
}

// endTargets ends targets that the call needs no more. mu is held.
func (f *fanCall) endTargets(indexes []int) {
	f.course.over = true

	for _, i := range indexes {
		f.targets[i].cancel(errDecided)
	}
}

// beginNext begins a further target, if there is one. mu is held, and a target has not called running.Done yet.
func (f *fanCall) beginNext() {
	if f.course.over || f.course.begun == len(f.targets) || f.ctx.Err() != nil {
		return
	}

	t := &f.targets[f.course.begun]
	f.course.begun++
	f.course.live++
	f.running.Add(1)
	t.claim.Store(claimTaken)

	go t.run() // ends with its upstream stream, which ends with the call at the latest
}

// hedge begins a further target because the others take their time.
func (f *fanCall) hedge() {
	f.mu.Lock()
	defer f.mu.Unlock()

	if f.course.live > 0 {
		f.beginNext()
		f.course.hedge.Reset(f.options.HedgeDelay)
	}
}

// runHedged runs the targets one after the other, until the call is decided.
func (f *fanCall) runHedged() {
	f.mu.Lock()
	f.running.Add(1) // until all of the first are begun

	for range f.options.Hedge {
		f.beginNext()
	}

	f.course.hedge = time.AfterFunc(f.options.HedgeDelay, f.hedge)
	f.mu.Unlock()

	f.running.Done()
	f.running.Wait()
	f.course.hedge.Stop()
}

// decided returns the status that the policy gives the call.
func (f *fanCall) decided() error {
	f.mu.Lock()
	defer f.mu.Unlock()

	return f.course.decision.Status().Err()
}

// joinedTrailer returns the trailers of all targets, in their order.
func (f *fanCall) joinedTrailer() metadata.MD {
	var joined metadata.MD

	for i := range f.targets {
		t := &f.targets[i]
		if f.options != nil && !t.over.Load() { // it may go on: see letFinish
			continue
		}

		if len(t.trailer) > 0 && joined == nil {
			joined = make(metadata.MD, len(t.trailer))
		}

		for key, values := range t.trailer {
			// The details belong to one backend's status, which is not that of the call.
			if key != statusDetailsKey || len(f.targets) == 1 {
				joined[key] = append(slices.Clip(joined[key]), values...)
			}
		}
	}

	return joined
}

const statusDetailsKey = "grpc-status-details-bin"

// maxTrailerBytes is what peers usually take of a trailer. The report makes do with what the rest of it leaves.
const maxTrailerBytes = 8 << 10

// addReport adds the outcomes of all targets to the trailer.
func (f *fanCall) addReport(trailer metadata.MD, err error) metadata.MD {
	outcomes := make([]fanout.Outcome, len(f.targets))
	for i := range f.targets {
		outcomes[i] = f.targets[i].reported()
	}

	used := 2*proto.Size(status.Convert(err).Proto()) + 1500 // the status is in the details once more; the summary
	for key, values := range trailer {
		for _, v := range values {
			used += len(key) + len(v) + 32 // RFC 9113, 6.5.2
		}
	}

	limits := f.options.Report
	if limits.MaxBytes == 0 {
		limits.MaxBytes = min(fanout.DefaultReportBytes, max(1, (maxTrailerBytes-used)*3/4)) // it travels as base64
	}

	if trailer == nil {
		trailer = metadata.MD{}
	}

	// Behind those of proxies that are targets, since readers take the last one.
	for key, values := range fanout.Trailer(fanout.NewReport(outcomes, limits)) {
		trailer[key] = append(slices.Clip(trailer[key]), values...)
	}

	return trailer
}

// reported returns the target's outcome for the report. A target that has not ended is one that the call was decided without.
func (t *fanTarget) reported() fanout.Outcome {
	if t.over.Load() {
		return t.result
	}

	return fanout.Outcome{
		Name: t.name(), Index: t.index, Phase: fanoutpb.FanoutPhase_FANOUT_PHASE_CANCELLED, Status: status.Convert(errDecided.err),
		Total: time.Since(t.fan.begin),
	}
}

// detach makes the targets independent of the caller's stream, for calls whose targets may outlive the answer. Until the answer the
// caller's leaving ends them all the same, and so does the caller's deadline ever.
func (f *fanCall) detach() {
	if f.options == nil || f.options.LetFinish <= 0 || f.statusWriter() == nil {
		return
	}

	base := context.WithoutCancel(f.ctx)
	if deadline, ok := f.ctx.Deadline(); ok {
		f.base, f.endBase = context.WithDeadline(base, deadline)
	} else {
		f.base, f.endBase = context.WithCancel(base)
	}

	f.course.met = make(chan struct{})
}

// runDetached runs all targets until they have ended or the call is decided.
func (f *fanCall) runDetached() {
	f.detached = make(chan struct{})

	go func() { // ends with the targets
		defer close(f.detached)
		f.runAll()
	}()

	select {
	case <-f.detached:
	case <-f.ctx.Done():
		f.endBase()
		<-f.detached
	case <-f.course.met:
		if !f.requestsDone.Load() { // nobody reads more of them once the caller has its status
			f.endBase()
			<-f.detached
		}
	}
}

// letFinish answers the caller with err and then waits for the targets that still run.
func (f *fanCall) letFinish(err error) {
	if f.endBase == nil {
		return
	}

	defer f.endBase()

	f.mu.Lock()
	f.course.answered = err == nil
	live := f.course.live
	f.mu.Unlock()

	if err != nil {
		f.endBase()
	}

	if live == 0 {
		<-f.detached

		return
	}

	_ = f.statusWriter().WriteStatus(status.Convert(err)) // fails only when the caller is gone

	limit := time.AfterFunc(f.options.LetFinish, f.endBase)

	<-f.detached
	limit.Stop()
}

// tooLarge is the end of a target that answers more than TargetBytes.
func (f *fanCall) tooLarge() error {
	return status.Errorf(codes.ResourceExhausted, "proxy: the answer of the backend exceeds the limit of %d bytes (TargetBytes)", f.options.TargetBytes)
}
