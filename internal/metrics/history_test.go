// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package metrics_test

import (
	"encoding/json"
	"math"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/manifold-grpc/manifold/internal/metrics"
	"github.com/manifold-grpc/manifold/internal/status"
	"github.com/manifold-grpc/manifold/relay"
)

// The history has a point for each second, and rates and quantiles of the last ten.
func TestHistory(t *testing.T) {
	var r metrics.Registry
	cell := r.Route("f", "r", "b", metrics.Pattern{}, nil).Cell("/a.B/C")
	h := metrics.NewHistory(&r)
	now := time.Unix(1000, 0)
	second := func(calls int, code codes.Code, took time.Duration) {
		for range calls {
			call(cell, relay.CallStats{Code: code, Duration: took, Attempts: 1, RequestBytes: 10, ResponseBytes: 100})
		}
		now = now.Add(time.Second)
		h.Sample(now)
	}
	h.Sample(now)
	for range 20 {
		second(50, codes.OK, 1500*time.Microsecond)
	}
	for range 10 {
		second(100, codes.Internal, 250*time.Millisecond)
	}
	second(0, codes.OK, 0)
	cell.Start()
	h.Sample(now.Add(time.Second))

	a := h.Activity(metrics.Group{Backend: "b"}, 0)
	if a.Calls != 2000 || a.Errors != 1000 || a.InFlight != 1 || a.Codes["OK"] != 1000 || a.Codes["INTERNAL"] != 1000 {
		t.Errorf("activity %+v", a)
	}
	if a.Rate != 80 || a.ErrorRate != 80 || a.BytesIn != 800 || a.BytesOut != 8000 {
		t.Errorf("rates %v %v %v %v, want 80 calls and errors a second", a.Rate, a.ErrorRate, a.BytesIn, a.BytesOut)
	}
	if a.P50 < 0.2 || a.P50 > 0.25 || a.P99 < a.P90 || a.P99 > 0.25 {
		t.Errorf("quantiles %v %v %v", a.P50, a.P90, a.P99)
	}
	if len(a.History) != 33 {
		t.Fatalf("%d points, want 33", len(a.History))
	}
	if p := a.History[1]; p.Rate != 50 || p.Errors != 0 || p.P50 < 0.001 || p.P50 > 0.002 {
		t.Errorf("point %+v", p)
	}
	if p := a.History[21]; p.Rate != 100 || p.Errors != 100 {
		t.Errorf("point %+v", p)
	}
	if p := a.History[31]; p.Rate != 0 || !math.IsNaN(float64(p.P50)) {
		t.Errorf("point %+v of a second without calls", p)
	}
	if later := h.Activity(metrics.Group{Backend: "b"}, h.Seq()-2); len(later.History) != 2 {
		t.Errorf("%d points after the last but two", len(later.History))
	}
	for _, g := range []metrics.Group{metrics.Total, {Frontend: "f"}, {Route: "r"}} {
		if got := h.Activity(g, 0); got.Calls != 2000 {
			t.Errorf("%+v has %d calls", g, got.Calls)
		}
	}
	for range 400 {
		second(1, codes.OK, time.Millisecond)
	}
	if a := h.Activity(metrics.Total, 0); len(a.History) != 300 {
		t.Errorf("%d points, want 300", len(a.History))
	}
}

// A call that has neither a route nor a backend counts once.
func TestHistoryUnrouted(t *testing.T) {
	var r metrics.Registry
	call(r.Frontend("f").Unrouted(), relay.CallStats{Code: codes.Unimplemented})
	h := metrics.NewHistory(&r)
	h.Sample(time.Now())
	if a := h.Activity(metrics.Total, 0); a.Calls != 1 {
		t.Errorf("%d calls", a.Calls)
	}
}

// Numbers survive JSON, and those that are none too.
func TestNumbers(t *testing.T) {
	in := status.Activity{Rate: 123456.789, P50: 0.000123456, P99: status.NaN(), History: []status.Point{{Rate: 5, P50: float32(math.NaN())}}}
	text, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	var out status.Activity
	if err := json.Unmarshal(text, &out); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	if out.Rate != 123500 || out.P50 != 0.0001235 || out.P99.Known() || out.History[0].Rate != 5 || !math.IsNaN(float64(out.History[0].P50)) {
		t.Errorf("%s is %+v", text, out)
	}
}
