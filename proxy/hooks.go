// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"fmt"
	"runtime/debug"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/grpclog"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
)

// logger reports what has no other way out: the stacks of panics in hooks, which must not reach callers.
var logger = grpclog.Component("proxy")

// recovered turns a panic of what into an error. It must be deferred itself, not called by a deferred function.
func (c *call) recovered(what string, err *error) {
	if r := recover(); r != nil {
		logger.Errorf("%s panicked in a call of %s: %v\n%s", what, c.method, r, debug.Stack())
		*err = status.Errorf(codes.Internal, "proxy: %s panicked", what)
	}
}

// recovered is the same for a hook of the target's backend.
func (t *target) recovered(hook string, err *error) {
	if r := recover(); r != nil {
		name := t.name()
		logger.Errorf("%s of %s panicked in a call of %s: %v\n%s", hook, name, t.call.method, r, debug.Stack())
		*err = status.Errorf(codes.Internal, "proxy: %s of %s panicked", hook, name)
	}
}

// name is the backend's name for messages and outcomes, on one line.
func (t *target) name() (name string) {
	defer func() {
		if recover() != nil {
			name = fmt.Sprintf("backend #%d (String panicked)", t.index)
		}
	}()

	return oneLine(t.backend.String())
}

// connection asks the backend for its connection.
func (t *target) connection(ctx context.Context) (_ context.Context, _ grpc.ClientConnInterface, err error) {
	defer t.recovered("GetConnection", &err)

	if b, ok := t.backend.(ChannelBackend); ok {
		ctx, channel, err := b.GetChannel(ctx, t.call.method)

		return ctx, channel, t.checkConnection(ctx, channel == nil, err)
	}

	ctx, conn, err := t.backend.GetConnection(ctx, t.call.method)

	return ctx, conn, t.checkConnection(ctx, conn == nil, err)
}

// checkConnection gives an error that is no status a code, and a missing connection an error.
func (t *target) checkConnection(ctx context.Context, noConn bool, err error) error {
	switch {
	case err != nil:
		return statusOr(codes.Unavailable, err)
	case noConn:
		return status.Errorf(codes.Internal, "proxy: GetConnection of %s returned neither a connection nor an error", t.name())
	case ctx == nil:
		return status.Errorf(codes.Internal, "proxy: GetConnection of %s returned a nil context", t.name())
	}

	return nil
}

// callOptions asks the backend for its call options.
func (t *target) callOptions(ctx context.Context) (opts []grpc.CallOption, err error) {
	b, ok := t.backend.(CallOptionsBackend)
	if !ok {
		return nil, nil
	}

	defer t.recovered("CallOptions", &err)

	return b.CallOptions(ctx, t.call.method), nil
}

// rewriteFirst lets the backend replace the first request message. The frame that it returns is f itself or a new one.
func (t *target) rewriteFirst(f *Frame) (_ *Frame, err error) {
	b, ok := t.backend.(FirstMessageBackend)
	if !ok {
		return f, nil
	}

	defer t.recovered("RewriteFirst", &err)

	before := f.Bytes()

	after, err := b.RewriteFirst(t.ctx, t.call.method, before)
	if err != nil {
		return nil, hookError("RewriteFirst", err)
	}

	if len(after) == len(before) && (len(after) == 0 || &after[0] == &before[0]) {
		return f, nil
	}

	return &Frame{data: buffersOf(after)}, nil
}

// infoRoom is the spare capacity of a message that AppendInfo gets, so that appending a name to it takes no second copy.
const infoRoom = 128

// appendInfo lets the backend put its information into a response message. What it returns is the caller's to free.
func (t *target) appendInfo(streaming bool, f *Frame) (_ mem.BufferSlice, err error) {
	if appendsNothing(t.backend) {
		f.data.Ref()

		return f.data, nil
	}

	defer t.recovered("AppendInfo", &err)

	// The hook may change what it gets, and the buffers belong to grpc-go and perhaps to other frames.
	n := f.Len()
	own := make([]byte, n, n+infoRoom)
	f.data.CopyTo(own)

	resp, err := t.backend.AppendInfo(streaming, own)
	if err != nil {
		return nil, hookError("AppendInfo", err)
	}

	return buffersOf(resp), nil
}

// appendsNothing reports whether AppendInfo of the backend is known to return what it gets, which then needs no copy.
func appendsNothing(b Backend) bool {
	switch b := b.(type) {
	case *SingleBackend:
		return true
	case *Upstream:
		return b.Annotator == nil
	default:
		return false
	}
}

// buildError lets the backend make a message of an error. It reports false when the backend made none.
func (t *target) buildError(streaming bool, cause error) (_ mem.BufferSlice, made bool, err error) {
	defer t.recovered("BuildError", &err)

	payload, err := t.backend.BuildError(streaming, cause)
	if err != nil {
		return nil, false, hookError("BuildError", err)
	}

	return buffersOf(payload), payload != nil, nil
}

// hookError says which hook returned err. A status is passed on as it is.
func hookError(hook string, err error) error {
	if _, ok := status.FromError(err); ok {
		return err
	}

	return status.Errorf(codes.Internal, "proxy: %s: %s", hook, oneLine(err.Error()))
}

// done hands the outcome to the backend. A panic there has nowhere to go but the log.
func (t *target) done(o Outcome) {
	b, ok := t.backend.(DoneBackend)
	if !ok {
		return
	}

	var err error
	defer t.recovered("Done", &err)

	b.Done(t.call.ctx, o)
}
