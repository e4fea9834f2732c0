// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package relay_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/manifold-grpc/manifold/fanout"
	"github.com/manifold-grpc/manifold/relay"
)

// journal is a merger that sends a line for each event.
func journal(_ *relay.Call, targets []string) relay.Merger {
	return func(e relay.MergeEvent, send func([]byte)) error {
		switch {
		case e.Last:
			send(fmt.Appendf(nil, "last of %d", len(targets)))
		case e.Header != nil:
			send(fmt.Appendf(nil, "%s header %v", e.Target, e.Header["x-own"]))
		case e.Message != nil:
			if string(e.Message) == "spoil" {
				send([]byte("not sent"))
				return status.Error(codes.DataLoss, "spoiled")
			}
			send([]byte(e.Target + " " + string(e.Message)))
		case e.Outcome.Status.Code() == codes.ResourceExhausted:
			return status.Error(codes.FailedPrecondition, "no such outcome, please")
		default:
			send(fmt.Appendf(nil, "%s %s %v", e.Target, phaseName(e.Outcome.Phase), e.Outcome.Status.Code()))
		}
		return nil
	}
}

// The program's function hears of everything, in order for each target, and makes the answer.
func TestFanMerger(t *testing.T) {
	titled := node{handler: func(_ any, st grpc.ServerStream) error {
		time.Sleep(time.Millisecond)
		if err := st.SendHeader(metadata.Pairs("x-own", "yes")); err != nil {
			return err
		}
		return send(st, "hello")
	}}
	late := node{handler: slow(10*time.Millisecond, answers("m"))}
	tests := []struct {
		name   string
		policy fanout.Policy
		nodes  []node
		want   string
		code   codes.Code
	}{
		{"headers, messages, outcomes", fanout.All(), []node{titled, late},
			"a header [yes]|a hello|a complete OK|b header []|b m|b complete OK|last of 2", codes.OK},
		{"the unneeded", fanout.Any(), []node{titled, {handler: mute}}, "a header [yes]|a hello|a complete OK|b cancelled OK|last of 2", codes.OK},
		{"a failed message", fanout.BestEffort(), []node{{handler: answers("spoil")}, late},
			"a header []|a hook DataLoss|b header []|b m|b complete OK|last of 2", codes.OK},
		{"a failed call has no last", fanout.All(), []node{{handler: fails(codes.NotFound)}, late},
			"a complete NotFound|b header []|b m|b complete OK", codes.NotFound},
		{"an error at an outcome", fanout.BestEffort(), []node{{handler: fails(codes.ResourceExhausted)}, {handler: mute}}, "", codes.FailedPrecondition},
	}
	for _, tt := range tests {
		bubble(t, tt.name, func(t *testing.T) {
			_, cc := fanMemory(t, &relay.FanOut{Policy: tt.policy, Merger: journal, Envelope: true}, rigConfig{}, tt.nodes...)
			got, st, _ := collect(t.Context(), t, cc, "x")
			if strings.Join(got, "|") != tt.want || st.Code() != tt.code {
				t.Errorf("%q, %v\nwant %q, %v", strings.Join(got, "|"), st, tt.want, tt.code)
			}
		})
	}
}

// A merger joins the answers of a unary method into one, and panics are errors.
func TestFanMergerUnary(t *testing.T) {
	longest := func(*relay.Call, []string) relay.Merger {
		var best []byte
		return func(e relay.MergeEvent, send func([]byte)) error {
			if len(e.Message) > len(best) {
				best = slices.Clone(e.Message)
			}
			if e.Last {
				send(best)
			}
			return nil
		}
	}
	bubble(t, "one answer", func(t *testing.T) {
		_, cc := fanMemory(t, &relay.FanOut{Merger: longest}, rigConfig{}, node{handler: answers("m")}, node{handler: answers("mmm")}, node{handler: answers("mm")})
		if out, err := unary(within(t), cc, "/a.B/Unary", "x"); err != nil || out != "mmm" {
			t.Errorf("%q, %v", out, err)
		}
	})
	bubble(t, "panics", func(t *testing.T) {
		_, cc := fanMemory(t, &relay.FanOut{Merger: func(*relay.Call, []string) relay.Merger { panic("on demand") }}, rigConfig{}, node{handler: answers("m")})
		if _, err := unary(within(t), cc, "/a.B/Unary", "x"); status.Code(err) != codes.Internal || !strings.Contains(err.Error(), "NewMerger") {
			t.Errorf("%v", err)
		}
	})
	bubble(t, "panics later", func(t *testing.T) {
		_, cc := fanMemory(t, &relay.FanOut{Merger: func(*relay.Call, []string) relay.Merger {
			return func(relay.MergeEvent, func([]byte)) error { panic("on demand") }
		}}, rigConfig{}, node{handler: answers("m")})
		if _, err := unary(within(t), cc, "/a.B/Unary", "x"); status.Code(err) != codes.Internal || !strings.Contains(err.Error(), "panic in Merger") {
			t.Errorf("%v", err)
		}
	})
}
