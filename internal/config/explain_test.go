// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const explained = `
frontends: [{name: f, listen: ":1"}]
backends: {a: {endpoints: [h:1]}, b: {endpoints: [h:2]}}
routes:
  - {backend: a}
  - {match: {host: "*.example.com"}, backend: b, max_duration: 5s, idle_timeout: 1m, methods: {deny: [Drop]}}
  - {match: {host: api.example.com, service: shop.v1.*}, backend: [{name: a, weight: 9}, {name: b, weight: 1}]}
  - {match: {host: api.example.com, service: shop.v1.S}, fan_out: {backend: b}}
  - {match: {host: api.example.com, service: shop.v1.S, method: Get}, deny: true}
  - {match: {host: api.example.com, service: shop.v1.S, method: Get, metadata: {k: v}}, backend: a, mirror: {backend: b, percent: 12.5}, max_request_message: 1kB, request_headers: {remove: [x]}, response_headers: {set: {x: y}}}
  - {match: {host: api.example.com, service: shop.v1.S, method: Get, metadata: {l: "*"}}, backend: a}
`

var explainTests = []struct {
	name string
	q    Query
	want string
}{
	{"catch-all", Query{Service: "x.S", Method: "M"}, `/x.S/M: routes[0] (m.yaml:5:5)
  matches by asking nothing
  goes to backend a
  backend a: round_robin over 1 endpoint; health not checked; ejected for 5s or more after 5 failed calls in a row, or a high rate of them
  backend a: retried only where provably no endpoint was reached; any number of calls at once, 1000 waiting and 16 connections for each endpoint
`},
	{"every rule", Query{Host: "api.example.com", Service: "shop.v1.S", Method: "Get", Metadata: map[string][]string{"k": {"v"}, "l": {"x"}}}, `api.example.com/shop.v1.S/Get: routes[5] (m.yaml:10:5)
  matches by host api.example.com
  matches by service shop.v1.S
  matches by method Get
  matches by metadata k: v
  goes to backend a
  is copied to backend b, 12.5 % of the calls
  may have messages of 1000 bytes
  has its request headers changed
  has its response headers changed
  backend a: round_robin over 1 endpoint; health not checked; ejected for 5s or more after 5 failed calls in a row, or a high rate of them
  backend a: retried only where provably no endpoint was reached; any number of calls at once, 1000 waiting and 16 connections for each endpoint
goes before routes[6] (m.yaml:11:5), which has the same precedence and comes later
goes before routes[4] (m.yaml:9:5), which has less metadata: 0, not 1
goes before routes[3] (m.yaml:8:5), which has no method
goes before routes[2] (m.yaml:7:5), which has a less specific service: shop.v1.*
goes before routes[1] (m.yaml:6:5), which has a less specific host: *.example.com
goes before routes[0] (m.yaml:5:5), which has a less specific host: any
`},
	{"a method that is let through", Query{Host: "a.example.com", Service: "x.S", Method: "Get"}, `a.example.com/x.S/Get: routes[1] (m.yaml:6:5)
  matches by host *.example.com
  goes to backend b
  may take 5s
  may be idle for 1m0s
  backend b: round_robin over 1 endpoint; health not checked; ejected for 5s or more after 5 failed calls in a row, or a high rate of them
  backend b: retried only where provably no endpoint was reached; any number of calls at once, 1000 waiting and 16 connections for each endpoint
goes before routes[0] (m.yaml:5:5), which has a less specific host: any
`},
	{"a method that is not", Query{Host: "a.example.com", Service: "x.S", Method: "Drop"}, `a.example.com/x.S/Drop: routes[1] (m.yaml:6:5)
  matches by host *.example.com
  is denied with PERMISSION_DENIED: the route's methods do not let it through
goes before routes[0] (m.yaml:5:5), which has a less specific host: any
`},
	{"weights", Query{Host: "api.example.com", Service: "shop.v1.T", Method: "M"}, `api.example.com/shop.v1.T/M: routes[2] (m.yaml:7:5)
  matches by host api.example.com
  matches by service shop.v1.*
  goes to backend a with weight 9
  goes to backend b with weight 1
  backend a: round_robin over 1 endpoint; health not checked; ejected for 5s or more after 5 failed calls in a row, or a high rate of them
  backend a: retried only where provably no endpoint was reached; any number of calls at once, 1000 waiting and 16 connections for each endpoint
  backend b: round_robin over 1 endpoint; health not checked; ejected for 5s or more after 5 failed calls in a row, or a high rate of them
  backend b: retried only where provably no endpoint was reached; any number of calls at once, 1000 waiting and 16 connections for each endpoint
