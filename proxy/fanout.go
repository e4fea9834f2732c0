// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/manifold-grpc/manifold/fanout"
)

// fanCall is a one-to-many call.
//
// Its goroutines: see runTargets for the targets; the handler's reads the requests, and if these are not complete
// soon another one sees to the targets; and there is one that sends the requests for each target whose requests do
// not fit into one inline write. All have ended when one2many returns, but for the case of finishEarly.
type fanCall struct {
	*call
	begin   time.Time
	targets []fanTarget // in the director's order; the slice does not change
	answer  carrier     // immutable
	concat  concat      // what answer is, mostly
	options *Fanout     // immutable; nil: as the library always had it

	base     context.Context // of the targets; ends with the call, or later: see letFinish
	endBase  context.CancelFunc
	detached chan struct{} // closed when all targets have ended; for calls with endBase

	running sync.WaitGroup // the targets
	watch   *time.Timer    // calls spread; set by runInline
	hurried atomic.Bool    // hurry has been called

	later  *time.Timer    // calls serveLater; nil if the handler's goroutine is not the request pump
	served sync.WaitGroup // serveLater
	result error          // of serveLater

	request      Frame          // owned by the request pump
	requestsOver atomic.Bool    // the caller has half-closed
	requestsDone atomic.Bool    // the request pump has ended
	pump         sync.WaitGroup // the request pump

	mu       sync.Mutex
	fatal    error       // guarded by mu; what ended the call other than a target
	failures []failure   // guarded by mu; without options: the targets that ended it, in order of time
	settle   *time.Timer // guarded by mu; set with the first failure that ends the call
	course   course      // guarded by mu; with options
}

// A call goes on for a while after the first failure that ends it, if other targets have not ended by then: for as
// long as it took until then, within these bounds.
//
// Backends often fail together, and for different reasons. Without this time the one whose error comes first
// would decide the code of the call, and a caller would see now this code and now that.
const (
	minSettleTime = 100 * time.Millisecond
	maxSettleTime = 500 * time.Millisecond
)

// one2many forwards the call to all the backends and makes one answer of theirs.
func (c *call) one2many(backends []Backend) error {
	f := &fanCall{call: c, begin: time.Now(), options: c.fanout, base: c.ctx}
	if err := f.init(backends); err != nil {
		if f.endBase != nil {
			f.endBase()
		}

		return err
	}

	f.pump.Add(1)

	if c.statusWriter() == nil {
		go f.pumpRequests() // ends with the requests, with the last target, or with the caller's stream: see finishEarly

		return f.serve()
	}

	// This goroutine reads the requests, as those of most calls are here already. Then it goes on to the targets itself; if
	// the requests are longer in coming, another goroutine does, and this one goes on with the requests.
	f.served.Add(1)
	f.later = time.AfterFunc(requestGrace, f.serveLater)

	f.pumpRequests()
	f.startTargets()
	f.served.Wait()

	return f.result
}

// requestGrace is how long the targets wait for the requests to be complete.
const requestGrace = 300 * time.Microsecond

// init makes the targets and the answer. Nothing is started if it fails, with the status of the call.
func (f *fanCall) init(backends []Backend) error {
	if f.options == nil {
		f.targets = make([]fanTarget, len(backends))
	} else if distinct, err := f.admit(backends); err != nil {
		return err
	} else {
		backends = distinct
		f.targets = make([]fanTarget, len(backends))
	}

	f.detach()

	for i, b := range backends {
		f.targets[i].init(f, b, i)
	}

	switch {
	case f.options != nil && f.options.Merger != nil:
		return f.initMerger()
	case f.options != nil && f.options.Envelope:
		f.answer = newEnvelopes(f)
	default:
		f.concat.init(f)
		f.answer = &f.concat
	}

	return nil
}

// startTargets starts serve if that has not happened yet.
func (f *fanCall) startTargets() {
	switch {
	case !f.later.Stop():
	case f.requestsDone.Load():
		f.serveLater()
	default:
		go f.serveLater() // ends with the targets, for which one2many waits
	}
}

// serveLater is serve for somebody else to wait for.
func (f *fanCall) serveLater() {
	defer f.served.Done()

	f.result = f.serve()
}

// serve runs the targets and returns the status of the call.
func (f *fanCall) serve() error {
	f.runTargets()
	f.awaitEnd(&f.pump)

	err := f.conclude()

	if !f.requestsDone.Load() {
		f.cancel()
		f.finishEarly(err, &f.pump)
	}

	f.letFinish(err)

	return err
}

