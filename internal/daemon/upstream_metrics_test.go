// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/manifold-grpc/manifold/internal/sample/samplepb"
)

// unavailable starts a server that answers all calls with UNAVAILABLE, and returns its address.
func unavailable(t *testing.T) string {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer(grpc.UnknownServiceHandler(func(any, grpc.ServerStream) error { return status.Error(codes.Unavailable, "not now") }))
	go s.Serve(lis) //nolint:errcheck // until Stop
	t.Cleanup(s.Stop)

	return lis.Addr().String()
}

// What happens to backends, and to the targets of one-to-many calls, is in the metrics.
func TestUpstreamMetrics(t *testing.T) {
	up := startBackends(t, 1)[0]
	_, port, err := net.SplitHostPort(up.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	file := declare(t, `
frontends: [{name: public, listen: "127.0.0.1:0"}]
backends:
  found: {target: "dns:///127.0.0.1:%s", health: {}, breaker: {max_requests: 1}}
  failing: {endpoints: ["%s", "%s"], retry: {initial_backoff: 1ms, budget: {max_tokens: 4}}, ejection: {consecutive: 2}}
routes:
  - {match: {service: manifold.sample.v1.EchoService}, backend: found}
  - {match: {service: failing.S}, backend: failing}
  - {match: {service: manifold.sample.v1.FleetService}, fan_out: {backends: [found, failing], unary: [Describe], layout: testservice}}
admin: {listen: "127.0.0.1:0"}
access_log: {path: %q}
`, port, unavailable(t), unavailable(t), t.TempDir()+"/access.log")
	d := startDaemon(t, Config{File: file})
	addr, _ := d.AdminAddr()
	conn := connectTo(t, d, "public", insecure.NewCredentials())

	if _, err := samplepb.NewFleetServiceClient(conn).Describe(callContext(t), &samplepb.DescribeRequest{}); err != nil {
		t.Errorf("one to many: %v", err)
	}
	chat := openChat(t, conn)
	if _, err := echo(callContext(t), conn); status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "the most that are allowed") {
		t.Errorf("a call too many: %v", err)
	}
	if err := chat.CloseSend(); err != nil {
		t.Fatal(err)
	}
	for range 4 {
		if err := conn.Invoke(callContext(t), "/failing.S/M", &samplepb.EchoRequest{}, &samplepb.EchoResponse{}); status.Code(err) != codes.Unavailable {
			t.Errorf("failing: %v", err)
		}
	}

	want := []string{
		`manifold_fanout_calls_total{backend="",frontend="public",grpc_method="manifold.sample.v1.FleetService/*"} 1`,
		`manifold_fanout_partial_total{backend="",frontend="public",grpc_method="manifold.sample.v1.FleetService/*"} 1`,
		`manifold_fanout_targets_total{backend="",frontend="public",grpc_method="manifold.sample.v1.FleetService/*",grpc_status="OK"} 1`,
		`manifold_fanout_targets_total{backend="",frontend="public",grpc_method="manifold.sample.v1.FleetService/*",grpc_status="UNAVAILABLE"} 1`,
		`manifold_upstream_health_changes_total{backend="found",health="healthy"} 1`,
		`manifold_upstream_resolutions_total{backend="found",result="ok"} `,
		`manifold_upstream_rejected_total{backend="found",reason="CIRCUIT_BREAKER"} 1`,
		`manifold_upstream_ejections_total{backend="failing",cause="consecutive_failures"} 1`,
		`manifold_upstream_retries_total{backend="failing",grpc_status="UNAVAILABLE"} `,
		`manifold_upstream_retries_exhausted_total{backend="failing",grpc_status="UNAVAILABLE"} `,
		`manifold_access_log_lines_dropped_total 0`,
	}
	deadline := time.Now().Add(testTimeout)
	for {
		_, text := fetch(t, http.MethodGet, "http://"+addr+"/metrics", "")
		var missing []string
		for _, line := range want {
			if !strings.Contains(text, "\n"+line) {
				missing = append(missing, line)
			}
		}
		if len(missing) == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("no lines\n%s\namong\n%s", strings.Join(missing, "\n"), grep(text, "manifold_"))
		}
	}
}
