// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package metrics_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"

	"github.com/manifold-grpc/manifold/fanout"
	"github.com/manifold-grpc/manifold/fanout/fanoutpb"
	"github.com/manifold-grpc/manifold/internal/metrics"
	"github.com/manifold-grpc/manifold/internal/status"
	"github.com/manifold-grpc/manifold/relay"
)

// scrape returns the lines that Prometheus gets which begin with a prefix.
func scrape(t *testing.T, r *metrics.Registry, s *status.Status, prefix string) []string {
	t.Helper()
	w := httptest.NewRecorder()
	metrics.Handler(r, func() *status.Status { return s }).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	if w.Code != http.StatusOK {
		t.Fatalf("status %d: %s", w.Code, w.Body)
	}
	var lines []string
	for line := range strings.Lines(w.Body.String()) {
		if strings.HasPrefix(line, prefix) {
			lines = append(lines, strings.TrimSpace(line))
		}
	}

	return lines
}

// has checks that the metrics have lines.
func has(t *testing.T, r *metrics.Registry, s *status.Status, want ...string) {
	t.Helper()
	got := scrape(t, r, s, "")
	for _, line := range want {
		found := false
		for _, l := range got {
			found = found || l == line
		}
		if !found {
			name, _, _ := strings.Cut(line, "{")
			t.Errorf("no line\n%s\namong\n%s", line, strings.Join(scrape(t, r, s, name), "\n"))
		}
	}
}

func call(c *metrics.Cell, s relay.CallStats) {
	c.Start()
	for range s.Attempts {
		c.Attempt()
	}
	c.End(&s)
}

// A frontend is asked for while it counts, by the status and by reloads.
func TestFrontendMeanwhile(t *testing.T) {
	var r metrics.Registry
	f := r.Frontend("public")
	var wg sync.WaitGroup
	wg.Go(func() { // ends by itself
		for range 100 {
			r.Sweep()
			r.Begin()
			r.Frontend("public")
		}
	})
	for range 100 {
		f.Unrouted().Start()
	}
	wg.Wait()
}

