// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"io"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc/codes"
)

// exchange is a one-to-one call: two flows of messages. The responses flow in the handler's goroutine, so that the
// status leaves without another switch; the requests have the one goroutine that the proxy starts for a call.
type exchange struct {
	*call
	target target

	// Owned by the request pump until requestsDone, then by the handler.
	request      Frame
	requestErr   error // why the request side failed; nil when it ended as it should
	requestsDone atomic.Bool
	pump         sync.WaitGroup // the request pump

	response Frame // owned by the handler's goroutine
}

// one2one forwards the call to one backend.
func (c *call) one2one(b Backend) error {
	x := &exchange{call: c}
	x.target.init(c, b, 0)

	err := x.target.connect(c.ctx)
	if err == nil {
		err = x.target.open(upstreamDesc)
	}

	if err != nil {
		err = c.upstreamError(err)
		x.finish(PhaseConnect, err)

		return err
	}

	x.pump.Add(1)
	go x.pumpRequests() // ends with the requests, with the upstream stream, or with the caller's: see finishEarly

	phase, err := x.moveResponses()
	x.response.free()

	c.awaitEnd(&x.pump)

	if !x.requestsDone.Load() {
		c.cancel()
		c.finishEarly(err, &x.pump)
	} else if x.requestErr != nil && phase != PhaseComplete {
		// A request side that failed has cancelled the upstream stream. Its own error is the reason, not that echo.
		phase, err = PhaseRequest, x.requestErr
	}

	x.finish(phase, err)

	return err
}

// pumpRequests moves requests up until one side ends.
func (x *exchange) pumpRequests() {
	defer x.pump.Done()

	x.requestErr = x.moveRequests()
	x.request.free()
	x.requestsDone.Store(true)

	if x.requestErr != nil {
		x.cancel() // the responses are of no use to anybody
	}
}

// moveRequests returns nil when the caller has half-closed, and when the backend has ended the call, whose
// status the responses then bring.
func (x *exchange) moveRequests() error {
	f := &x.request

	for {
		if err := x.nextRequest(f); err == io.EOF {
			return x.target.halfClose()
		} else if err != nil {
			return err
		}

		if err := x.target.send(f); err == io.EOF {
			return nil
		} else if err != nil {
			return x.callerError(err)
		}

		f.free() // not with the next message, which may be long in coming
	}
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
