// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"
)

// Backend is one upstream of a call, as a [StreamDirector] names it.
//
// One value may serve many calls at once, so its methods must be safe for concurrent use. A panic in any of
// them ends the call (one-to-one) or that backend's part in it (one-to-many) in codes.Internal.
//
// A Backend may have further abilities: see [ChannelBackend], [CallOptionsBackend], [FirstMessageBackend] and [DoneBackend].
type Backend interface {
	// String is the backend's name in error messages and outcomes.
	String() string

	// GetConnection returns the connection that carries the call, and the context for the outgoing call.
	//
	// The returned context should be ctx or derive from it, so that the caller's cancel and deadline reach the
	// backend. A context that does not derive from it is cancelled with the call all the same, but has its own
	// deadline. Metadata is never forwarded by itself: whoever wants the caller's metadata to reach the backend copies it from
	// the incoming to the outgoing context here. Keys that belong to one connection are dropped from it afterwards.
	//
	// An error that is a gRPC status is the answer; any other is reported as codes.Unavailable.
	GetConnection(ctx context.Context, fullMethodName string) (context.Context, *grpc.ClientConn, error)

	// AppendInfo returns resp, a response message of this backend, with whatever the caller needs to tell where it
	// comes from. It is called for one-to-many calls only. resp is its own: it may be changed, extended and kept.
	// With streaming, resp is one message of a stream; without, it is to be joined with the answers of the other backends.
	//
	// An error takes the place of this backend's answer.
	AppendInfo(streaming bool, resp []byte) ([]byte, error)

	// BuildError returns a response message that tells the caller of err, which is how this backend's part in a
	// one-to-many call ended. It is not called for one-to-one calls, whose errors reach the caller as they are.
	//
	// When it returns nil and no error, the whole call fails with err at once, and the other backends are cancelled.
	// The same goes for an error, which is then the reason.
	BuildError(streaming bool, err error) ([]byte, error)
}

// ChannelBackend is a [Backend] over any channel: an in-process one, a tunnel, a pool of connections.
type ChannelBackend interface {
	Backend

	// GetChannel is called in place of GetConnection and has the same contract.
	GetChannel(ctx context.Context, fullMethodName string) (context.Context, grpc.ClientConnInterface, error)
}

// CallOptionsBackend is a [Backend] with call options of its own.
type CallOptionsBackend interface {
	Backend

	// CallOptions returns the options for one call. ctx is what GetConnection returned. They come after those of the proxy,
	// so that they may bound the size of messages; replacing the codec breaks the call.
	CallOptions(ctx context.Context, fullMethodName string) []grpc.CallOption
}

// FirstMessageBackend is a [Backend] that replaces the first request message.
type FirstMessageBackend interface {
	Backend

	// RewriteFirst returns what this backend gets in place of first, the first request message of a call. It must not
	// change or keep first; returning first itself leaves the message as it is. It is not called when the caller sends no message.
	RewriteFirst(ctx context.Context, fullMethodName string, first []byte) ([]byte, error)
}

// DoneBackend is a [Backend] that learns how each call ended.
type DoneBackend interface {
	Backend

	// Done is called once for each call that the director gave to this backend, when nothing more happens
	// between the proxy and the backend, and before the handler returns.
	Done(ctx context.Context, outcome Outcome)
}

// A PromptChannel is a channel whose streams open, and take a first message of up to 64 KiB, without waiting for anything while
// its state is ready and its connections have a stream to spare. A *grpc.ClientConn is taken for one. A
// one-to-many call begins at such channels one after another in the handler's goroutine, which costs less than a goroutine for each.
type PromptChannel interface {
	grpc.ClientConnInterface

	// GetState returns the state as it is now.
	GetState() connectivity.State

	// Prompt reports whether the channel is one.
	Prompt() bool
}

// prompt reports whether a channel is a [PromptChannel], and if so its state.
func prompt(channel grpc.ClientConnInterface) (state connectivity.State, ok bool) {
	switch c := channel.(type) {
	case *grpc.ClientConn:
		return c.GetState(), true
	case PromptChannel:
		return c.GetState(), c.Prompt()
	default:
		return connectivity.Idle, false
	}
}

// SingleBackend is the [Backend] of plain one-to-one forwarding: it needs a connection and nothing else.
type SingleBackend struct {
	// GetConn returns the connection and the outgoing context: see GetConnection of [Backend] for its contract.
	GetConn func(ctx context.Context) (context.Context, *grpc.ClientConn, error)
}

var _ Backend = (*SingleBackend)(nil)

// String returns the constant "backend".
func (sb *SingleBackend) String() string {
	return "backend"
}

// GetConnection calls GetConn.
func (sb *SingleBackend) GetConnection(ctx context.Context, _ string) (context.Context, *grpc.ClientConn, error) {
	return sb.GetConn(ctx)
}

// AppendInfo returns resp as it is.
func (sb *SingleBackend) AppendInfo(_ bool, resp []byte) ([]byte, error) {
	return resp, nil
}

// BuildError returns nil, so that an error of one backend ends the whole call.
func (sb *SingleBackend) BuildError(bool, error) ([]byte, error) {
	return nil, nil
}

// StreamDirector decides where a call goes: the mode, and the backends.
//
// It runs after the server's interceptors, in the goroutine of the call, and may be called by many calls at once. ctx holds the caller's
// metadata, peer and deadline. [FirstMessage] gives it the first request message.
//
// One2One needs exactly one backend, One2Many at least one. An error is the answer to the call: a gRPC status reaches
// the caller as it is. Refuse a method that is not to be forwarded with codes.Unimplemented.
type StreamDirector func(ctx context.Context, fullMethodName string) (Mode, []Backend, error)