// What calls do can be read under the names of gRFC A66 and of go-grpc-prometheus.
func TestCalls(t *testing.T) {
	var r metrics.Registry
	methods := metrics.Methods{"/shop.v1.Catalog/List": metrics.Unary}
	route := r.Route("public", "routes[0]", "catalog", metrics.Pattern{Service: "shop.v1.*"}, methods)
	same := r.Route("public", "routes[1]", "catalog", metrics.Pattern{Service: "shop.v1.Catalog"}, methods)
	list := route.Cell("/shop.v1.Catalog/List")
	call(list, relay.CallStats{Code: codes.OK, Duration: 3 * time.Millisecond, Attempts: 1, RequestMessages: 1, RequestBytes: 100, ResponseMessages: 2, ResponseBytes: 5000})
	call(same.Cell("/shop.v1.Catalog/List"), relay.CallStats{Code: codes.OK, Duration: 7 * time.Millisecond, Attempts: 1, RequestMessages: 1, RequestBytes: 100, ResponseMessages: 1, ResponseBytes: 100})
	start := time.Now()
	list.Retried(codes.Unavailable, time.Millisecond)
	call(list, relay.CallStats{Code: codes.NotFound, Start: start, LastAttempt: start.Add(time.Second), Duration: 2500 * time.Millisecond, Attempts: 2, RequestMessages: 1, RequestBytes: 9})
	call(list, relay.CallStats{Code: codes.Unavailable, Duration: time.Second})
	list.Start() // and has not ended
	call(route.Cell("/shop.v1.Catalog/NoSuch"), relay.CallStats{Code: codes.Code(77), Attempts: 1})

	s := &status.Status{}
	has(t, &r, s,
		`grpc_server_call_started_total{backend="catalog",frontend="public",grpc_method="shop.v1.Catalog/List"} 5`,
		`grpc_server_call_duration_seconds_bucket{backend="catalog",frontend="public",grpc_method="shop.v1.Catalog/List",grpc_status="OK",le="0.002"} 0`,
		`grpc_server_call_duration_seconds_bucket{backend="catalog",frontend="public",grpc_method="shop.v1.Catalog/List",grpc_status="OK",le="0.003"} 1`,
		`grpc_server_call_duration_seconds_bucket{backend="catalog",frontend="public",grpc_method="shop.v1.Catalog/List",grpc_status="OK",le="+Inf"} 2`,
		`grpc_server_call_duration_seconds_sum{backend="catalog",frontend="public",grpc_method="shop.v1.Catalog/List",grpc_status="OK"} 0.01`,
		`grpc_server_call_sent_total_compressed_message_size_bytes_sum{backend="catalog",frontend="public",grpc_method="shop.v1.Catalog/List",grpc_status="OK"} 5100`,
		`grpc_server_call_rcvd_total_compressed_message_size_bytes_bucket{backend="catalog",frontend="public",grpc_method="shop.v1.Catalog/List",grpc_status="OK",le="1024"} 2`,
		`grpc_client_attempt_started_total{grpc_method="shop.v1.Catalog/List",grpc_target="catalog"} 4`,
		`grpc_client_attempt_duration_seconds_count{grpc_method="shop.v1.Catalog/List",grpc_status="OK",grpc_target="catalog"} 2`,
		`grpc_client_attempt_duration_seconds_count{grpc_method="shop.v1.Catalog/List",grpc_status="UNAVAILABLE",grpc_target="catalog"} 1`,
		`grpc_client_attempt_duration_seconds_sum{grpc_method="shop.v1.Catalog/List",grpc_status="NOT_FOUND",grpc_target="catalog"} 1.5`,
		`grpc_server_handled_total{backend="catalog",frontend="public",grpc_code="OK",grpc_method="List",grpc_service="shop.v1.Catalog",grpc_type="unary"} 2`,
		`grpc_server_handled_total{backend="catalog",frontend="public",grpc_code="NotFound",grpc_method="List",grpc_service="shop.v1.Catalog",grpc_type="unary"} 1`,
		`grpc_server_handled_total{backend="catalog",frontend="public",grpc_code="Other",grpc_method="*",grpc_service="shop.v1.*",grpc_type="bidi_stream"} 1`,
		`grpc_server_started_total{backend="catalog",frontend="public",grpc_method="List",grpc_service="shop.v1.Catalog",grpc_type="unary"} 5`,
		`grpc_server_msg_sent_total{backend="catalog",frontend="public",grpc_method="List",grpc_service="shop.v1.Catalog",grpc_type="unary"} 3`,
		`grpc_server_msg_received_total{backend="catalog",frontend="public",grpc_method="List",grpc_service="shop.v1.Catalog",grpc_type="unary"} 3`,
		`grpc_server_handling_seconds_bucket{backend="catalog",frontend="public",grpc_method="List",grpc_service="shop.v1.Catalog",grpc_type="unary",le="2.5"} 4`,
		`grpc_server_handling_seconds_bucket{backend="catalog",frontend="public",grpc_method="List",grpc_service="shop.v1.Catalog",grpc_type="unary",le="1"} 3`,
	)
}