// pumpRequests reads requests and hands each to all targets.
func (f *fanCall) pumpRequests() {
	defer f.pump.Done()
	defer f.requestsDone.Store(true)

	err := f.moveRequests()
	f.request.free()

	if err != nil {
		f.abort(err)

		return
	}

	for i := range f.targets {
		f.targets[i].queue.finish()
	}
}

// moveRequests returns nil at the end of the requests.
func (f *fanCall) moveRequests() error {
	for n := 0; ; n++ {
		if err := f.nextRequest(&f.request); err == io.EOF {
			f.requestsOver.Store(true)

			return nil
		} else if err != nil {
			return err
		}

		if n == 1 && f.later != nil { // there are more than will be waited for
			f.startTargets()
		}

		for i := range f.targets {
			t := &f.targets[i]
			if !t.queue.push(f.request.data) {
				t.stalled()
			}
		}

		f.request.free() // not with the next message, which may be long in coming
	}
}

// abort ends the call for a reason that is not a target's. The first reason counts.
func (f *fanCall) abort(err error) {
	f.mu.Lock()
	if f.fatal == nil {
		f.fatal = err
	}
	f.mu.Unlock()

	f.cancel()
}

// fail ends the call because of a target whose error nothing can be made of. It is for calls without options.
func (f *fanCall) fail(t *fanTarget, err error) {
	name := t.name()

	f.mu.Lock()
	defer f.mu.Unlock()

	f.failures = append(f.failures, failure{index: t.index, name: name, status: status.Convert(err)})
	f.settleThen(f.cancel)
}

// settleThen gives the targets that still run a moment to fail as well, and then calls end. mu is held.
func (f *fanCall) settleThen(end func()) {
	if f.settle == nil {
		f.settle = time.AfterFunc(min(max(time.Since(f.begin), minSettleTime), maxSettleTime), end)
	}
}

// conclude ends the answer and returns the status of the call. All targets have ended, or the call is decided and
// the others may go on.
func (f *fanCall) conclude() error {
	trailer := f.joinedTrailer()

	f.mu.Lock()
	fatal, failures := f.fatal, f.failures

	if f.settle != nil {
		f.settle.Stop()
	}
	f.mu.Unlock()

	var verdictOf error

	switch gone := f.callerGone(); {
	case fatal != nil:
		verdictOf = fatal
	case gone != nil:
		verdictOf = gone
	case f.options != nil:
		verdictOf = f.decided()
	case len(failures) > 0:
		verdictOf = verdict(failures, len(f.targets)).Err()
	}

	if verdictOf == nil {
		verdictOf = f.answer.finish()
	} else {
		f.answer.discard()
	}

	if f.options != nil && f.options.Summary {
		trailer = f.addReport(trailer, verdictOf)
	}

	if len(trailer) > 0 {
		f.stream.SetTrailer(trailer)
	}

	return verdictOf
}

// stalled ends the target's part in the call because its queue stays full.
func (t *fanTarget) stalled() {
	if t.queue.stallAfter == noWait {
		t.end(PhaseRequest, status.Error(codes.ResourceExhausted, "proxy: the backend took the requests more slowly than the caller sent them (DropSlow)"))

		return
	}

	t.end(PhaseRequest, status.Errorf(codes.ResourceExhausted,
		"proxy: the backend took no request for %v while the others waited", t.fan.handler.options.fanoutLimits.StallTimeout))
}

// admit checks a call with options before anything of it begins.
func (f *fanCall) admit(backends []Backend) ([]Backend, error) {
	names := make([]string, 0, len(backends))
	kept := make([]Backend, 0, len(backends))
	seen := map[string]bool{}

	for i, b := range backends {
		t := target{backend: b, index: i}
		name := t.name()

		if f.options.Distinct && seen[name] {
			continue
		}

		seen[name] = true
		names, kept = append(names, name), append(kept, b)
	}

	if n := len(kept); n > f.options.MaxTargets {
		return nil, status.Errorf(codes.ResourceExhausted, "proxy: the call has %d targets, the limit is %d (MaxTargets)", n, f.options.MaxTargets)
	}

	if f.options.Guard != nil {
		via, err := f.options.Guard.Enter(incoming(f.stream.Context()))
		if err != nil {
			return nil, err
		}

		f.via = via
	}

	decision, err := fanout.NewCall(f.options.Policy, f.options.CodeRule, names)
	f.course.decision = decision

	return kept, err
}
