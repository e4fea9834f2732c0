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
	"google.golang.org/protobuf/proto"

	"github.com/manifold-grpc/manifold/fanout"
	"github.com/manifold-grpc/manifold/fanout/fanoutpb"
	"github.com/manifold-grpc/manifold/proxy"
)

// gates let handlers run one after another.
type gates []chan struct{}

func newGates(n int) gates {
	g := make(gates, n)
	for i := range g {
		g[i] = make(chan struct{})
	}

	return g
}

// at returns a handler that waits for gate i, and opens the next when its call is over.
func (g gates) at(i int, h grpc.StreamHandler) grpc.StreamHandler {
	return func(srv any, s grpc.ServerStream) error {
		select {
		case <-g[i]:
			return h(srv, s)
		case <-s.Context().Done():
			return s.Context().Err()
		}
	}
}

// opening is a node that opens the next gate when its part in the call is over.
type opening struct {
	node
	next chan struct{}
}

func (o *opening) Done(context.Context, proxy.Outcome) {
	if o.next != nil {
		close(o.next)
	}
}

// The joined answer is in the order of the targets, or in that of their ends.
func TestByArrival(t *testing.T) {
	for byArrival, want := range map[bool]string{false: "a=1;b=2;c=3;", true: "c=3;b=2;a=1;"} {
		g := newGates(3)
		all := nodes(t, g.at(0, answer("1")), g.at(1, answer("2")), g.at(2, answer("3")))
		close(g[2])

		for i, next := range []chan struct{}{nil, g[0], g[1]} {
			all[i] = &opening{*all[i].(*node), next}
		}

		got, err := call(t, fan(t, all, proxy.WithStreamedDetector(byName), proxy.WithFanout(proxy.Fanout{ByArrival: byArrival})), unaryMethod, "x")
		if err != nil || strings.Join(got, "|") != want {
			t.Errorf("by arrival %v: got %q, %v, want %q", byArrival, got, err, want)
		}
	}
}

// Messages of ordered streams come out in the order of their keys, whoever is quicker.
func TestOrderKey(t *testing.T) {
	key := func(m []byte) string { return string(m) }
	all := nodes(t, answer("1", "4", "7"), answer("2", "5"), answer("3", "6", "8", "9"), nil)

	for range 20 {
		got, err := call(t, fan(t, all, proxy.WithStreamedDetector(byName),
			proxy.WithFanout(proxy.Fanout{Policy: fanout.BestEffort(), OrderKey: key})), streamMethod, "x")

		got = slices.DeleteFunc(got, func(m string) bool { return m == "d!Unavailable" })
		if want := "a=1 b=2 c=3 a=4 b=5 c=6 a=7 c=8 c=9"; err != nil || strings.Join(got, " ") != want {
			t.Fatalf("got %q, %v, want %s", got, err, want)
		}
	}
}

// A silent target holds back no more than the window.
func TestOrderWindow(t *testing.T) {
	for _, o := range []proxy.Fanout{{OrderWindow: 2}, {OrderBytes: 10}} {
		o.OrderKey = func(m []byte) string { return string(m) }
		release := make(chan struct{})
		s := open(t, fan(t, nodes(t, answer("1", "2", "3", "4"), func(srv any, s grpc.ServerStream) error {
			<-release

			return answer("0")(srv, s)
		}), proxy.WithStreamedDetector(byName), proxy.WithFanout(o)), streamMethod)
		_ = s.CloseSend()

		first := recv(t, s) // though "b" may still send a lesser one
		close(release)

		rest, err := collect(s)
		if got := first + " " + strings.Join(rest, " "); err != nil || !strings.HasPrefix(got, "a=1 ") || len(rest) != 4 {
			t.Errorf("got %q, %v", got, err)
		}
	}
}

