// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

// Package fanoutclient is for Go programs that call methods which a proxy fans out to many
// targets, and want to know which target said what.
//
// A [Caller] makes the call; the answers come as a range:
//
//	caller := fanoutclient.Caller[*pb.Version]{Conn: conn, Envelope: true}
//	for answer, err := range caller.Call(ctx, "/node.Node/GetVersion", &pb.Empty{}) {
//		var failed *fanoutclient.TargetError
//		switch {
//		case errors.As(err, &failed):
//			log.Printf("%s failed: %v", failed.Target.Name, failed.Status)
//		case err != nil:
//			return err // of the call itself
//		default:
//			log.Printf("%s runs %s", answer.Target.Name, answer.Message.GetTag())
//		}
//	}
//
// It is the same for unary and streaming methods; [Caller.Open] is for those that take many
// requests. The proxy's configuration decides about the carrier, and the client must agree
// ([Caller.Envelope]): nothing on the wire tells one from the other.
package fanoutclient

import (
	"context"
	"fmt"
	"iter"

	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/manifold-grpc/manifold/fanout/fanoutpb"
)

// Caller calls methods whose responses are messages of type M, a pointer to generated
// code. It is safe for concurrent use as long as it does not change.
type Caller[M proto.Message] struct {
	// Conn leads to the proxy. It must be set.
	Conn grpc.ClientConnInterface
	// Envelope says that the proxy wraps each message in a FanoutMessage. Otherwise messages come as
	// the targets sent them, or joined into one, and the failures of targets after them, from
	// the report in the trailer.
	Envelope bool
	// Source returns the name of the target that a message is from, without Envelope, for methods whose
	// messages tell; nil or "": unknown.
	Source func(M) string
	// Options are those of each call.
	Options []grpc.CallOption
}

// Target names one target of a call.
type Target struct {
	Name string
	// Index is the place in the order of the call's targets, from 0, and -1 where it is not known.
	Index int
}

// unknown is the target of what no target is known of.
var unknown = Target{Index: -1}

// Answer is one message of one target.
type Answer[M proto.Message] struct {
	// Target is where Message is from. Its Index is -1 if the carrier does not tell.
	Target Target
	// Message is nil beside an error.
	Message M
}

// TargetError is the failure of one target. The call itself goes on.
type TargetError struct {
	Target Target
	// Phase is the part of the call in which the target failed.
	Phase fanoutpb.FanoutPhase
	// Status is not OK.
	Status *status.Status
}

// Error names the target, the code and the message.
func (e *TargetError) Error() string {
	return fmt.Sprintf("target %s: %v: %s", e.Target.Name, e.Status.Code(), e.Status.Message())
}

// GRPCStatus lets package status see the target's status.
func (e *TargetError) GRPCStatus() *status.Status { return e.Status }

// Call sends one request to a method, as "/package.Service/Method", and returns what comes of
// it. See [Stream.Answers]; the call begins with the range and is cancelled if that is left early. The
// sequence can be ranged over again, which is another call.
func (c Caller[M]) Call(ctx context.Context, method string, request proto.Message) iter.Seq2[Answer[M], error] {
	return func(yield func(Answer[M], error) bool) {
		s, err := c.Open(ctx, method)
		if err != nil {
			yield(Answer[M]{Target: unknown}, err)
			return
		}
		defer s.Cancel()
		// An error of Send that is not the call's own status, such as a request that cannot be encoded, ends the call as
		// well, but RecvMsg would not tell of it.
		if err := s.sendAll(request); err != nil {
			yield(Answer[M]{Target: unknown}, err)
			return
		}
		for answer, err := range s.Answers() {
			if !yield(answer, err) {
				return
			}
		}
	}
}

// Open starts a call to a method that takes any number of requests. The caller must range over [Stream.Answers] to
// its end, or use [Stream.Cancel], or end ctx.
func (c Caller[M]) Open(ctx context.Context, method string) (*Stream[M], error) {
	ctx, cancel := context.WithCancel(ctx)
	desc := &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}
	stream, err := c.Conn.NewStream(ctx, desc, method, c.Options...)
	if err != nil {
		cancel()
		return nil, err
	}
	return &Stream[M]{caller: c, stream: stream, cancel: cancel}, nil
}
