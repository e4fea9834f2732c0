// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"io"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// exchange is a one-to-one call: two flows of messages, requests up and responses down.
//
// The request of most calls is one message, and is there when the call begins. The handler's goroutine serves such a call
// alone: it reads the request to its end, opens the upstream stream, sends, and moves the responses. But a call must not
// wait for its request, because its backend may be the first to speak. So a second goroutine stands by. It gets to
// run when the handler's waits for the caller, and then opens the stream and moves the responses, while the
// handler's moves the requests. Which of the two leads, that is, opens the stream, is decided by lead.
//
// On a stream from which nothing but the handler's return releases a reader (see finishEarly) the handler's goroutine reads
// nothing. It leads, and a pump moves the requests.
type exchange struct {
	*call
	target target

	lead     atomic.Int32   // one of the constants below
	standsBy sync.WaitGroup // the goroutine that stands by
	opening  sync.WaitGroup // likewise, until it has opened the stream and sent what was read ahead

	// Written by the goroutine that stood by and leads: the first before opening ends, the second before standsBy ends.
	stillborn bool // the requests have nowhere to go
	result    error
	crash     any // what it panicked with, nil if it did not

	// Owned by the request side until requestsDone, and then by whoever leads. While the goroutine that stood by opens the
	// stream, ahead[0] is its own.
	ahead        [2]Frame // read before the stream was opened
	read, sent   int      // so many of them
	aheadErr     error    // what reading ahead ended with, io.EOF or a status; nil if there was no end
	requestErr   error    // why the request side failed; nil when it ended as it should
	requestsDone atomic.Bool
	requests     sync.WaitGroup // the request side

	response Frame // owned by the response side
}

// The states of exchange.lead. The goroutine that stands by takes the lead by adding 2.
const (
	nobodyLeads  = iota // nothing is read yet
	firstIsRead         // nobody leads, and ahead[0] holds the first request
	standByLeads        // taken from nobodyLeads
	standByHolds        // taken from firstIsRead: ahead[0] is to be sent by who leads
	handlerLeads
)

// one2one forwards the call to one backend.
func (c *call) one2one(b Backend) error {
	x := &exchange{call: c}
	x.target.init(c, b, 0)
	x.requests.Add(1)

	if c.statusWriter() == nil {
		return x.leadCall()
	}

	x.standsBy.Add(1)
	x.opening.Add(1)
	go x.standBy() // ends when the handler leads, and else with the responses

	if x.readAhead() {
		err := x.leadCall()
		x.standsBy.Wait()

		return err
	}

	x.opening.Wait()
	x.pumpRequests()
	x.standsBy.Wait()

	if x.crash != nil {
		panic(x.crash) // here, where the server's interceptors can recover from it
	}

	return x.result
}

// readAhead reads up to two requests, and reports whether the handler's goroutine leads. When the other one does, more
// than one request is read only if ahead[0] is that one's.
func (x *exchange) readAhead() bool {
	if x.aheadErr = x.nextRequest(&x.ahead[0]); x.aheadErr != nil {
		return x.lead.CompareAndSwap(nobodyLeads, handlerLeads)
	}

	x.read = 1
	if !x.lead.CompareAndSwap(nobodyLeads, firstIsRead) {
		return false
	}

	if x.aheadErr = x.nextRequest(&x.ahead[1]); x.aheadErr == nil {
		x.read = 2
	}

	return x.lead.CompareAndSwap(firstIsRead, handlerLeads)
}

// leadCall opens the stream in the handler's goroutine, and returns what the call ends with.
func (x *exchange) leadCall() error {
	if x.aheadErr != nil && x.aheadErr != io.EOF {
		x.freeAhead()
		x.finish(PhaseRequest, x.aheadErr)

		return x.aheadErr
	}

	desc := upstreamDesc
	if x.read == 1 && x.aheadErr != nil {
		desc = oneRequestDesc
	}

	if err := x.openStream(desc); err != nil {
		x.freeAhead()
		x.finish(PhaseConnect, err)

		return err
	}

	if x.aheadErr != nil {
		x.pumpRequests()
	} else {
		go x.pumpRequests() // ends with the requests, with the upstream stream, or with the caller's: see finishEarly
	}

	return x.conclude(x.moveResponses())
}

// standBy leads the call unless the handler's goroutine does.
func (x *exchange) standBy() {
	defer x.standsBy.Done()

	runtime.Gosched() // a request that is there needs a moment to be read

	lead := x.lead.Load()
	for ; lead != handlerLeads && !x.lead.CompareAndSwap(lead, lead+standByLeads); lead = x.lead.Load() {
	}

	if lead == handlerLeads {
		return
	}

	opened, ended := false, false

	defer func() {
		if !ended {
			x.crashed(recover(), opened)
		}
	}()

	phase, err := PhaseConnect, x.openStream(upstreamDesc)
	if err == nil && lead == firstIsRead {
		x.sent = 1
		phase, err = PhaseRequest, unlessEnded(x.sendOn(&x.ahead[0]))
	}

	x.stillborn = err != nil
	opened = true
	x.opening.Done()

	if err == nil {
		phase, err = x.moveResponses()
	}

	x.result = x.conclude(phase, err)
	ended = true
}

