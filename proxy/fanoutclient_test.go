// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package proxy_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/manifold-grpc/manifold/fanout"
	"github.com/manifold-grpc/manifold/fanout/fanoutclient"
	"github.com/manifold-grpc/manifold/proxy"
)

// greet is a protobuf backend: it answers each request with "name: request".
func greet(name string, end error) grpc.StreamHandler {
	return func(_ any, s grpc.ServerStream) error {
		_ = s.SetHeader(metadata.Pairs("who", name))

		for {
			m := &wrapperspb.StringValue{}
			if s.RecvMsg(m) != nil {
				return end
			}

			if err := s.SendMsg(wrapperspb.String(name + ": " + m.GetValue())); err != nil {
				return err
			}
		}
	}
}

// greeters are two good backends and one that fails after its answers, over protobuf, and one that cannot be reached.
func greeters(t *testing.T) []proxy.Backend {
	t.Helper()

	start := func(h grpc.StreamHandler) *grpc.ClientConn {
		return dial(t, serve(t, grpc.NewServer(grpc.UnknownServiceHandler(h), grpc.WaitForHandlers(true))))
	}
	backends := make([]proxy.Backend, 0, 4)

	for _, name := range []string{"a", "b", "c"} {
		var end error
		if name == "c" {
			end = status.Error(codes.Aborted, "half-way")
		}

		backends = append(backends, &proxy.Upstream{Name: name, Channel: start(greet(name, end))})
	}

	return append(backends, &proxy.Upstream{Name: "d", Channel: dial(t, closedPort)})
}

// element is one element of a range over answers, as text.
func element(a fanoutclient.Answer[*wrapperspb.StringValue], err error) string {
	var failed *fanoutclient.TargetError
	if errors.As(err, &failed) {
		return fmt.Sprintf("%s/%d!%v", failed.Target.Name, failed.Target.Index, failed.Status.Code())
	}

	if err != nil {
		return "call!" + status.Code(err).String()
	}

	return fmt.Sprintf("%s/%d=%s", a.Target.Name, a.Target.Index, a.Message.GetValue())
}

var fanoutClientTests = []struct {
	name             string
	envelope         bool
	policy           fanout.Policy
	unary, streaming string // sorted
}{
	{
		"envelope", true, fanout.BestEffort(),
		"a/0=a: x b/1=b: x c/2!Aborted c/2=c: x d/3!Unavailable",
		"a/0=a: 1 a/0=a: 2 b/1=b: 1 b/1=b: 2 c/2!Aborted c/2=c: 1 c/2=c: 2 d/3!Unavailable",
	},
	{
		"envelope, all", true, fanout.All(),
		"a/0=a: x b/1=b: x c/2!Aborted c/2=c: x call!Aborted d/3!Unavailable",
		"a/0=a: 1 a/0=a: 2 b/1=b: 1 b/1=b: 2 c/2!Aborted c/2=c: 1 c/2=c: 2 call!Aborted d/3!Unavailable",
	},
	{ // a joined StringValue has the last value
		"joined", false, fanout.Quorum(2),
		"/-1=b: x c/2!Aborted d/3!Unavailable",
		"/-1=a: 1 /-1=a: 2 /-1=b: 1 /-1=b: 2 /-1=c: 1 /-1=c: 2 c/2!Aborted d/3!Unavailable",
	},
}

// The client package reads what the proxy writes, over either carrier, unary and streaming.
func TestFanoutClient(t *testing.T) {
	backends := greeters(t)
	for _, tt := range fanoutClientTests {
		t.Run(tt.name, func(t *testing.T) {
			// The quorum is met before the others have failed, unless they may finish: best effort for all but the joined one,
			// whose failing targets are quicker than the last good one.
			conn := dial(t, startProxy(t, toAll(backends...), proxy.WithStreamedDetector(byName), proxy.WithFanout(proxy.Fanout{
				Policy: tt.policy, Envelope: tt.envelope, Summary: true,
			})))
			caller := fanoutclient.Caller[*wrapperspb.StringValue]{Conn: conn, Envelope: tt.envelope}

			ctx, cancel := context.WithTimeout(context.Background(), testTimeout)
			defer cancel()

			check := func(what string, got []string, want string) {
				slices.Sort(got)

				text := strings.Join(got, " ")
				if tt.name == "joined" { // who fails after the quorum is met was not needed
					text, want = dropFailures(text), dropFailures(want)
				}

				if tt.name == "envelope, all" { // either code may be the one of the first of two targets
					text = strings.ReplaceAll(text, "call!Unavailable", "call!Aborted")
				}

				if text != want {
					t.Errorf("%s: got %s, want %s", what, text, want)
				}
			}

			var got []string
			for a, err := range caller.Call(ctx, unaryMethod, wrapperspb.String("x")) {
				got = append(got, element(a, err))
			}

			check("unary", got, tt.unary)

			if tt.name == "joined" {
				return // of a stream the quorum may be met before all has come
			}

			stream, err := caller.Open(ctx, streamMethod)
			if err != nil {
				t.Fatal(err)
			}

			for _, m := range []string{"1", "2"} {
				if err := stream.Send(wrapperspb.String(m)); err != nil {
					t.Fatal(err)
				}
			}

			_ = stream.CloseSend()
			got = nil

			for a, err := range stream.Answers() {
				got = append(got, element(a, err))
			}

			check("streaming", got, tt.streaming)

			if report := stream.Report(); report.GetTargets() != 4 || report.GetOk() != 2 {
				t.Errorf("report %v", report)
			}

			if who := stream.TargetHeader(1)["who"]; tt.envelope && !slices.Equal(who, []string{"b"}) {
				t.Errorf("header of b: %v", who)
			}
		})
	}
}

// dropFailures drops the elements of failed targets.
func dropFailures(text string) string {
	return strings.Join(slices.DeleteFunc(strings.Split(text, " "), func(s string) bool { return strings.Contains(s, "!") }), " ")
}
