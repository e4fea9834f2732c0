// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package fanoutclient

import (
	"context"
	"errors"
	"io"
	"iter"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/manifold-grpc/manifold/fanout"
	"github.com/manifold-grpc/manifold/fanout/fanoutpb"
)

// Stream is one call. One goroutine may send while another ranges over the answers.
type Stream[M proto.Message] struct {
	caller Caller[M]
	stream grpc.ClientStream
	cancel context.CancelFunc

	// Owned by the goroutine that ranges over the answers.
	headers map[int]metadata.MD // by the index of the target
	report  *fanoutpb.FanoutReport
	over    bool
}

// Send sends a request to all targets. It returns io.EOF when the call has ended: the
// range over the answers tells why.
func (s *Stream[M]) Send(request proto.Message) error { return s.stream.SendMsg(request) }

// CloseSend says that there are no more requests.
func (s *Stream[M]) CloseSend() error { return s.stream.CloseSend() }

// sendAll sends the one request of a call.
func (s *Stream[M]) sendAll(request proto.Message) error {
	if err := s.Send(request); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	return s.CloseSend()
}

// Cancel ends the call. After its end it does nothing.
func (s *Stream[M]) Cancel() { s.cancel() }

// Header waits for the call's own header.
func (s *Stream[M]) Header() (metadata.MD, error) { return s.stream.Header() }

// Trailer returns the call's own trailer, once the range over the answers is at its end.
func (s *Stream[M]) Trailer() metadata.MD { return s.stream.Trailer() }

// TargetHeader returns the header of the target at index, nil if none has come. Only the
// envelope has them. It is for the goroutine that ranges over the answers.
func (s *Stream[M]) TargetHeader(index int) metadata.MD { return s.headers[index] }

// Report returns the report of the call, once the range over the answers is at its end; nil if the
// proxy sent none.
func (s *Stream[M]) Report() *fanoutpb.FanoutReport { return s.report }

// Answers returns the messages of all targets as they come, those of one target in their
// order, and the errors:
//
//   - A [TargetError] for each target that failed, and with the envelope for each message that
//     is not of type M. The range goes on. Without the envelope these come last, and
//     a report that had to be cut short does not have all: compare its count of
//     failures.
//   - The status of the call, if it is not OK, with which the range ends.
//
// A target that was stopped because the call needed it no more is no error. To leave
// the range early cancels the call. The answers can be had once.
func (s *Stream[M]) Answers() iter.Seq2[Answer[M], error] {
	return func(yield func(Answer[M], error) bool) {
		if s.over {
			return
		}
		s.over = true
		defer s.cancel()
		for {
			answer, event, err := s.next()
			if err != nil {
				s.finish(err, yield)
				return
			}
			if event != nil {
				err = event // not a *TargetError of nil in an error
			}
			if event == nil && !answer.Message.ProtoReflect().IsValid() {
				continue
			}
			if !yield(answer, err) {
				return
			}
		}
	}
}

// next receives one message. It gives an answer, or the failure of a target, or neither for
// what is not for the range; err is the end of the call.
func (s *Stream[M]) next() (Answer[M], *TargetError, error) {
	if s.caller.Envelope {
		m := &fanoutpb.FanoutMessage{}
		if err := s.stream.RecvMsg(m); err != nil {
			return Answer[M]{}, nil, err
		}
		answer, failed := s.unwrap(m)
		return answer, failed, nil
	}
	m := newMessage[M]()
	if err := s.stream.RecvMsg(m); err != nil {
		return Answer[M]{}, nil, err
	}
	answer := Answer[M]{Target: unknown, Message: m}
	if s.caller.Source != nil {
		answer.Target.Name = s.caller.Source(m)
	}
	return answer, nil, nil
}

func (s *Stream[M]) unwrap(m *fanoutpb.FanoutMessage) (Answer[M], *TargetError) {
	target := targetOf(m.GetTarget())
	answer := Answer[M]{Target: target}
	switch event := m.GetEvent().(type) {
	case *fanoutpb.FanoutMessage_Payload:
		message := newMessage[M]()
		if err := proto.Unmarshal(event.Payload, message); err != nil {
			st := status.Newf(codes.Internal, "fanoutclient: a message is no %s: %v", message.ProtoReflect().Descriptor().FullName(), err)
			return answer, &TargetError{target, fanoutpb.FanoutPhase_FANOUT_PHASE_RECEIVE, st}
		}
		answer.Message = message
	case *fanoutpb.FanoutMessage_Header:
		if s.headers == nil {
			s.headers = map[int]metadata.MD{}
		}
		s.headers[target.Index] = fanout.MetadataOf(event.Header.GetMetadata())
	case *fanoutpb.FanoutMessage_Outcome:
		return answer, failure(target, event.Outcome)
	}
	return answer, nil
}

// finish reads the report and yields what the end of the call tells. err is io.EOF for
// the status OK.
func (s *Stream[M]) finish(err error, yield func(Answer[M], error) bool) {
	report, broken := fanout.ReadTrailer(s.stream.Trailer())
	s.report = report
	if !s.caller.Envelope { // else each outcome has come by itself
		for _, o := range report.GetOutcomes() {
			if failed := failure(targetOf(o.GetTarget()), o); failed != nil && !yield(Answer[M]{Target: failed.Target}, failed) {
				return
			}
		}
	}
	switch {
	case !errors.Is(err, io.EOF):
		yield(Answer[M]{Target: unknown}, err)
	case broken != nil:
		yield(Answer[M]{Target: unknown}, status.Error(codes.Internal, broken.Error()))
	}
}

// failure returns nil for a target that has not failed.
func failure(target Target, o *fanoutpb.FanoutOutcome) *TargetError {
	st := status.FromProto(o.GetStatus())
	if st.Code() == codes.OK || o.GetPhase() == fanoutpb.FanoutPhase_FANOUT_PHASE_CANCELLED {
		return nil
	}
	return &TargetError{target, o.GetPhase(), st}
}

func targetOf(t *fanoutpb.FanoutTarget) Target {
	if t == nil {
		return unknown
	}
	return Target{t.GetName(), int(t.GetIndex())}
}

// newMessage returns an empty message of type M.
func newMessage[M proto.Message]() M {
	var none M // a nil pointer, whose methods know its type
	return none.ProtoReflect().New().Interface().(M)
}
