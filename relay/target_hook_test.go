// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package relay_test

import (
	"context"
	"strconv"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/manifold-grpc/manifold/fanout"
	"github.com/manifold-grpc/manifold/relay"
)

// Each target of a fanned-out call may get a header of its own.
func TestTargetOpening(t *testing.T) {
	echoHeader := func(_ any, st grpc.ServerStream) error {
		md, _ := metadata.FromIncomingContext(st.Context())
		return send(st, md.Get("own")[0]+" of "+strconv.Itoa(len(md.Get("own"))))
	}
	var addrs []string
	for range 3 {
		addrs = append(addrs, serve(t, echoHeader))
	}
	f := fan(t, &relay.FanOut{Policy: fanout.All()}, rigConfig{server: func(s *relay.Server) {
		s.Hooks.TargetOpening = func(c *relay.Call, target int, to *relay.Target, n int) {
			if n != 0 || c.Path() != "/a.B/Unary" {
				t.Errorf("attempt %d of %s", n, c.Path())
			}
			c.SetHeader("own", to.Name+strconv.Itoa(target))
		}
	}}, addrs...)
	cc := dial(t, f.addr)
	for range 3 { // later ones have header lists that are known
		out, err := unary(within(t), cc, "/a.B/Unary", "x")
		if want := "<a:a0 of 1><b:b1 of 1><c:c2 of 1>"; err != nil || out != want {
			t.Fatalf("%q, %v, want %q", out, err, want)
		}
	}
}

// A call may end, by its deadline, while Route tags it: the race detector looks at this.
func TestSetTagAtDeadline(t *testing.T) {
	tagged, ended := make(chan struct{}), make(chan any, 1)
	f := start(t, rigConfig{server: func(s *relay.Server) {
		s.Route = func(c *relay.Call) {
			<-c.Context().Done()
			c.SetTag(&tagged)
			close(tagged)
		}
		s.Hooks.CallEnded = func(c *relay.Call, _ relay.CallStats) { ended <- c.Tag() }
	}})
	ctx, cancel := context.WithTimeout(within(t), time.Second) // enough for the call to come to Route on a busy machine
	defer cancel()
	if _, err := unary(ctx, dial(t, f.addr), "/a.B/Unary", "x"); status.Code(err) != codes.DeadlineExceeded {
		t.Error(err)
	}
	wait(t, tagged, "the tag")
	wait(t, ended, "the end")
}
