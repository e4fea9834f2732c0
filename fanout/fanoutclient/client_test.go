// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package fanoutclient_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"reflect"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/manifold-grpc/manifold/fanout"
	"github.com/manifold-grpc/manifold/fanout/fanoutclient"
	"github.com/manifold-grpc/manifold/fanout/fanoutpb"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	complete  = fanoutpb.FanoutPhase_FANOUT_PHASE_COMPLETE
	connect   = fanoutpb.FanoutPhase_FANOUT_PHASE_CONNECT
	cancelled = fanoutpb.FanoutPhase_FANOUT_PHASE_CANCELLED

	method = "/test.Fleet/Ask"
)

// dial returns a connection over TCP to a server that runs handler for every method.
func dial(t *testing.T, handler func(grpc.ServerStream) error) *grpc.ClientConn {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(grpc.UnknownServiceHandler(func(_ any, s grpc.ServerStream) error { return handler(s) }))
	done := make(chan error, 1)
	go func() { done <- server.Serve(listener) }() // ends with Stop
	conn, err := grpc.NewClient(listener.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = conn.Close()
		server.Stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return conn
}

// text is a message in the tests: a string that says who sends what.
func text(s string) *wrapperspb.StringValue { return wrapperspb.String(s) }

// request receives one request and the end of the requests.
func request(s grpc.ServerStream) (string, error) {
	m := text("")
	if err := s.RecvMsg(m); err != nil {
		return "", err
	}
	if err := s.RecvMsg(text("")); err != io.EOF {
		return "", fmt.Errorf("after the request: %w", err)
	}
	return m.GetValue(), nil
}

// wrapped sends an encoded FanoutMessage.
func wrapped(s grpc.ServerStream, b []byte) error {
	m := &fanoutpb.FanoutMessage{}
	if err := proto.Unmarshal(b, m); err != nil {
		return err
	}
	return s.SendMsg(m)
}

func payload(t *testing.T, e fanout.Envelope, m proto.Message) []byte {
	t.Helper()
	b, err := proto.Marshal(m)
	if err != nil {
		t.Error(err)
	}
	return append(e.AppendPrefix(nil, len(b)), b...)
}

// describe is one element of the range in a line.
func describe(a fanoutclient.Answer[*wrapperspb.StringValue], err error) string {
	var failed *fanoutclient.TargetError
	switch {
	case errors.As(err, &failed):
		return fmt.Sprintf("%s/%d failed: %v: %v", a.Target.Name, a.Target.Index, failed.Phase, failed.Status.Code())
	case err != nil:
		return fmt.Sprintf("call: %v: %s", status.Code(err), status.Convert(err).Message())
	}
	return fmt.Sprintf("%s/%d: %s", a.Target.Name, a.Target.Index, a.Message.GetValue())
}

type caller = fanoutclient.Caller[*wrapperspb.StringValue]

// outcomes are those of the calls in the tests: a is good, b is down, c was not needed.
var outcomes = []fanout.Outcome{
	{Name: "a", Phase: complete, ResponseMessages: 1},
	{Name: "b", Index: 1, Phase: connect, Status: status.New(codes.Unavailable, "connection refused")},
	{Name: "c", Index: 2, Phase: cancelled, Status: status.New(codes.Canceled, "not needed")},
}

// enveloped answers with a header, two payloads of a, and the outcomes.
func enveloped(t *testing.T, end error) func(grpc.ServerStream) error {
	return func(s grpc.ServerStream) error {
		asked, err := request(s)
		if err != nil {
			return err
		}
		var envelopes []fanout.Envelope
		for _, o := range outcomes {
			envelopes = append(envelopes, fanout.NewEnvelope(o.Name, o.Index))
		}
		a := envelopes[0]
		messages := [][]byte{a.Header(metadata.Pairs("k", "of a")), payload(t, a, text(asked+" 1"))}
		messages = append(messages, envelopes[1].Outcome(outcomes[1], false), payload(t, a, text(asked+" 2")))
		messages = append(messages, a.Outcome(outcomes[0], false), envelopes[2].Outcome(outcomes[2], false))
		for _, m := range messages {
			if err := wrapped(s, m); err != nil {
				return err
			}
		}
		s.SetTrailer(fanout.Trailer(fanout.NewReport(outcomes, fanout.ReportLimits{})))
		return end
	}
}

// plainly answers with one message, and tells the outcomes in the trailer alone.
func plainly(end error) func(grpc.ServerStream) error {
	return func(s grpc.ServerStream) error {
		asked, err := request(s)
		if err != nil {
			return err
		}
		if err := s.SendMsg(text(asked + " 1")); err != nil {
			return err
		}
		s.SetTrailer(fanout.Trailer(fanout.NewReport(outcomes, fanout.ReportLimits{})))
		return end
	}
}

func TestCall(t *testing.T) {
	t.Parallel()
	refused := status.Error(codes.Unavailable, "1 of 3 targets failed")
	source := func(m *wrapperspb.StringValue) string { return "from " + m.GetValue() }
	tests := []struct {
		name    string
		handler func(grpc.ServerStream) error
		caller  caller
		want    []string
	}{
		{"envelope", enveloped(t, nil), caller{Envelope: true}, []string{"a/0: x 1", "b/1 failed: FANOUT_PHASE_CONNECT: Unavailable", "a/0: x 2"}},
		{"envelope, failed", enveloped(t, refused), caller{Envelope: true}, []string{
			"a/0: x 1", "b/1 failed: FANOUT_PHASE_CONNECT: Unavailable", "a/0: x 2", "call: Unavailable: 1 of 3 targets failed",
		}},
		{"plain", plainly(nil), caller{}, []string{"/-1: x 1", "b/1 failed: FANOUT_PHASE_CONNECT: Unavailable"}},
		{"plain, failed", plainly(refused), caller{}, []string{
			"/-1: x 1", "b/1 failed: FANOUT_PHASE_CONNECT: Unavailable", "call: Unavailable: 1 of 3 targets failed",
		}},
		{"plain with a source", plainly(nil), caller{Source: source}, []string{"from x 1/-1: x 1", "b/1 failed: FANOUT_PHASE_CONNECT: Unavailable"}},
		{"refused", func(grpc.ServerStream) error { return refused }, caller{}, []string{"call: Unavailable: 1 of 3 targets failed"}},
		{"no report", func(s grpc.ServerStream) error { return s.SendMsg(text("alone")) }, caller{}, []string{"/-1: alone"}},
		{"a report that is none", func(s grpc.ServerStream) error {
			s.SetTrailer(metadata.Pairs(fanout.ReportKey, "\xff"))
			return nil
		}, caller{}, []string{"call: Internal: "}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			tt.caller.Conn = dial(t, tt.handler)
			calls := tt.caller.Call(t.Context(), method, text("x"))
			for range 2 { // each range is a call
				var got []string
				for answer, err := range calls {
					got = append(got, describe(answer, err))
				}
				if n := len(tt.want) - 1; len(got) == n+1 && strings.HasSuffix(tt.want[n], ": ") && strings.HasPrefix(got[n], tt.want[n]) {
					got[n] = tt.want[n] // the text is protobuf's own
				}
				if !reflect.DeepEqual(got, tt.want) {
					t.Errorf("got  %q\nwant %q", got, tt.want)
				}
			}
		})
	}
}

