// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"io"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// exchange is a one-to-one call: two flows of messages, each with its own goroutine. The responses flow in the handler's
// goroutine, so that the status leaves without another switch.
type exchange struct {
	*call
	target target

	// Owned by the request pump until requestsDone, then by the handler.
	request      Frame
	requestErr   error // why the request side failed; nil when it ended as it should
	requestsDone atomic.Bool
	pumps        sync.WaitGroup // the request pump

	response Frame // owned by the handler's goroutine
}

// one2one forwards the call to one backend.
func (c *call) one2one(b Backend) error {
	x := &exchange{call: c}
	x.target.init(c, b, 0)

	err := x.target.connect(c.ctx)
	if err == nil {
		err = x.target.open()
	}

	if err != nil {
		err = c.upstreamError(err)
		x.target.finish(PhaseConnect, err)

		return err
	}

	x.pumps.Add(1)
	go x.pumpRequests() // ends with the requests, with the upstream stream, or with the caller's stream: see finishEarly

	phase, err := x.pumpResponses()
	x.response.free()

	if x.requestsDone.Load() {
		if x.requestErr != nil && phase != PhaseComplete {
			phase, err = PhaseRequest, x.requestErr
		}
	} else {
		c.cancel()
		c.finishEarly(err, &x.pumps)
	}

	x.target.finish(phase, err)

	return err
}

// pumpRequests moves requests up until one side ends.
func (x *exchange) pumpRequests() {
	defer x.pumps.Done()

	x.requestErr = x.moveRequests()
	x.request.free()
	x.requestsDone.Store(true)

	if x.requestErr != nil {
		x.cancel() // the responses are of no use to anybody
	}
}

// moveRequests returns nil when the caller half-closed or the backend ended the call, whose status the
// responses then bring.
func (x *exchange) moveRequests() error {
	t, f := &x.target, &x.request

	for first := true; ; first = false {
		if err := x.nextRequest(f); err == io.EOF {
			return statusOrNil(t.stream.CloseSend())
		} else if err != nil {
			return err
		}

		m := f
		if first {
			var err error
			if m, err = t.rewriteFirst(t.ctx, f); err != nil {
				return err
			}
		}

		n := m.Len()
		if err := t.stream.SendMsg(m); err == io.EOF {
			return nil
		} else if err != nil {
			return x.callerError(err)
		}

		t.sent(n)
		f.free() // not with the next message, which may be long in coming
	}
}

// pumpResponses moves header, responses and trailer down. It returns the status that the call ends with.
func (x *exchange) pumpResponses() (Phase, error) {
	t, f := &x.target, &x.response

	header, err := t.stream.Header()
	if err != nil {
		return PhaseResponse, x.upstreamError(err)
	}

	// Without a header there is nothing but a trailer, and it goes on as one. grpc-go says so by a nil map.
	if header != nil {
		dropHopKeys(header)
		t.header = header

		if err := tolerateLateHeader(x.stream.SendHeader(header)); err != nil {
			return PhaseResponse, x.callerError(err)
		}
	}

	for {
		if err := t.stream.RecvMsg(f); err != nil {
			return x.endOfResponses(err)
		}

		t.received(f.Len())

		if err := x.stream.SendMsg(f); err != nil {
			return PhaseResponse, x.callerError(err)
		}

		f.free()
	}
}

// endOfResponses takes over the trailer and the status of a stream whose RecvMsg returned err.
func (x *exchange) endOfResponses(err error) (Phase, error) {
	if trailer := x.target.stream.Trailer(); len(trailer) > 0 {
		dropHopKeys(trailer)
		x.target.trailer = trailer
		x.stream.SetTrailer(trailer)
	}

	if err == io.EOF {
		return PhaseComplete, nil
	}

	if x.ctx.Err() != nil { // the call was cancelled, by the caller or by the request pump
		return PhaseCancelled, x.upstreamError(err)
	}

	return PhaseComplete, statusOr(codes.Unknown, err)
}

// upstreamError is err, the end of an upstream stream, unless that is only the echo of the caller's end.
func (c *call) upstreamError(err error) error {
	switch status.Code(err) {
	case codes.Canceled, codes.DeadlineExceeded:
		return c.callerError(err)
	default:
		return statusOr(codes.Unavailable, err)
	}
}

// statusOrNil gives an error that is no status the code Internal.
func statusOrNil(err error) error {
	if err == nil || err == io.EOF {
		return nil
	}

	return statusOr(codes.Internal, err)
}