goes before routes[1] (m.yaml:6:5), which has a less specific host: *.example.com
goes before routes[0] (m.yaml:5:5), which has a less specific host: any
`},
	{"guarded", Query{Service: "grpc.reflection.v1.ServerReflection", Method: "ServerReflectionInfo"}, `/grpc.reflection.v1.ServerReflection/ServerReflectionInfo: routes[0] (m.yaml:5:5)
  matches by asking nothing
  goes to backend a
  backend a: round_robin over 1 endpoint; health not checked; ejected for 5s or more after 5 failed calls in a row, or a high rate of them
  backend a: retried only where provably no endpoint was reached; any number of calls at once, 1000 waiting and 16 connections for each endpoint
  denied on frontends with TLS: the route does not name the service
`},
	{"health", Query{Service: HealthService, Method: "Check"}, "/grpc.health.v1.Health/Check: the daemon answers itself, no route has exactly this service\n"},
}

func TestExplain(t *testing.T) {
	p, errs := testSource("m.yaml").parse([]byte(explained))
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	for _, tt := range explainTests {
		t.Run(tt.name, func(t *testing.T) {
			if got := p.explain("m.yaml", tt.q); got != tt.want {
				t.Errorf("got\n%swant\n%s", got, tt.want)
			}
		})
	}

	p.config.Routes = p.config.Routes[1:]
	if got := p.explain("m.yaml", Query{Service: "x.S", Method: "M"}); got != "/x.S/M: no route, answered with UNIMPLEMENTED\n" {
		t.Errorf("without a route: %s", got)
	}
	p.config.Routes = []Route{{Match: Match{Service: HealthService}, Deny: PermissionDenied}}
	if got := p.explain("m.yaml", Query{Service: HealthService, Method: "Check"}); !strings.Contains(got, "is denied with PERMISSION_DENIED") {
		t.Errorf("health with a route of its own: %s", got)
	}
}

// The policies of backends are told as they are set.
func TestExplainPolicies(t *testing.T) {
	c, err := testSource("m.yaml").Parse([]byte(`
frontends: [{name: f, listen: ":1"}]
backends:
  a:
    target: dns:///a:1
    balance: ring_hash
    hash_key: user
    health: {service: s, interval: 3s, unhealthy: 1}
    ejection: {consecutive: 1, base_time: 7s}
    retry: {max_attempts: 4, codes: [ABORTED, UNAVAILABLE], budget: {max_tokens: 20}}
    breaker: {max_requests: 1, max_connections: 1, max_pending: 5}
  b: {endpoints: [h:1, h:2], ejection: {disabled: true}, retry: {}, health: {}}
routes:
  - {match: {service: one.S}, backend: a}
  - {match: {service: many.S}, fan_out: {backends: [a, b]}}
  - {match: {service: each.S}, fan_out: {backend: b}}
  - {match: {service: no.S}, deny: true}
`))
	if err != nil {
		t.Fatal(err)
	}
	const a = "  backend a: ring_hash by user over what dns:///a:1 leads to; health of s checked each 3s, out after 1 failure; ejected for 7s or more after 1 failed call in a row, or a high rate of them\n"
	const limits = "at most 1 call at once, 5 waiting and 1 connection for each endpoint\n"
	const b = "any number of calls at once, 1000 waiting and 16 connections for each endpoint\n"
	for service, want := range map[string]string{
		"one.S": a + "  backend a: up to 4 attempts on ABORTED, UNAVAILABLE, with a budget of 20 tokens; " + limits,
		"many.S": a + "  backend a: no retries of one-to-many calls; " + limits +
			"  backend b: round_robin over 2 endpoints; health checked each 5s, out after 2 failures; no ejection\n  backend b: no retries of one-to-many calls; " + b,
		"each.S": "  backend b: health checked each 5s, out after 2 failures\n  backend b: no retries of one-to-many calls; " + b,
		"no.S":   "is denied with PERMISSION_DENIED\n",
	} {
		if got := c.Explain(Query{Service: service, Method: "M"}); !strings.HasSuffix(got, want) || strings.Count(got, "backend b:")+strings.Count(got, "backend a:") != strings.Count(want, "backend ") {
			t.Errorf("%s: got\n%swant at its end\n%s", service, got, want)
		}
	}
}

func TestExplainFile(t *testing.T) {
	name := filepath.Join(t.TempDir(), "m.yaml")
	if err := os.WriteFile(name, []byte(explained), 0o600); err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	if err := ExplainFile(&out, name, Query{Service: "x.S", Method: "M"}); err != nil || !strings.HasPrefix(out.String(), "/x.S/M: routes[0] ("+name+":5:5)\n") {
		t.Errorf("got %q, %v", out.String(), err)
	}
	if err := os.WriteFile(name, []byte("x: 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := ExplainFile(&out, name, Query{}); err == nil || !strings.HasPrefix(err.Error(), name+":1:1: ") {
		t.Errorf("error = %v", err)
	}
}
