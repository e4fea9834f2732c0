// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"errors"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// statusOr returns err if it is a gRPC status or the end of a context, which has a code of its own, and else a status with
// code that says the same.
func statusOr(code codes.Code, err error) error {
	if _, ok := status.FromError(err); ok {
		return err
	}

	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return status.FromContextError(err).Err()
	}

	return status.Error(code, oneLine(err.Error()))
}

// callerError is err, which the caller's stream returned, unless that only says that the caller is gone: then it is why.
//
// What grpc-go reports to a handler whose caller is gone depends on which of several goroutines saw it first. An error
// of the stream itself, such as a message above the server's limit, ends the stream too, and stays what it is.
func (c *call) callerError(err error) error {
	switch status.Code(err) {
	case codes.Canceled, codes.DeadlineExceeded, codes.Unavailable, codes.Unknown:
		if gone := c.callerGone(); gone != nil {
			return gone
		}
	}

	return statusOr(codes.Internal, err)
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

// callerGone returns the status of a call whose caller has cancelled it or whose deadline is over, and nil while
// the caller waits.
//
// Whether it is the deadline that ended the call is a matter of time, not of what the context says: timers run for it in the
// context, in grpc-go's transport, which cancels the context, in the upstream streams, and at the caller, who cancels the call; and
// any of them may be the first to fire. So a call that ends within deadlineSlack of its deadline ended by that.
func (c *call) callerGone() error {
	ctx := c.stream.Context()

	end := ctx.Err()
	if end != nil {
		end = context.Canceled
	}

	if deadline, ok := ctx.Deadline(); ok {
		if left := time.Until(deadline); left <= 0 || end != nil && left < deadlineSlack {
			end = context.DeadlineExceeded
		}
	}

	if end == nil {
		return nil
	}

	return status.FromContextError(end).Err()
}

// deadlineSlack is what the clocks of a caller and of the proxy may differ about the same deadline: the time that
// the request took to arrive, and the caller's cancellation at its end.
const deadlineSlack = 25 * time.Millisecond

// oneLine returns s without line breaks and other control characters, which have no place in names and messages
// that end up in logs.
func oneLine(s string) string {
	control := func(r rune) bool { return r < ' ' || r == 0x7f }
	if strings.IndexFunc(s, control) < 0 {
		return s
	}

	return strings.Join(strings.FieldsFunc(s, control), " ")
}