// TestWrongType has a payload that is no message of the caller's type: the range goes on.
func TestWrongType(t *testing.T) {
	t.Parallel()
	conn := dial(t, func(s grpc.ServerStream) error {
		e := fanout.NewEnvelope("a", 0)
		return errors.Join(wrapped(s, payload(t, e, durationpb.New(time.Second))), wrapped(s, append(e.AppendPrefix(nil, 1), 0xff)), wrapped(s, payload(t, e, text("good"))))
	})
	var got []string
	for answer, err := range (caller{Conn: conn, Envelope: true}).Call(t.Context(), method, text("x")) {
		got = append(got, describe(answer, err))
	}
	// The first has a field of number 1 and another type, which protobuf takes for an unknown one.
	want := []string{"a/0: ", "a/0 failed: FANOUT_PHASE_RECEIVE: Internal", "a/0: good"}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestStream talks to all targets: an answer to each request, before the next.
func TestStream(t *testing.T) {
	t.Parallel()
	conn := dial(t, func(s grpc.ServerStream) error {
		e := fanout.NewEnvelope("a", 0)
		if err := wrapped(s, e.Header(metadata.Pairs("k", "of a"))); err != nil {
			return err
		}
		m := text("")
		for {
			if err := s.RecvMsg(m); err == io.EOF {
				s.SetTrailer(fanout.Trailer(fanout.NewReport(outcomes, fanout.ReportLimits{})))
				return nil
			} else if err != nil {
				return err
			}
			if err := wrapped(s, payload(t, e, text("re: "+m.GetValue()))); err != nil {
				return err
			}
		}
	})
	s, err := caller{Conn: conn, Envelope: true}.Open(t.Context(), method)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Cancel()
	requests := []string{"one", "two"}
	send := func() error {
		if len(requests) == 0 {
			return s.CloseSend()
		}
		next := requests[0]
		requests = requests[1:]
		return s.Send(text(next))
	}
	if err := send(); err != nil {
		t.Fatal(err)
	}
	var got []string
	for answer, err := range s.Answers() {
		got = append(got, describe(answer, err))
		if err := send(); err != nil {
			t.Fatal(err)
		}
	}
	if want := []string{"a/0: re: one", "a/0: re: two"}; !reflect.DeepEqual(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if k := s.TargetHeader(0).Get("k"); len(k) != 1 || k[0] != "of a" || s.TargetHeader(1) != nil {
		t.Errorf("headers %v and %v", s.TargetHeader(0), s.TargetHeader(1))
	}
	if r := s.Report(); r.GetTargets() != 3 || r.GetFailed() != 1 || len(s.Trailer().Get(fanout.SummaryKey)) != 1 {
		t.Errorf("report %v, trailer %v", r, s.Trailer())
	}
	for range s.Answers() {
		t.Error("an answer after the end")
	}
}

// TestLeave leaves the range early: the server sees the call cancelled.
func TestLeave(t *testing.T) {
	t.Parallel()
	for _, envelope := range []bool{false, true} {
		t.Run(fmt.Sprint("envelope ", envelope), func(t *testing.T) {
			t.Parallel()
			gone := make(chan error, 1)
			conn := dial(t, func(s grpc.ServerStream) error {
				var err error
				if envelope {
					err = wrapped(s, payload(t, fanout.NewEnvelope("a", 0), text("first")))
				} else {
					err = s.SendMsg(text("first"))
				}
				<-s.Context().Done()
				gone <- errors.Join(err, s.Context().Err())
				return nil
			})
			ctx, stop := context.WithTimeout(t.Context(), 20*time.Second)
			defer stop()
			s, err := caller{Conn: conn, Envelope: envelope}.Open(ctx, method)
			if err != nil {
				t.Fatal(err)
			}
			for _, err := range s.Answers() {
				if err != nil {
					t.Error(err)
				}
				break
			}
			if err := <-gone; !errors.Is(err, context.Canceled) {
				t.Errorf("the server saw %v", err)
			}
		})
	}
}

// TestFailedAsStatus has package status see a target's own status.
func TestFailedAsStatus(t *testing.T) {
	t.Parallel()
	conn := dial(t, plainly(nil))
	var failed error
	for _, err := range (caller{Conn: conn}).Call(t.Context(), method, text("x")) {
		if err != nil {
			failed = err
		}
	}
	if status.Code(failed) != codes.Unavailable || failed.Error() != "target b: Unavailable: connection refused" {
		t.Errorf("%v with code %v", failed, status.Code(failed))
	}
}

// TestNoCall has calls that do not begin: the error comes through the range.
func TestNoCall(t *testing.T) {
	t.Parallel()
	conn := dial(t, plainly(nil))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	tests := []struct {
		name    string
		ctx     context.Context
		request proto.Message
		want    codes.Code
	}{
		{"context is over", ctx, text("x"), codes.Canceled},
		{"request cannot be encoded", t.Context(), text("\xff"), codes.Internal},
	}
	for _, tt := range tests {
		var got []codes.Code
		for answer, err := range (caller{Conn: conn}).Call(tt.ctx, method, tt.request) {
			got = append(got, status.Code(err))
			if answer.Target.Index != -1 {
				t.Errorf("%s: target %v", tt.name, answer.Target)
			}
		}
		if len(got) != 1 || got[0] != tt.want {
			t.Errorf("%s: codes %v, want %v", tt.name, got, tt.want)
		}
	}
}