// crashed ends the call because of a panic in the goroutine that stood by, with r, or nil if the goroutine was ended. It is not
// one of a hook, which recovered has dealt with, but of what the program put around the caller's stream, or around the
// connection. Such panics belong into the handler's goroutine, which is told here that there is nothing more to do.
func (x *exchange) crashed(r any, opened bool) {
	if x.crash = r; r != nil {
		logger.Errorf("panic in a call of %s: %v\n%s", x.method, r, debug.Stack())
	}

	x.result = status.Error(codes.Internal, "proxy: an interceptor or a connection panicked")
	x.cancel()

	if !opened {
		x.stillborn = true
		x.opening.Done()
	}

	x.finishEarly(x.result, &x.requests)
}

// openStream opens the upstream stream. The error is a status.
func (x *exchange) openStream(desc *grpc.StreamDesc) error {
	err := x.target.connect(x.ctx)
	if err == nil {
		err = x.target.open(desc)
	}

	if err != nil {
		err = x.upstreamError(err)
	}

	return err
}

// conclude ends the call with err, or with the reason behind err, and returns that.
func (x *exchange) conclude(phase Phase, err error) error {
	x.response.free()
	x.awaitEnd(&x.requests)

	if !x.requestsDone.Load() {
		x.cancel()
		x.finishEarly(err, &x.requests)
	} else if x.requestErr != nil && phase != PhaseComplete {
		// A request side that failed has cancelled the upstream stream. Its own error is the reason, not that echo.
		phase, err = PhaseRequest, x.requestErr
	}

	x.finish(phase, err)

	return err
}

// pumpRequests moves requests up until one side ends.
func (x *exchange) pumpRequests() {
	defer x.requests.Done()

	if !x.stillborn {
		x.requestErr = x.moveRequests()
	} else {
		x.requestErr = unlessEnded(x.aheadErr)
	}

	x.freeAhead()
	x.requestsDone.Store(true)

	if x.requestErr != nil {
		x.cancel() // the responses are of no use to anybody
	}
}

// freeAhead gives back what was read and is not to be sent.
func (x *exchange) freeAhead() {
	x.ahead[0].free()
	x.ahead[1].free()
}

// moveRequests returns nil when the caller has half-closed, and when the backend has ended the call, whose
// status the responses then bring.
func (x *exchange) moveRequests() error {
	for x.sent < x.read {
		x.sent++
		if err := x.sendOn(&x.ahead[x.sent-1]); err != nil {
			return unlessEnded(err)
		}
	}

	for err := x.aheadErr; ; {
		if err == nil {
			err = x.nextRequest(&x.ahead[0])
		}

		if err == io.EOF {
			return x.target.halfClose()
		} else if err != nil {
			return err
		}

		if err = x.sendOn(&x.ahead[0]); err != nil {
			return unlessEnded(err)
		}
	}
}

// sendOn hands f to the backend and gives it back. It returns io.EOF when the backend has ended the call, else a status.
func (x *exchange) sendOn(f *Frame) error {
	err := x.target.send(f)
	f.free() // not with the next message, which may be long in coming

	if err != nil && err != io.EOF {
		err = x.callerError(err)
	}

	return err
}

// unlessEnded is err, but nil for a backend that has ended the call: the responses bring its status.
func unlessEnded(err error) error {
	if err == io.EOF {
		return nil
	}

	return err
}

// moveResponses moves header, responses and trailer down. It returns what the call ends with.
func (x *exchange) moveResponses() (Phase, error) {
	t, f := &x.target, &x.response

	header, err := t.receiveHeader()
	if err != nil {
		return PhaseComplete, x.upstreamError(err)
	}

	// Without a header there is nothing but a trailer, and it goes on as one.
	if header != nil {
		if err := tolerateLateHeader(x.stream.SendHeader(header)); err != nil {
			return PhaseResponse, x.callerError(err)
		}
	}

	for {
		if err := t.receive(f); err != nil {
			return x.endOfResponses(err)
		}

		if err := x.stream.SendMsg(f); err != nil {
			return PhaseResponse, x.callerError(err)
		}

		f.free()
	}
}

// endOfResponses passes on the trailer of a stream that ended with err, and says what to end the call with.
func (x *exchange) endOfResponses(err error) (Phase, error) {
	if len(x.target.trailer) > 0 {
		x.stream.SetTrailer(x.target.trailer)
	}

	switch {
	case err == io.EOF:
		return PhaseComplete, nil
	case x.ctx.Err() != nil: // cancelled by the caller, or by the request pump
		return PhaseCancelled, x.upstreamError(err)
	default:
		return PhaseComplete, statusOr(codes.Unknown, err)
	}
}

// finish reports the outcome, if the backend asked for one.
func (x *exchange) finish(phase Phase, err error) {
	if !x.target.begin.IsZero() {
		x.target.done(x.target.outcome(phase, err))
	}
}