// A panic of the key function is the failure of the target whose message it was.
func TestOrderKeyPanics(t *testing.T) {
	o := proxy.Fanout{Policy: fanout.BestEffort(), OrderKey: func(m []byte) string {
		if string(m) == "bad" {
			panic("no")
		}

		return ""
	}}

	got, err := call(t, fan(t, nodes(t, answer("bad"), answer("good")), proxy.WithStreamedDetector(byName), proxy.WithFanout(o)), streamMethod, "x")
	slices.Sort(got)

	if err != nil || strings.Join(got, " ") != "a!Internal b=good" {
		t.Errorf("got %q, %v", got, err)
	}
}

// A name that comes twice is two targets, told apart by their index, or one.
func TestDistinct(t *testing.T) {
	all := nodes(t, echo, echo)
	all[1].(*node).name = "a"

	for distinct, want := range map[bool]string{false: "a=x;a=x; 0 1", true: "a=x; 0"} {
		s := open(t, fan(t, all, proxy.WithStreamedDetector(byName), proxy.WithFanout(proxy.Fanout{Distinct: distinct, Summary: true})), unaryMethod)
		send(t, s, "x")
		_ = s.CloseSend()

		got, err := collect(s)
		if err != nil {
			t.Fatal(err)
		}

		var text strings.Builder
		text.WriteString(strings.Join(got, "|"))
		report, _ := fanout.ReadTrailer(s.Trailer())

		for _, o := range report.GetOutcomes() {
			text.WriteString(fmt.Sprint(" ", o.GetTarget().GetIndex()))
		}

		if text.String() != want {
			t.Errorf("distinct %v: got %q, want %q", distinct, text.String(), want)
		}
	}
}

// Calls that must not begin reach nobody.
func TestRefusedFanouts(t *testing.T) {
	tests := []struct {
		name string
		o    proxy.Fanout
		md   metadata.MD
		code codes.Code
		text string
	}{
		{"too many targets", proxy.Fanout{MaxTargets: 2}, nil, codes.ResourceExhausted, "has 3 targets, the limit is 2"},
		{"quorum of more than there are", proxy.Fanout{Policy: fanout.Quorum(4)}, nil, codes.FailedPrecondition, "quorum(4)"},
		{"no such primary", proxy.Fanout{Policy: fanout.Primary("z")}, nil, codes.FailedPrecondition, "primary(z)"},
		{"loop", proxy.Fanout{Guard: &fanout.Guard{ID: "me"}}, metadata.Pairs(fanout.ViaKey, "you,me"), codes.FailedPrecondition, "loop"},
		{"no merger", proxy.Fanout{Merger: func(context.Context, string, []string) proxy.Merger { panic("no") }}, nil, codes.Internal, "NewMerger panicked"},
	}

	unreachable := func(any, grpc.ServerStream) error {
		t.Error("a target got the call")

		return nil
	}
	all := nodes(t, unreachable, unreachable, unreachable)

	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(metadata.NewOutgoingContext(context.Background(), tt.md), testTimeout)
			defer cancel()

			s := openContext(t, ctx, fan(t, all, proxy.WithFanout(tt.o)), unaryMethod)
			send(t, s, "x")
			_ = s.CloseSend()

			_, err := collect(s)
			wantStatus(t, err, tt.code, tt.text)
		})
	}
}

// Each proxy adds itself to what the guard reads, and two that call each other end at the second round.
func TestGuard(t *testing.T) {
	seen := make(chan []string, 1)
	all := nodes(t, func(srv any, s grpc.ServerStream) error {
		seen <- metadata.ValueFromIncomingContext(s.Context(), fanout.ViaKey)

		return echo(srv, s)
	})
	guard := func(id string) []any {
		return []any{proxy.WithStreamedDetector(byName), proxy.WithFanout(proxy.Fanout{Guard: &fanout.Guard{ID: id}})}
	}
	inner := &node{"inner", dial(t, startProxy(t, toAll(all...), guard("two")...))}
	conn := fan(t, []proxy.Backend{inner}, guard("one")...)

	if got, err := call(t, conn, unaryMethod, "x"); err != nil || strings.Join(got, "") != "inner=a=x;;" {
		t.Errorf("got %q, %v", got, err)
	}

	if got := <-seen; !slices.Equal(got, []string{"one,two"}) {
		t.Errorf("via %q", got)
	}

	loop := &node{name: "loop"}
	loop.conn = dial(t, startProxy(t, toAll(loop), proxy.WithFanout(proxy.Fanout{Guard: &fanout.Guard{ID: "x"}})))

	_, err := call(t, loop.conn2(t), unaryMethod, "x")
	wantStatus(t, err, codes.FailedPrecondition, `loop: "x" has fanned this call out already`)
}