// Clients that make up methods make no series.
func TestCardinality(t *testing.T) {
	var r metrics.Registry
	patterns := map[string]metrics.Pattern{
		"exact": {Service: "shop.v1.Catalog", Method: "List"}, "service": {Service: "shop.v1.Catalog"}, "glob": {Service: "shop.v1.*"}, "any": {},
	}
	named := metrics.Methods{"/shop.v1.Catalog/List": metrics.Unary, "/other.v1.X/Y": metrics.BidiStream}
	routes := map[string]*metrics.Route{}
	for name, p := range patterns {
		routes[name] = r.Route("public", name, "b", p, named)
	}
	f := r.Frontend("public")
	for _, route := range routes {
		call(route.Cell("/first.X/Y"), relay.CallStats{Code: codes.OK, Attempts: 1})
	}
	before := len(scrape(t, &r, &status.Status{}, "grpc_"))
	for i := range 100_000 {
		path := fmt.Sprintf("/shop.v1.Catalog/M%d", rand.Uint64())
		if i%2 == 0 {
			path = fmt.Sprintf("/s%d.X/M%d", rand.Uint64(), i)
		}
		for _, route := range routes {
			call(route.Cell(path), relay.CallStats{Code: codes.OK, Attempts: 1})
		}
	}
	for i := range 1000 {
		f.Failed(fmt.Sprint("REASON_", i))
	}
	methods := map[string]bool{}
	for _, l := range scrape(t, &r, &status.Status{}, "grpc_server_handled_total") {
		_, rest, _ := strings.Cut(l, `grpc_method="`)
		method, _, _ := strings.Cut(rest, `"`)
		methods[method] = true
	}
	if len(methods) > 4 || !methods["*"] || !methods["other"] || !methods["List"] {
		t.Errorf("methods %v", methods)
	}
	if after := len(scrape(t, &r, &status.Status{}, "grpc_")); after != before {
		t.Errorf("%d lines before, %d after", before, after)
	}
	if n := len(scrape(t, &r, &status.Status{}, "manifold_rejected_total")); n > 66 {
		t.Errorf("%d reasons", n)
	}
}

func TestLabels(t *testing.T) {
	tests := []struct {
		pattern         metrics.Pattern
		path            string
		service, method string
	}{
		{metrics.Pattern{}, "/a.B/C", "other", "other"},
		{metrics.Pattern{Service: "*"}, "/a.B/C", "other", "other"},
		{metrics.Pattern{Service: "a.*"}, "/a.B/C", "a.*", "*"},
		{metrics.Pattern{Service: "a.B"}, "/a.B/C", "a.B", "*"},
		{metrics.Pattern{Service: "a.B", Method: "C"}, "/a.B/C", "a.B", "C"},
		{metrics.Pattern{}, "/a.B/Named", "a.B", "Named"},
		{metrics.Pattern{Service: "a.*"}, "/a.B/Named", "a.B", "Named"},
		{metrics.Pattern{Service: "a.B"}, "/a.B/Named", "a.B", "Named"},
		{metrics.Pattern{Service: "b.*"}, "/a.B/Named", "b.*", "*"}, // the router would not bring it here
	}
	for _, tt := range tests {
		var r metrics.Registry
		c := r.Route("f", "r", "b", tt.pattern, metrics.Methods{"/a.B/Named": metrics.Unary}).Cell(tt.path)
		if c.Service != tt.service || c.Method != tt.method {
			t.Errorf("%+v, %s: labels %s %s, want %s %s", tt.pattern, tt.path, c.Service, c.Method, tt.service, tt.method)
		}
	}
}

// A configuration that is gone leaves nothing behind; what stays goes on counting.
func TestSweep(t *testing.T) {
	var r metrics.Registry
	r.Begin()
	stays := r.Route("f", "r", "stays", metrics.Pattern{}, nil).Cell("/a.B/C")
	call(stays, relay.CallStats{Attempts: 1})
	call(r.Route("f", "r", "goes", metrics.Pattern{}, nil).Cell("/a.B/C"), relay.CallStats{Attempts: 1})
	b := r.Backend("stays")
	r.Backend("goes").Readmitted()
	r.Begin()
	if r.Backend("stays") != b {
		t.Error("the same backend has other counters after a reload")
	}
	if again := r.Route("f", "r", "stays", metrics.Pattern{}, nil).Cell("/a.B/C"); again != stays {
		t.Error("the same route has another cell after a reload")
	}
	if n := len(scrape(t, &r, &status.Status{}, "grpc_server_handled_total")); n != 2 {
		t.Errorf("%d series before the sweep, want 2", n)
	}
	r.Sweep()
	if lines := scrape(t, &r, &status.Status{}, "grpc_server_handled_total"); len(lines) != 1 || !strings.Contains(lines[0], "stays") {
		t.Errorf("series %v", lines)
	}
	if lines := scrape(t, &r, &status.Status{}, "manifold_upstream_readmissions_total"); len(lines) != 1 || !strings.Contains(lines[0], "stays") {
		t.Errorf("series of backends %v", lines)
	}
}

