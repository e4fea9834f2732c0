// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package relay_test

import (
	"io"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/manifold-grpc/manifold/internal/h2/frame"
	"github.com/manifold-grpc/manifold/internal/rawpeer"
	"github.com/manifold-grpc/manifold/relay"
)

// Calls that the relay answers as they come are taken at a pace, 50,000 a second and 2500 at once, however many there are: they shall not
// have the CPU that others' calls need.
func TestAnsweredCallsHaveAPace(t *testing.T) {
	denied := status.New(codes.PermissionDenied, "no")
	for _, tt := range []struct {
		name string
		unit func(a *attacker, id uint32)
	}{
		{"malformed path", (*attacker).badPath},
		{"rejected", func(a *attacker, id uint32) { a.headers(id, frame.FlagEndStream) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var ended atomic.Int64
				m := inMemory(t, rigConfig{server: func(s *relay.Server) {
					s.Route = func(c *relay.Call) { c.Reject(denied, "") }
					s.Hooks.CallEnded = func(*relay.Call, relay.CallStats) { ended.Add(1) }
				}}, nil, silent)
				nc := must(m.front.DialContext(t.Context()))(t)
				defer nc.Close()
				a := &attacker{}
				a.enc = hpack.NewEncoder(&a.block)
				a.out = frame.AppendSettings(append(a.out, http2.ClientPreface...))
				for i := range 10_000 {
					tt.unit(a, streamID(i))
				}
				go io.Copy(io.Discard, nc) //nolint:errcheck // ends with the connection
				go nc.Write(a.out)         //nolint:errcheck // ends when all is written or the connection is closed
				for passed, want := range []int64{2500, 7500, 10_000} {
					synctest.Wait()
					if got := ended.Load(); got < want-want/50 || got > want+512 {
						t.Errorf("after %d × 100 ms: %d calls were answered, want %d and at most a turn more", passed, got, want)
					}
					time.Sleep(100 * time.Millisecond)
				}
			})
		})
	}
}

// Calls that a backend answers have none: no time passes.
func TestForwardedCallsHaveNoPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := inMemory(t, rigConfig{}, nil, answering)
		awaitReady(t, m.backend.Endpoints[0])
		c := m.client(t)
		begin := time.Now()
		for i := range 5000 {
			check(t, c.Headers(streamID(i), true, rawpeer.Request("/a.B/C")...))
			must(c.Until(rawpeer.Is(http2.FrameHeaders, streamID(i))))(t)
		}
		if d := time.Since(begin); d > 0 {
			t.Errorf("5000 calls took %v", d)
		}
	})
}