// conn2 is a connection for frames to where the node's own leads.
func (n *node) conn2(t *testing.T) *grpc.ClientConn {
	t.Helper()

	return dialRaw(t, strings.TrimPrefix(n.conn.Target(), "passthrough:///"))
}

// Headers and trailers of each target are in its outcome, and the joined ones in the call's.
func TestMetadataPerTarget(t *testing.T) {
	say := func(value string) grpc.StreamHandler {
		return func(srv any, s grpc.ServerStream) error {
			_ = s.SetHeader(metadata.Pairs("h", value))
			s.SetTrailer(metadata.Pairs("t", value))

			return echo(srv, s)
		}
	}
	all := nodes(t, say("1"), say("2"))

	for _, envelope := range []bool{false, true} {
		s := open(t, fan(t, all, proxy.WithStreamedDetector(byName), proxy.WithFanout(proxy.Fanout{
			Envelope: envelope, Summary: true, Report: fanout.ReportLimits{Metadata: true},
		})), unaryMethod)
		send(t, s, "x")
		_ = s.CloseSend()

		got, err := collect(s)
		if err != nil {
			t.Fatal(err)
		}

		report, err := fanout.ReadTrailer(s.Trailer())
		if err != nil {
			t.Fatal(err)
		}

		for i, o := range report.GetOutcomes() {
			want := fmt.Sprint("[", i+1, "]")
			if h, tr := fanout.MetadataOf(o.GetHeader())["h"], fanout.MetadataOf(o.GetTrailer())["t"]; fmt.Sprint(h) != want || fmt.Sprint(tr) != want {
				t.Errorf("target %d: header %v, trailer %v", i, h, tr)
			}
		}

		if header, _ := s.Header(); !envelope && fmt.Sprint(header["h"], s.Trailer()["t"]) != "[1 2] [1 2]" {
			t.Errorf("joined: %v, %v", header["h"], s.Trailer()["t"])
		}

		if envelope {
			headers := map[uint32]string{}

			for _, m := range got {
				var e fanoutpb.FanoutMessage
				if err := proto.Unmarshal([]byte(m), &e); err != nil {
					t.Fatal(err)
				}

				if e.GetHeader() != nil {
					headers[e.GetTarget().GetIndex()] = strings.Join(fanout.MetadataOf(e.GetHeader().GetMetadata())["h"], " ")
				}
			}

			if headers[0] != "1" || headers[1] != "2" {
				t.Errorf("headers of the envelope: %v", headers)
			}
		}
	}
}

// A merger of the program's own sees all events, in the order that is promised, and makes the answer.
func TestMerger(t *testing.T) {
	count := func(_ context.Context, method string, targets []string) proxy.Merger {
		events := make([]string, len(targets))

		return func(e proxy.MergeEvent, send func([]byte) error) error {
			switch {
			case e.Header != nil:
				events[e.Index] += "h"
			case e.Message != nil:
				events[e.Index] += string(e.Message)
			case e.Outcome != nil:
				events[e.Index] += "/" + e.Target + ":" + e.Outcome.Status.Code().String()
			case e.Last:
				return send([]byte(method + " " + strings.Join(events, " ")))
			}

			return nil
		}
	}
	o := proxy.Fanout{Policy: fanout.Quorum(2), Merger: count}

	got, err := call(t, fan(t, nodes(t, answer("1", "2"), answer(""), nil), proxy.WithFanout(o)), unaryMethod, "x")
	if want := unaryMethod + " h12/a:OK h/b:OK "; err != nil || len(got) != 1 || !strings.HasPrefix(got[0], want) || !strings.Contains(got[0], "/c:") {
		t.Errorf("got %q, %v, want %q", got, err, want)
	}
}

