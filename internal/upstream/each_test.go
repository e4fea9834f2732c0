// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/manifold-grpc/manifold/fanout"
	"github.com/manifold-grpc/manifold/internal/config"
	"github.com/manifold-grpc/manifold/relay"
)

// fanClient runs a relay that sends each call to all endpoints of b, and returns a channel to it.
func (w *world) fanClient(b *Backend) *grpc.ClientConn {
	cfg := &relay.FanOut{Policy: fanout.All(), Summary: true}

	return w.routed(func(c *relay.Call) {
		var targets []relay.Target
		for _, e := range b.Each() {
			targets = append(targets, relay.Target{Name: e.Name, Backend: e.Relay})
		}
		c.FanOut(cfg, targets)
	})
}

// fanCall calls all endpoints, and returns what became of each, "name phase CODE", and what the failed ones said.
func fanCall(t *testing.T, cc *grpc.ClientConn, timeout time.Duration) (outcomes, why string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	var trailer metadata.MD
	err := cc.Invoke(ctx, "/a.B/C", &emptypb.Empty{}, &emptypb.Empty{}, grpc.Trailer(&trailer))
	r, rerr := fanout.ReadTrailer(trailer)
	if rerr != nil || r == nil {
		t.Fatalf("no report: %v, the call ended with %v", rerr, err)
	}
	var all []string
	for _, o := range r.GetOutcomes() {
		phase := strings.ToLower(strings.TrimPrefix(o.GetPhase().String(), "FANOUT_PHASE_"))
		all = append(all, fmt.Sprint(o.GetTarget().GetName(), " ", phase, " ", codes.Code(o.GetStatus().GetCode())))
		why += o.GetStatus().GetMessage()
	}

	return strings.Join(all, ", "), why
}

const eachGood = "a:1 complete OK, b:1 complete OK"

// eachCases are what becomes of b:1, and of a call then.
var eachCases = []struct {
	name     string
	prepare  func(t *testing.T, b *Backend, n *node, hs *health.Server, cc *grpc.ClientConn)
	outcomes string
	why      string // in b:1's status
	mend     func(n *node, hs *health.Server)
}{
	{
		"refuses connections", func(_ *testing.T, _ *Backend, n *node, _ *health.Server, _ *grpc.ClientConn) {
			n.kill()
			time.Sleep(time.Second)
		},
		"a:1 complete OK, b:1 connect Unavailable", "backend b: endpoint is not available, last error: b:1: connection refused",
		func(n *node, _ *health.Server) { n.revive() },
	},
	{
		"silent", func(t *testing.T, _ *Backend, n *node, _ *health.Server, cc *grpc.ClientConn) {
			n.setHole(true)
			// The first call finds out.
			if got, _ := fanCall(t, cc, 5*time.Second); got != "a:1 complete OK, b:1 receive DeadlineExceeded" {
				t.Errorf("the first call: %s", got)
			}
		},
		"a:1 complete OK, b:1 connect Unavailable", "backend b: endpoint b:1 is connected, but answers nothing, not even a PING",
		func(n *node, _ *health.Server) { n.setHole(false) },
	},
	{
		"not healthy", func(_ *testing.T, _ *Backend, _ *node, hs *health.Server, _ *grpc.ClientConn) {
			hs.SetServingStatus("", healthpb.HealthCheckResponse_NOT_SERVING)
			synctest.Wait()
		},
		"a:1 complete OK, b:1 connect Unavailable", "backend b: endpoint b:1 is not healthy: NOT_SERVING",
		func(_ *node, hs *health.Server) { hs.SetServingStatus("", healthpb.HealthCheckResponse_SERVING) },
	},
	{
		"ejected", func(t *testing.T, b *Backend, n *node, _ *health.Server, cc *grpc.ClientConn) {
			n.fails(codes.Unavailable)
			for range 5 {
				fanCall(t, cc, time.Second)
			}
			n.answers(nil)
			if s := b.Endpoints()[1]; s.Ejected.IsZero() {
				t.Errorf("it is not ejected: %+v", s)
			}
		},
		eachGood, "", func(*node, *health.Server) {},
	},
}

// A one-to-many call asks every endpoint that may answer, ejected ones too; of those that cannot it tells at once.
func TestEachOfEndpoints(t *testing.T) {
	for _, tt := range eachCases {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				var states []*health.Server
				var nodes []*node
				for _, a := range []string{"a:1", "b:1"} {
					hs := health.NewServer()
					states = append(states, hs)
					nodes = append(nodes, w.serve(a, func(s *grpc.Server) { healthpb.RegisterHealthServer(s, hs) }))
				}
				cfg := Config{Backend: config.Backend{Endpoints: endpoints("a:1", "b:1")}}
				if tt.name == "not healthy" {
					cfg.Health = &config.Health{}
				}
				b := w.open(cfg)
				cc := w.fanClient(b)
				if got, why := fanCall(t, cc, time.Second); got != eachGood {
					t.Fatalf("at first: %s (%s)", got, why)
				}
				tt.prepare(t, b, nodes[1], states[1], cc)
				begin := time.Now()
				got, why := fanCall(t, cc, time.Second)
				if got != tt.outcomes || why != tt.why || time.Since(begin) > 100*time.Millisecond {
					t.Errorf("%s, %q after %v\nwant %s, %q at once", got, why, time.Since(begin), tt.outcomes, tt.why)
				}
				tt.mend(nodes[1], states[1])
				time.Sleep(10 * time.Second) // more than any pause before it is tried again
				if got, why := fanCall(t, cc, time.Second); got != eachGood {
					t.Errorf("afterwards: %s (%s)", got, why)
				}
			})
		})
	}
}
