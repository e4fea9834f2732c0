// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// fanout is a one-to-many call.
//
// Its goroutines: the handler's own, which runs the first target and in the end joins the answers; one
// for each further target; one that reads the requests; and one that sends them for each target whose requests do
// not fit into one inline write. All have ended when one2many returns, but for the case of finishEarly.
type fanout struct {
	*call
	begin   time.Time
	targets []fanTarget // in the director's order; the slice does not change
	answer  concat
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
	failures []failure   // guarded by mu; the targets that ended it, in order of time
	settle   *time.Timer // guarded by mu; set with the first failure
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
	f := &fanout{call: c, begin: time.Now(), targets: make([]fanTarget, len(backends))}
	for i, b := range backends {
		f.targets[i].init(f, b, i)
	}

	f.answer.init(f)

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

// startTargets starts serve if that has not happened yet.
func (f *fanout) startTargets() {
	switch {
	case !f.later.Stop():
	case f.requestsDone.Load():
		f.serveLater()
	default:
		go f.serveLater() // ends with the targets, for which one2many waits
	}
}

// serveLater is serve for somebody else to wait for.
func (f *fanout) serveLater() {
	defer f.served.Done()

	f.result = f.serve()
}

// serve runs the targets and returns the status of the call.
func (f *fanout) serve() error {
	f.runTargets()
	f.awaitEnd(&f.pump)

	err := f.conclude()

	if !f.requestsDone.Load() {
		f.cancel()
		f.finishEarly(err, &f.pump)
	}

	return err
}

// pumpRequests reads requests and hands each to all targets.
func (f *fanout) pumpRequests() {
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
func (f *fanout) moveRequests() error {
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
func (f *fanout) abort(err error) {
	f.mu.Lock()
	if f.fatal == nil {
		f.fatal = err
	}
	f.mu.Unlock()

	f.cancel()
}

// fail ends the call because of a target whose error nothing can be made of.
func (f *fanout) fail(t *fanTarget, err error) {
	name := t.name()

	f.mu.Lock()
	defer f.mu.Unlock()

	f.failures = append(f.failures, failure{index: t.index, name: name, status: status.Convert(err)})
	if f.settle == nil {
		f.settle = time.AfterFunc(min(max(time.Since(f.begin), minSettleTime), maxSettleTime), f.cancel)
	}
}

// conclude ends the answer and returns the status of the call. All targets have ended.
func (f *fanout) conclude() error {
	if trailer := f.joinedTrailer(); len(trailer) > 0 {
		f.stream.SetTrailer(trailer)
	}

	f.mu.Lock()
	fatal, failures := f.fatal, f.failures

	if f.settle != nil {
		f.settle.Stop()
	}
	f.mu.Unlock()

	gone := f.callerGone()
	if gone == nil && fatal == nil && len(failures) == 0 {
		return f.answer.finish()
	}

	f.answer.discard()

	switch {
	case fatal != nil:
		return fatal
	case gone != nil:
		return gone
	default:
		return verdict(failures, len(f.targets)).Err()
	}
}

// joinedTrailer returns the trailers of all targets, in their order.
func (f *fanout) joinedTrailer() metadata.MD {
	var joined metadata.MD

	for i := range f.targets {
		trailer := f.targets[i].trailer
		if len(trailer) > 0 && joined == nil {
			joined = make(metadata.MD, len(trailer))
		}

		for key, values := range trailer {
			// The details belong to one backend's status, which is not that of the call.
			if key != statusDetailsKey || len(f.targets) == 1 {
				joined[key] = append(slices.Clip(joined[key]), values...)
			}
		}
	}

	return joined
}

const statusDetailsKey = "grpc-status-details-bin"

// stalled ends the target's part in the call because its queue stays full.
func (t *fanTarget) stalled() {
	t.endRequests(status.Errorf(codes.ResourceExhausted,
		"proxy: the backend took no request for %v while the others waited", t.fan.handler.options.fanoutLimits.StallTimeout))
}