// What a merger does wrong costs the target, or the call, and not the process.
func TestMergerFails(t *testing.T) {
	at := func(match func(proxy.MergeEvent) bool, what func() error) proxy.NewMerger {
		return func(context.Context, string, []string) proxy.Merger {
			return func(e proxy.MergeEvent, _ func([]byte) error) error {
				if match(e) {
					return what()
				}

				return nil
			}
		}
	}
	message := func(e proxy.MergeEvent) bool { return string(e.Message) == "bad" }
	last := func(e proxy.MergeEvent) bool { return e.Last }
	crash := func() error { panic("no") }
	complain := func() error { return errors.New("no") }

	tests := []struct {
		name     string
		merger   proxy.NewMerger
		code     codes.Code
		text     string
		outcomes string
	}{
		{"error at a message", at(message, complain), codes.OK, "", "a:HOOK:INTERNAL b:COMPLETE:OK"},
		{"panic at a message", at(message, crash), codes.OK, "", "a:HOOK:INTERNAL b:COMPLETE:OK"},
		{"error at the end", at(last, complain), codes.Internal, "proxy: Merger: no", "a:COMPLETE:OK b:COMPLETE:OK"},
		{"panic at the end", at(last, crash), codes.Internal, "the Merger panicked", "a:COMPLETE:OK b:COMPLETE:OK"},
		{"none", func(context.Context, string, []string) proxy.Merger { return nil }, codes.Internal, "the Merger panicked", ""},
	}

	g := newGates(1)
	close(g[0])

	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := open(t, fan(t, nodes(t, answer("bad"), answer("good")), proxy.WithFanout(proxy.Fanout{
				Policy: fanout.BestEffort(), Merger: tt.merger, Summary: true,
			})), unaryMethod)
			send(t, s, "x")
			_ = s.CloseSend()

			_, err := collect(s)
			wantStatus(t, err, tt.code, tt.text)

			if got := outcomes(t, s); tt.outcomes != "" && got != tt.outcomes {
				t.Errorf("outcomes %s, want %s", got, tt.outcomes)
			}
		})
	}
}

// chosen makes a call with metadata.
func chosen(t *testing.T, conn *grpc.ClientConn, method string, pairs ...string) (string, error) {
	t.Helper()

	ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(context.Background(), pairs...), testTimeout)
	defer cancel()

	s := openContext(t, ctx, conn, method)
	send(t, s, "x")
	_ = s.CloseSend()

	got, err := collect(s)

	return strings.Join(got, "|"), err
}