func TestFanOut(t *testing.T) {
	var r metrics.Registry
	c := r.Route("f", "r", "machines", metrics.Pattern{Service: "m.S"}, nil).Cell("/m.S/List")
	target := func(code codes.Code) relay.TargetStats {
		return relay.TargetStats{Outcome: fanout.Outcome{Status: grpcstatus.New(code, "")}}
	}
	call(c, relay.CallStats{Attempts: 3, Targets: []relay.TargetStats{target(codes.OK), target(codes.Unavailable), target(codes.OK)}})
	unneeded := relay.TargetStats{Outcome: fanout.Outcome{Phase: fanoutpb.FanoutPhase_FANOUT_PHASE_CANCELLED}}
	call(c, relay.CallStats{Attempts: 1, Targets: []relay.TargetStats{target(codes.OK), unneeded}})
	has(t, &r, &status.Status{},
		`manifold_fanout_calls_total{backend="machines",frontend="f",grpc_method="m.S/*"} 2`,
		`manifold_fanout_partial_total{backend="machines",frontend="f",grpc_method="m.S/*"} 1`,
		`manifold_fanout_targets_total{backend="machines",frontend="f",grpc_method="m.S/*",grpc_status="OK"} 3`,
		`manifold_fanout_targets_total{backend="machines",frontend="f",grpc_method="m.S/*",grpc_status="CANCELLED"} 1`,
		`manifold_fanout_targets_total{backend="machines",frontend="f",grpc_method="m.S/*",grpc_status="UNAVAILABLE"} 1`)
}

func TestState(t *testing.T) {
	var r metrics.Registry
	f := r.Frontend("public")
	f.ConnOpened(nil)
	f.ConnRejected(nil, "max_connections")
	f.ConnClosed(nil, fmt.Errorf("h2: PROTOCOL_ERROR (data_on_stream_zero): DATA on stream 0"))
	f.Glitch("ping")
	f.Failed(relay.ReasonNoEndpoint)
	b := r.Backend("catalog")
	b.Health(false)
	b.Health(true)
	b.Health(false)
	b.Ejected("success_rate")
	b.Readmitted()
	b.Resolved(nil)
	b.Resolved(errors.New("no such host"))
	b.Dropped("CIRCUIT_BREAKER")
	b.Mirrored("answered")
	b.Retried(codes.Unavailable)
	b.Exhausted(codes.Code(99))
	s := &status.Status{
		Version: "v1", State: "draining",
		Frontends: []status.Frontend{{Name: "public", Connections: 3, Activity: status.Activity{InFlight: 7}}},
		Backends: []status.Backend{{Name: "catalog", Endpoints: []status.Endpoint{
			{Name: "b", Usable: true, Connected: 3, Failed: 2, Lost: 1}, {Name: "a", Ejected: time.Now()}, {Name: "b"},
		}}},
		Certificates: []status.Certificate{{Frontend: "public", Subject: "CN=x", File: "x.crt", NotAfter: time.Unix(1_800_000_000, 0)}},
		AccessLog:    &status.AccessLog{Written: 7, Dropped: 5},
		Reload:       status.Reload{OK: true, Time: time.Unix(1_700_000_000, 0), Failed: 2},
	}
	has(t, &r, s,
		`manifold_connections_accepted_total{frontend="public"} 1`,
		`manifold_connections_rejected_total{frontend="public",reason="max_connections"} 1`,
		`manifold_connections_closed_total{frontend="public",reason="data_on_stream_zero"} 1`,
		`manifold_h2_glitches_total{frontend="public",kind="ping"} 1`,
		`manifold_rejected_total{frontend="public",reason="NO_ENDPOINT"} 1`,
		`manifold_streams_in_flight{frontend="public"} 7`,
		`manifold_upstream_health_changes_total{backend="catalog",health="healthy"} 1`,
		`manifold_upstream_health_changes_total{backend="catalog",health="unhealthy"} 2`,
		`manifold_upstream_ejections_total{backend="catalog",cause="success_rate"} 1`,
		`manifold_upstream_readmissions_total{backend="catalog"} 1`,
		`manifold_upstream_resolutions_total{backend="catalog",result="ok"} 1`,
		`manifold_upstream_resolutions_total{backend="catalog",result="failed"} 1`,
		`manifold_upstream_rejected_total{backend="catalog",reason="CIRCUIT_BREAKER"} 1`,
		`manifold_mirrors_total{backend="catalog",result="answered"} 1`,
		`manifold_upstream_retries_total{backend="catalog",grpc_status="UNAVAILABLE"} 1`,
		`manifold_upstream_retries_exhausted_total{backend="catalog",grpc_status="OTHER"} 1`,
		`manifold_access_log_lines_written_total 7`,
		`manifold_access_log_lines_dropped_total 5`,
		`manifold_upstream_healthy{backend="catalog",endpoint="a"} 0`,
		`manifold_upstream_healthy{backend="catalog",endpoint="b"} 1`,
		`manifold_upstream_ejected{backend="catalog",endpoint="a"} 1`,
		`manifold_upstream_ready{backend="catalog"} 0`,
		`grpc_subchannel_connection_attempts_succeeded_total{endpoint="b",grpc_target="catalog"} 3`,
		`grpc_subchannel_open_connections{endpoint="b",grpc_target="catalog"} 2`,
		`manifold_certificate_not_after_timestamp_seconds{file="x.crt",frontend="public",subject="CN=x"} 1.8e+09`,
		`manifold_config_last_reload_success 1`,
		`manifold_config_last_reload_success_timestamp_seconds 1.7e+09`,
		`manifold_draining 1`,
	)
}

