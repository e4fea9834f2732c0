// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package relay_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/manifold-grpc/manifold/fanout"
	"github.com/manifold-grpc/manifold/fanout/fanoutpb"
	"github.com/manifold-grpc/manifold/relay"
)

// fanRig is a relay that fans all calls out.
type fanRig struct {
	*rig
	targets []relay.Target
	stats   chan relay.CallStats
}

// fan starts a relay that sends each call to all addresses, with a name each: a, b, c …
func fan(t testing.TB, cfg *relay.FanOut, rc rigConfig, addrs ...string) *fanRig {
	t.Helper()
	f := &fanRig{stats: make(chan relay.CallStats, 10_000)}
	configure := rc.server
	rc.server = func(s *relay.Server) {
		s.Route = func(c *relay.Call) { c.FanOut(cfg, f.targets) }
		s.Hooks.CallEnded = func(_ *relay.Call, st relay.CallStats) { f.stats <- st }
		if configure != nil {
			configure(s)
		}
	}
	f.rig = start(t, rc, addrs...)
	for i, e := range f.backend.Endpoints {
		f.targets = append(f.targets, relay.Target{
			Name:      targetName(i),
			Backend:   &relay.Backend{Name: targetName(i), Endpoints: []*relay.Endpoint{e}},
			Annotator: marks{targetName(i)},
		})
	}
	return f
}

func targetName(i int) string {
	if i < 26 {
		return string(rune('a' + i))
	}
	return fmt.Sprintf("t%d", i)
}

// marks is an annotator that needs no protobuf: "<name:message>" of a unary method, "name:message" of a stream, and
// "<name!CODE>" for a failure.
type marks struct{ name string }

func (m marks) AppendInfo(streaming bool, resp []byte) ([]byte, error) {
	switch {
	case string(resp) == "spoil":
		return nil, status.Error(codes.Internal, "spoiled")
	case string(resp) == "panic":
		panic("on demand")
	case streaming:
		return append(resp, "@"+m.name...), nil
	}
	return []byte("<" + m.name + ":" + string(resp) + ">"), nil
}

func (m marks) BuildError(streaming bool, err error) ([]byte, error) {
	text := m.name + "!" + status.Code(err).String()
	if streaming {
		return []byte(text), nil
	}
	return []byte("<" + text + ">"), nil
}

// answers is a backend that answers each message with a text.
func answers(text string) grpc.StreamHandler {
	return func(_ any, st grpc.ServerStream) error {
		for {
			if _, err := recv(st); err == io.EOF {
				return nil
			} else if err != nil {
				return err
			}
			if err := send(st, text); err != nil {
				return err
			}
		}
	}
}

// fails is a backend that fails after some messages.
func fails(code codes.Code, before ...string) grpc.StreamHandler {
	return func(_ any, st grpc.ServerStream) error {
		for _, m := range before {
			if err := send(st, m); err != nil {
				return err
			}
		}
		return status.Error(code, "on demand")
	}
}

// mute is a backend that answers nothing until the call ends.
func mute(_ any, st grpc.ServerStream) error {
	<-st.Context().Done()
	return st.Context().Err()
}

// collect makes a streaming call with one request and returns all messages and the end.
func collect(ctx context.Context, t testing.TB, cc *grpc.ClientConn, in string) ([]string, *status.Status, metadata.MD) {
	t.Helper()
	st := must(cc.NewStream(ctx, bidi, "/a.B/Stream"))(t)
	if err := send(st, in); err != nil && !errors.Is(err, io.EOF) { // of io.EOF, a call that ended before, recv tells more
		t.Fatal(err)
	}
	check(t, st.CloseSend())
	var got []string
	for {
		m, err := recv(st)
		if errors.Is(err, io.EOF) {
			return got, status.New(codes.OK, ""), st.Trailer()
		}
		if err != nil {
			return got, status.Convert(err), st.Trailer()
		}
		got = append(got, m)
	}
}

// report returns the outcomes in short: name:PHASE:CODE of each target.
func report(t testing.TB, trailer metadata.MD) string {
	t.Helper()
	r := must(fanout.ReadTrailer(trailer))(t)
	if r == nil {
		return "no report"
	}
	var parts []string
	for _, o := range r.GetOutcomes() {
		parts = append(parts, fmt.Sprintf("%s:%s:%v", o.GetTarget().GetName(), phaseName(o.GetPhase()), codes.Code(o.GetStatus().GetCode())))
	}
	return strings.Join(parts, " ")
}

// outcomesOf is report of what the hooks are told.
func outcomesOf(s relay.CallStats) string {
	var parts []string
	for _, o := range s.Targets {
		parts = append(parts, fmt.Sprintf("%s:%s:%v", o.Name, phaseName(o.Phase), o.Status.Code()))
	}
	return strings.Join(parts, " ")
}

func phaseName(p fanoutpb.FanoutPhase) string {
	return strings.ToLower(strings.TrimPrefix(p.String(), "FANOUT_PHASE_"))
}