// Callers choose by metadata, within the allow-list, and only for methods that may be fanned out.
func TestChoice(t *testing.T) {
	hidden := func(srv any, s grpc.ServerStream) error {
		if v := metadata.ValueFromIncomingContext(s.Context(), "nodes"); v != nil {
			t.Errorf("a target got nodes: %q", v)
		}

		return echo(srv, s)
	}
	all := nodes(t, hidden, hidden, hidden, hidden)
	all[3].(*node).name = "10.5.0.7"

	choice := &proxy.Choice{
		Selection: fanout.Selection{Key: "Nodes", Known: []string{"a", "b"}, Patterns: []string{"10.5.0.*"}},
		Backends:  map[string]proxy.Backend{"a": all[0], "b": all[1]},
		Lookup: func(_ context.Context, name string) (proxy.Backend, error) {
			if name == all[3].String() {
				return all[3], nil
			}

			return nil, errors.New("unknown address")
		},
		Allowed: func(method string) bool { return method == unaryMethod },
		Fanout:  &proxy.Fanout{},
	}
	direct := *choice
	direct.Otherwise = toOne(all[2])
	closed := *choice
	closed.Lookup = nil

	tests := []struct {
		choice *proxy.Choice
		method string
		nodes  string
		want   string
		code   codes.Code
		text   string
	}{
		{choice, unaryMethod, "b,a", "b=x;a=x;", codes.OK, ""},
		{choice, unaryMethod, "a,a", "a=x;", codes.OK, ""},
		{choice, unaryMethod, "*", "a=x;b=x;", codes.OK, ""},
		{choice, unaryMethod, "", "a=x;b=x;", codes.OK, ""},
		{choice, unaryMethod, "10.5.0.7,a", "10.5.0.7=x;a=x;", codes.OK, ""},
		{choice, unaryMethod, "10.5.0.8", "", codes.Unavailable, "unknown address"},
		{choice, unaryMethod, "c", "", codes.PermissionDenied, `target "c" is not allowed`},
		{choice, unaryMethod, "10.5.0.7.example.org", "", codes.PermissionDenied, "is not allowed"},
		{choice, streamMethod, "a", "", codes.PermissionDenied, "must not name targets"},
		{choice, streamMethod, "", "", codes.Unimplemented, "is not forwarded"},
		{&direct, streamMethod, "", "x", codes.OK, ""},
		{&direct, streamMethod, ",", "x", codes.OK, ""},
		{&direct, unaryMethod, ",", "x", codes.OK, ""},
		{&direct, unaryMethod, "a", "a=x;", codes.OK, ""},
		{&closed, unaryMethod, "10.5.0.7", "", codes.NotFound, `no target "10.5.0.7"`},
	}

	for _, tt := range tests {
		conn := dialRaw(t, startProxy(t, tt.choice.Direct, proxy.WithStreamedDetector(byName)))

		var pairs []string
		if tt.nodes != "" {
			pairs = []string{"nodes", tt.nodes}
		}

		got, err := chosen(t, conn, tt.method, pairs...)
		wantStatus(t, err, tt.code, tt.text)

		if got != tt.want {
			t.Errorf("%s of %q: got %q, want %q", tt.method, tt.nodes, got, tt.want)
		}
	}
}

// toOne is a director of one-to-one calls.
func toOne(b proxy.Backend) proxy.StreamDirector {
	return func(context.Context, string) (proxy.Mode, []proxy.Backend, error) {
		return proxy.One2One, []proxy.Backend{b}, nil
	}
}

// A director sets the options of its call; nobody else can.
func TestSetFanout(t *testing.T) {
	all := nodes(t, echo, nil)
	conn := dialRaw(t, startProxy(t, func(ctx context.Context, method string) (proxy.Mode, []proxy.Backend, error) {
		if method == streamMethod {
			return proxy.One2Many, all, nil
		}

		return proxy.One2Many, all, proxy.SetFanout(ctx, &proxy.Fanout{Policy: fanout.Quorum(2)})
	}, proxy.WithStreamedDetector(byName), proxy.WithFanout(proxy.Fanout{Policy: fanout.Any()})))

	_, err := call(t, conn, unaryMethod, "x")
	wantStatus(t, err, codes.Unavailable, "quorum(2)")

	if got, err := call(t, conn, streamMethod, "x"); err != nil || len(got) == 0 {
		t.Errorf("got %q, %v", got, err)
	}

	wantStatus(t, proxy.SetFanout(context.Background(), &proxy.Fanout{}), codes.Internal, "SetFanout is for directors")
}

// Calls without options read no clock for outcomes and have no trailer of the proxy's own.
func TestNoTrailerWithoutSummary(t *testing.T) {
	for _, opts := range [][]any{nil, {proxy.WithFanout(proxy.Fanout{})}} {
		s := open(t, fan(t, nodes(t, echo, echo), opts...), unaryMethod)
		send(t, s, "x")
		_ = s.CloseSend()

		if _, err := collect(s); err != nil {
			t.Error(err)
		}

		if len(s.Trailer()) != 0 {
			t.Errorf("trailer %v", s.Trailer())
		}
	}
}
