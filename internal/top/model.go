// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package top

import (
	"time"

	"github.com/manifold-grpc/manifold/internal/status"
)

// keep is the most points of a history that are remembered, as many as the daemon has.
const keep = 300

// A Model is what is known of a daemon. The zero value knows nothing; it is not safe for concurrent use.
type Model struct {
	// Status is the last that was told, nil before. Its histories are not whole.
	Status    *status.Status
	histories map[string][]status.Point
}

// restarted reports whether now is of another process than last: then it is to be asked for all points.
func restarted(last, now *status.Status) bool {
	return !now.Started.Equal(last.Started) || now.Seq < last.Seq
}

// Take takes over s, which has the points after those of before, or all of another process.
func (m *Model) Take(s *status.Status) {
	old := m.histories
	if m.Status != nil && restarted(m.Status, s) {
		old = nil
	}
	m.Status, m.histories = s, map[string][]status.Point{}
	add := func(key string, a *status.Activity) {
		h := append(old[key], a.History...)
		m.histories[key] = h[max(0, len(h)-keep):]
	}
	add("", &s.Total)
	for i := range s.Frontends {
		add(frontendKey+s.Frontends[i].Name, &s.Frontends[i].Activity)
	}
	for i := range s.Routes {
		add(routeKey+s.Routes[i].Name, &s.Routes[i].Activity)
	}
	for i := range s.Backends {
		add(backendKey+s.Backends[i].Name, &s.Backends[i].Activity)
	}
}

// Prefixes of the keys of histories.
const (
	frontendKey = "frontend/"
	routeKey    = "route/"
	backendKey  = "backend/"
)

// rates returns the calls per second of a history.
func (m *Model) rates(key string) []float64 {
	return pick(m.histories[key], func(p status.Point) float32 { return p.Rate })
}

func pick(h []status.Point, of func(status.Point) float32) []float64 {
	values := make([]float64, len(h))
	for i, p := range h {
		values[i] = float64(of(p))
	}

	return values
}

// left returns how long it is from s's moment to t, not below 0.
func left(s *status.Status, t time.Time) time.Duration { return max(0, t.Sub(s.Now)) }
