// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// Upstream is a [Backend] over one channel, which gets the caller's metadata.
//
// It forwards what the caller sent, and what interceptors of the server have put into the outgoing context. Its
// fields must not change once it serves calls. The zero value refuses each call with codes.Unavailable.
type Upstream struct {
	// Channel carries the calls: a *grpc.ClientConn, or anything else that opens streams. It stays the property
	// of whoever made it; Upstream never closes it.
	Channel grpc.ClientConnInterface

	// Name is the backend's name in messages and outcomes. When empty it is the target of a channel that has
	// one, as *grpc.ClientConn does, and "upstream" for others.
	Name string

	// Annotator writes the source into answers and errors of one-to-many calls, as that of package splice does.
	// When nil, answers stay as they are and an error ends the whole call. One-to-one calls never need it.
	Annotator Annotator
}

// Annotator is the part of a [Backend] that changes the answers of one-to-many calls. Its methods have the contract
// of the Backend's.
type Annotator interface {
	AppendInfo(streaming bool, resp []byte) ([]byte, error)
	BuildError(streaming bool, err error) ([]byte, error)
}

var (
	_ ChannelBackend = (*Upstream)(nil)
	_ StateBackend   = (*Upstream)(nil)
	_ StreamDirector = (*Upstream)(nil).Direct
)

// Direct is a [StreamDirector] that sends every call here.
func (u *Upstream) Direct(context.Context, string) (Mode, []Backend, error) {
	return One2One, []Backend{u}, nil
}

// String returns the name.
func (u *Upstream) String() string {
	if u.Name != "" {
		return u.Name
	}

	switch channel := u.Channel.(type) {
	case *grpc.ClientConn:
		if channel != nil {
			return channel.Target()
		}
	case interface{ Target() string }:
		return channel.Target()
	}

	return "upstream"
}

// GetChannel returns the channel, and ctx with the caller's metadata in it as outgoing metadata.
func (u *Upstream) GetChannel(ctx context.Context, _ string) (context.Context, grpc.ClientConnInterface, error) {
	if u.Channel == nil {
		return nil, nil, status.Errorf(codes.Unavailable, "proxy: backend %s has no channel", u)
	}

	return forwardMetadata(ctx), u.Channel, nil
}

// GetConnection is GetChannel for those who need a *grpc.ClientConn. The proxy does not call it. It fails with
// codes.Unavailable when the channel is of another kind.
func (u *Upstream) GetConnection(ctx context.Context, method string) (context.Context, *grpc.ClientConn, error) {
	ctx, channel, err := u.GetChannel(ctx, method)
	if err != nil {
		return nil, nil, err
	}

	conn, ok := channel.(*grpc.ClientConn)
	if !ok {
		return nil, nil, status.Errorf(codes.Unavailable, "proxy: the channel of backend %s is a %T, expected a *grpc.ClientConn", u, channel)
	}

	return ctx, conn, nil
}

// AppendInfo leaves it to the annotator, if any.
func (u *Upstream) AppendInfo(streaming bool, resp []byte) ([]byte, error) {
	if u.Annotator == nil {
		return resp, nil
	}

	return u.Annotator.AppendInfo(streaming, resp)
}

// BuildError leaves it to the annotator. Without one it returns nil, so that an error ends the whole call.
func (u *Upstream) BuildError(streaming bool, err error) ([]byte, error) {
	if u.Annotator == nil {
		return nil, nil
	}

	return u.Annotator.BuildError(streaming, err)
}

// State is that of the channel if it has a GetState method, as *grpc.ClientConn does. Any other channel
// counts as ready, and an upstream without one as shut down.
func (u *Upstream) State() connectivity.State {
	switch channel := u.Channel.(type) {
	case nil:
		return connectivity.Shutdown
	case interface{ GetState() connectivity.State }:
		return channel.GetState()
	default:
		return connectivity.Ready
	}
}

// forwardMetadata returns ctx with the incoming metadata added to the outgoing. What belongs to the caller's connection is
// taken out by the handler, for every backend alike.
func forwardMetadata(ctx context.Context) context.Context {
	md := mergeOutgoing(ctx)
	if md == nil {
		return ctx
	}

	return metadata.NewOutgoingContext(ctx, md)
}

// mergeOutgoing returns the incoming metadata with the outgoing added to it: interceptors may have set some already, which
// NewOutgoingContext would drop. It is the caller's to change, and nil if there is nothing to add to the outgoing.
func mergeOutgoing(ctx context.Context) metadata.MD {
	md, ok := metadata.FromIncomingContext(ctx) // a copy
	if !ok {
		return nil
	}

	if set, ok := metadata.FromOutgoingContext(ctx); ok {
		for key, values := range set {
			md[key] = append(md[key], values...)
		}
	}

	return md
}