// Nothing is lost when many count at once, while somebody looks.
func TestConcurrent(t *testing.T) {
	var r metrics.Registry
	route := r.Route("f", "r", "b", metrics.Pattern{}, nil)
	h := metrics.NewHistory(&r)
	var wg sync.WaitGroup
	const workers, each = 8, 500
	for w := range workers {
		wg.Go(func() { // until it has made its calls
			for i := range each {
				call(route.Cell("/a.B/C"), relay.CallStats{Code: codes.Code(i % 20), Duration: time.Duration(i), Attempts: 1 + w%2})
				if i%100 == 0 {
					h.Sample(time.Now())
					scrape(t, &r, &status.Status{}, "grpc_")
				}
			}
		})
	}
	wg.Wait()
	h.Sample(time.Now())
	if a := h.Activity(metrics.Total, 0); a.Calls != 0 && a.Calls != workers*each || a.InFlight != 0 {
		t.Errorf("activity %+v", a)
	}
	if a := h.Activity(metrics.Group{Backend: "b"}, 0); a.Calls != workers*each {
		t.Errorf("%d calls, want %d", a.Calls, workers*each)
	}
}

// Counting a call costs no allocation.
func TestAllocations(t *testing.T) {
	var r metrics.Registry
	route := r.Route("f", "r", "b", metrics.Pattern{}, metrics.Methods{"/a.B/C": metrics.Unary})
	s := relay.CallStats{Code: codes.OK, Duration: time.Millisecond, Attempts: 1, RequestBytes: 10, ResponseBytes: 10}
	call(route.Cell("/a.B/C"), s)
	if n := testing.AllocsPerRun(100, func() { call(route.Cell("/a.B/C"), s) }); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkCall(b *testing.B) {
	var r metrics.Registry
	route := r.Route("f", "r", "b", metrics.Pattern{}, metrics.Methods{"/a.B/C": metrics.Unary})
	s := relay.CallStats{Code: codes.OK, Duration: 123 * time.Microsecond, Attempts: 1, RequestBytes: 10, ResponseBytes: 10}
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			call(route.Cell("/a.B/C"), s)
		}
	})
}
