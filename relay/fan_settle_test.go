// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package relay_test

import (
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/manifold-grpc/manifold/fanout"
	"github.com/manifold-grpc/manifold/relay"
)

// A doomed call waits a while for the failures of others, so that its status is not that of who was first, but not for a target
// that says nothing.
func TestFanDoomed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		soon := slow(60*time.Millisecond, fails(codes.NotFound))
		_, cc := fanMemory(t, &relay.FanOut{Policy: fanout.All(), Summary: true}, rigConfig{},
			node{handler: fails(codes.Aborted)}, node{handler: soon}, node{handler: soon}, node{handler: mute})
		begin := time.Now()
		var trailer metadata.MD
		_, err := unary(within(t), cc, "/a.B/C", "x", grpc.Trailer(&trailer))
		if took := time.Since(begin); status.Code(err) != codes.NotFound || took < 100*time.Millisecond || took > 150*time.Millisecond {
			t.Errorf("%v after %v, want what most say after 100 ms", err, took)
		}
		if r := report(t, trailer); r != "a:complete:Aborted b:complete:NotFound c:complete:NotFound d:cancelled:OK" {
			t.Errorf("report %q", r)
		}
	})
}
