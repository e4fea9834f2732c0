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

// callerError is err, unless the caller is gone: then it is that.
//
// What grpc-go reports to a handler whose caller is gone depends on which of several goroutines saw it first.
func (c *call) callerError(err error) error {
	if gone := c.callerGone(); gone != nil {
		return gone
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
// The deadline is looked at first. Several timers run for it, in the context, in grpc-go's transport, which cancels the
// context, and in the upstream streams, and any of them may be the first to fire.
func (c *call) callerGone() error {
	ctx := c.stream.Context()

	if deadline, ok := ctx.Deadline(); ok && !time.Now().Before(deadline) {
		return status.FromContextError(context.DeadlineExceeded).Err()
	}

	if err := ctx.Err(); err != nil {
		return status.FromContextError(err).Err()
	}

	return nil
}

// oneLine returns s without line breaks and other control characters, which have no place in names and messages
// that end up in logs.
func oneLine(s string) string {
	control := func(r rune) bool { return r < ' ' || r == 0x7f }
	if strings.IndexFunc(s, control) < 0 {
		return s
	}

	return strings.Join(strings.FieldsFunc(s, control), " ")
}
