// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package relay_test

import (
	"slices"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/manifold-grpc/manifold/fanout"
	"github.com/manifold-grpc/manifold/relay"
)

// Each policy against targets that are good and bad: the status and the answer are exact. By a clock that jumps, as a doomed call waits
// for the other targets only for a while.
func TestFanUnary(t *testing.T) {
	good, bad, late := answers("m"), fails(codes.NotFound), fails(codes.Aborted, "half")
	half := func(_ any, st grpc.ServerStream) error {
		if err := send(st, "half"); err != nil {
			return err
		}
		return mute(nil, st)
	}
	tests := []struct {
		name    string
		policy  fanout.Policy
		targets []grpc.StreamHandler
		want    string
		code    codes.Code
		message string
		report  string
	}{
		{"all good", fanout.All(), []grpc.StreamHandler{good, good, good}, "<a:m><b:m><c:m>", codes.OK, "",
			"a:complete:OK b:complete:OK c:complete:OK"},
		{"all with a bad one", fanout.All(), []grpc.StreamHandler{good, bad, good}, "", codes.NotFound,
			"fanout: policy all: 1 of 3 targets failed: b: NotFound: on demand", "a:complete:OK b:complete:NotFound c:complete:OK"},
		{"best effort tells in the answer", fanout.BestEffort(), []grpc.StreamHandler{good, bad, late}, "<a:m><b!NotFound><c:half><c!Aborted>", codes.OK, "",
			"a:complete:OK b:complete:NotFound c:complete:Aborted"},
		{"best effort, all failed and told", fanout.BestEffort(), []grpc.StreamHandler{bad, bad}, "<a!NotFound><b!NotFound>", codes.OK, "",
			"a:complete:NotFound b:complete:NotFound"},
		{"quorum leaves out the half answer", fanout.Quorum(2), []grpc.StreamHandler{half, good, good}, "<b:m><c:m>", codes.OK, "",
			"a:cancelled:OK b:complete:OK c:complete:OK"},
		{"quorum missed", fanout.Quorum(2), []grpc.StreamHandler{bad, late, good}, "", codes.NotFound,
			"fanout: policy quorum(2): 2 of 3 targets failed: a: NotFound: on demand; b: Aborted: on demand",
			"a:complete:NotFound b:complete:Aborted c:complete:OK"},
		{"any cancels the silent", fanout.Any(), []grpc.StreamHandler{mute, good}, "<b:m>", codes.OK, "",
			"a:cancelled:OK b:complete:OK"},
		{"primary", fanout.Primary("b"), []grpc.StreamHandler{mute, good, mute}, "<b:m>", codes.OK, "",
			"a:cancelled:OK b:complete:OK c:cancelled:OK"},
		{"primary failed", fanout.Primary("b"), []grpc.StreamHandler{good, bad, mute}, "", codes.NotFound,
			"fanout: policy primary(b): the primary failed: b: NotFound: on demand", ""},
		{"one target's status is its own", fanout.All(), []grpc.StreamHandler{bad}, "", codes.NotFound, "on demand", "a:complete:NotFound"},
	}
	for _, tt := range tests {
		bubble(t, tt.name, func(t *testing.T) {
			var nodes []node
			for _, h := range tt.targets {
				nodes = append(nodes, node{handler: h})
			}
			f, cc := fanMemory(t, &relay.FanOut{Policy: tt.policy, Summary: true}, rigConfig{}, nodes...)
			for range 20 {
				var trailer metadata.MD
				out, err := unary(within(t), cc, "/a.B/Unary", "x", grpc.Trailer(&trailer))
				if st := status.Convert(err); st.Code() != tt.code || st.Message() != tt.message {
					t.Fatalf("status %v %q, want %v %q", st.Code(), st.Message(), tt.code, tt.message)
				}
				if out != tt.want {
					t.Fatalf("answer %q, want %q", out, tt.want)
				}
				s := wait(t, f.stats, "the stats")
				if got := report(t, trailer); got != outcomesOf(s) || tt.report != "" && got != tt.report {
					t.Fatalf("report %q, hooks %q, want %q", got, outcomesOf(s), tt.report)
				}
			}
		})
	}
}

// Messages of a stream interleave whole, those of one target in order.
func TestFanStreaming(t *testing.T) {
	one := func(_ any, st grpc.ServerStream) error {
		for _, m := range []string{"1", "2", "3"} {
			if err := send(st, m); err != nil {
				return err
			}
		}
		return nil
	}
	f := fan(t, &relay.FanOut{Streaming: true, Policy: fanout.BestEffort(), Summary: true}, rigConfig{},
		serve(t, one), serve(t, fails(codes.DataLoss, "1")), serve(t, one))
	got, st, trailer := collect(within(t), t, dial(t, f.addr), "x")
	if st.Code() != codes.OK {
		t.Fatalf("status %v", st)
	}
	for _, want := range [][]string{{"1@a", "2@a", "3@a"}, {"1@b", "b!DataLoss"}, {"1@c", "2@c", "3@c"}} {
		name := want[0][2:]
		own := slices.DeleteFunc(slices.Clone(got), func(m string) bool { return m[2:] != name && m[:1] != name })
		if !slices.Equal(own, want) {
			t.Errorf("of %s: %q, want %q (all: %q)", name, own, want, got)
		}
	}
	if r := report(t, trailer); r != "a:complete:OK b:complete:DataLoss c:complete:OK" {
		t.Errorf("report %q", r)
	}
}
