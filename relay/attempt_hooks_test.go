// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package relay_test

import (
	"slices"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"
	"google.golang.org/grpc/codes"

	"github.com/manifold-grpc/manifold/internal/rawpeer"
	"github.com/manifold-grpc/manifold/relay"
)

// Each attempt is told of before its stream is opened, in time for a header of its own, and again when
// another one follows it.
func TestAttemptHooks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const pause = 3 * time.Second
		up := &failing{fails: 2, fail: func(p *rawpeer.Peer, id uint32) error {
			return p.Headers(id, true, rawpeer.TrailersOnly("14", "")...)
		}}
		var asked []relay.FailedAttempt
		var opened []int
		var retried []time.Duration
		stats := make(chan relay.CallStats, 1)
		m := inMemory(t, rigConfig{server: func(s *relay.Server) {
			s.Hooks.AttemptOpening = func(c *relay.Call, n int) {
				opened = append(opened, n)
				c.SetHeader("attempt", strconv.Itoa(n))
			}
			s.Hooks.AttemptRetried = func(c *relay.Call, a relay.AttemptStats, start time.Time) {
				if a.Code != codes.Unavailable || a.Endpoint == nil {
					t.Errorf("attempt %+v", a)
				}
				retried = append(retried, start.Sub(c.Start()))
			}
			s.Hooks.CallEnded = func(_ *relay.Call, st relay.CallStats) { stats <- st }
		}}, nil, up.play)
		m.backend.Retry = always(3, pause, &asked)
		c := m.client(t)
		check(t, c.Headers(1, true, rawpeer.Request("/a.B/C")...))
		must(c.Until(rawpeer.Is(http2.FrameHeaders, 1)))(t)
		st := <-stats
		if want := []int{0, 1, 2}; !slices.Equal(opened, want) {
			t.Errorf("opened %v, want %v", opened, want)
		}
		if want := []time.Duration{0, pause}; !slices.Equal(retried, want) {
			t.Errorf("attempts that were followed by another began after %v, want %v", retried, want)
		}
		if last := st.LastAttempt.Sub(st.Start); st.Attempts != 3 || last != 2*pause {
			t.Errorf("stats %+v: last attempt after %v", st, last)
		}
		for i, f := range up.requests() {
			if got := f.Field("attempt"); got != strconv.Itoa(i) {
				t.Errorf("attempt %d has header %q", i, got)
			}
		}
	})
}
