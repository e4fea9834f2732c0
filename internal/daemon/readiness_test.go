// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"maps"
	"slices"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/manifold-grpc/manifold/internal/certtest"
	"github.com/manifold-grpc/manifold/internal/sample"
)

const (
	unknown    = healthpb.HealthCheckResponse_SERVICE_UNKNOWN
	serving    = healthpb.HealthCheckResponse_SERVING
	notServing = healthpb.HealthCheckResponse_NOT_SERVING
)

// What each name says, by which backends are up.
func TestReadiness(t *testing.T) {
	routes := planRoutes(t, `
frontends: [{name: f, listen: ":1"}]
backends: {a: {endpoints: ["h:1"]}, b: {endpoints: ["h:2"]}, c: {endpoints: ["h:3"]}}
routes:
  - {match: {service: one.A}, backend: a}
  - {match: {service: split.AB}, backend: [{name: a, weight: 9}, {name: b, weight: 1}]}
  - {match: {service: shadow.A}, backend: [{name: a, weight: 1}, {name: b, weight: 0}]}
  - {match: {service: methods.AB, method: X}, backend: a}
  - {match: {service: methods.AB, method: Y}, backend: b}
  - {match: {service: methods.AB, method: Z}, deny: true}
  - {match: {service: denied.S}, deny: true}
  - {match: {service: glob.*}, backend: a}
  - {match: {service: all.AB}, fan_out: {backends: [a, b]}}
  - {match: {service: each.B}, fan_out: {backend: b}}
  - {match: {host: h.example}, backend: c}
`)
	names := []string{"", "backend/a", "backend/b", "backend/c", "all.AB", "each.B", "methods.AB", "one.A", "shadow.A", "split.AB"}
	tests := []struct {
		name     string
		up       []string
		draining bool
		want     []string // of names, those that are SERVING
	}{
		{"all", []string{"a", "b", "c"}, false, names},
		{"a", []string{"a"}, false, []string{"", "backend/a", "all.AB", "methods.AB", "one.A", "shadow.A", "split.AB"}},
		{"b", []string{"b"}, false, []string{"", "backend/b", "all.AB", "each.B", "methods.AB", "split.AB"}},
		{"none", nil, false, []string{""}},
		{"draining", []string{"a", "b", "c"}, true, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := readiness{
				backends: []string{"a", "b", "c"}, services: servicesOf(routes),
				ready: func(b string) bool { return slices.Contains(tt.up, b) },
			}
			if got := r.names(); !slices.Equal(got, names) {
				t.Errorf("names = %q, want %q", got, names)
			}
			for _, name := range names {
				want := notServing
				if slices.Contains(tt.want, name) {
					want = serving
				}
				if got := r.of(name, tt.draining); got != want {
					t.Errorf("%q is %v, want %v", name, got, want)
				}
			}
			for _, name := range []string{"backend/", "backend/x", "a", "glob.X", "glob.*", "denied.S", "*", "Backend/a", "/one.A", "one"} {
				if got := r.of(name, tt.draining); got != unknown {
					t.Errorf("%q is %v, want %v", name, got, unknown)
				}
			}
			if got := r.forStrangers().of("backend/a", tt.draining); got != unknown {
				t.Errorf("backend/a is %v to strangers", got)
			}
		})
	}
}

// planRoutes returns the routes of a file.
func planRoutes(t *testing.T, text string) []routePlan {
	t.Helper()
	d, err := New(Config{File: declare(t, "%s", text)})
	if err != nil {
		t.Fatal(err)
	}

	return d.first.routes
}

// A healthWatch is a Watch of one name.
type healthWatch struct {
	name   string
	stream grpc.ServerStreamingClient[healthpb.HealthCheckResponse]
}

func watchOf(t *testing.T, conn *grpc.ClientConn, name string) healthWatch {
	t.Helper()
	stream, err := healthpb.NewHealthClient(conn).Watch(callContext(t), &healthpb.HealthCheckRequest{Service: name})
	if err != nil {
		t.Fatal(err)
	}

	return healthWatch{name, stream}
}

// want receives the next status.
func (w healthWatch) want(t *testing.T, want healthpb.HealthCheckResponse_ServingStatus) {
	t.Helper()
	if resp, err := w.stream.Recv(); err != nil || resp.GetStatus() != want {
		t.Errorf("watch of %q: %v, %v; want %v", w.name, resp.GetStatus(), err, want)
	}
}

const readyFile = `
frontends: [{name: f, listen: "127.0.0.1:0"}]
backends:
  a: {endpoints: ["%s"]}
  b: {endpoints: ["%s"]}
routes:
  - {match: {service: shop.v1.Catalog}, backend: a}
  - {match: {service: shop.v1.Orders}, backend: b}
  - {match: {service: manifold.sample.v1.*}, backend: a}
`

// An endpoint that goes and comes back is told to those who watch, and to them alone.
func TestHealthWatchesEndpoints(t *testing.T) {
	backends := startBackends(t, 2)
	d := startDaemon(t, Config{File: declare(t, readyFile, backends[0].Addr(), backends[1].Addr())})
	conn := connectTo(t, d, "f", insecure.NewCredentials())
	whole, a, b := watchOf(t, conn, ""), watchOf(t, conn, "backend/a"), watchOf(t, conn, "backend/b")
	catalog, orders := watchOf(t, conn, "shop.v1.Catalog"), watchOf(t, conn, "shop.v1.Orders")
	for _, w := range []healthWatch{whole, a, b, catalog, orders} {
		w.want(t, serving)
	}

	addr := backends[1].Addr()
	backends[1].Stop()
	b.want(t, notServing)
	orders.want(t, notServing)
	client := healthpb.NewHealthClient(conn)
	list, err := client.List(callContext(t), &healthpb.HealthListRequest{})
	got := map[string]healthpb.HealthCheckResponse_ServingStatus{}
	for name, s := range list.GetStatuses() {
		got[name] = s.GetStatus()
	}
	want := map[string]healthpb.HealthCheckResponse_ServingStatus{
		"": serving, "backend/a": serving, "backend/b": notServing, "shop.v1.Catalog": serving, "shop.v1.Orders": notServing,
	}
	if err != nil || !maps.Equal(got, want) {
		t.Errorf("list = %v, %v; want %v", got, err, want)
	}
	if resp, err := client.Check(callContext(t), &healthpb.HealthCheckRequest{Service: "shop.v1.Orders"}); err != nil || resp.GetStatus() != notServing {
		t.Errorf("check = %v, %v", resp, err)
	}

	startBackend(t, Address{Network: "tcp", Addr: addr.String()}, sample.Options{Name: "1"})
	b.want(t, serving)
	orders.want(t, serving)

	drained := drain(callContext(t), d)
	for _, w := range []healthWatch{whole, a, b, catalog, orders} { // the next that a and catalog hear
		w.want(t, notServing)
		if _, err := w.stream.Recv(); status.Code(err) != codes.Unavailable {
			t.Errorf("the end of the watch of %q is %v", w.name, err)
		}
	}
	if err := result(t, drained); err != nil {
		t.Errorf("shutdown: %v", err)
	}
}

// A reload brings names and takes them away, also for those who watch them.
func TestHealthAfterReload(t *testing.T) {
	backends := startBackends(t, 2)
	d, file := startDeclared(t, Config{}, readyFile, backends[0].Addr(), backends[1].Addr())
	conn := connectTo(t, d, "f", insecure.NewCredentials())
	gone, moved, comes, backend := watchOf(t, conn, "backend/b"), watchOf(t, conn, "shop.v1.Orders"), watchOf(t, conn, "shop.v1.Search"), watchOf(t, conn, "backend/c")
	gone.want(t, serving)
	moved.want(t, serving)
	comes.want(t, unknown)
	backend.want(t, unknown)

	file.set(`
frontends: [{name: f, listen: "127.0.0.1:0"}]
backends:
  a: {endpoints: ["%s"]}
  c: {endpoints: ["127.0.0.1:1"]}
routes:
  - {match: {service: shop.v1.Search}, backend: a}
  - {match: {service: shop.v1.Orders}, backend: c}
`, backends[0].Addr())
	reload(t, d)
	gone.want(t, unknown)
	moved.want(t, notServing)
	comes.want(t, serving)
	backend.want(t, notServing)
	if _, err := healthpb.NewHealthClient(conn).Check(callContext(t), &healthpb.HealthCheckRequest{Service: "shop.v1.Catalog"}); status.Code(err) != codes.NotFound {
		t.Errorf("check of a name that is gone: %v", err)
	}
}

// Who comes over TLS does not learn of backends, whatever headers it sends.
func TestHealthToStrangers(t *testing.T) {
	backend := startBackends(t, 1)[0]
	authority := certtest.New(t)
	pair := authority.Issue(t, "localhost")
	d := startDaemon(t, Config{File: declare(t, `
frontends:
  - {name: public, listen: "127.0.0.1:0", tls: {certificates: [{cert: "%s", key: "%s"}]}}
  - {name: inside, listen: "127.0.0.1:0"}
backends: {a: {endpoints: ["%s"]}}
routes: [{match: {service: shop.v1.Catalog}, backend: a}]
`, pair.CertFile, pair.KeyFile, backend.Addr())})
	conn := connectTo(t, d, "public", credentials.NewClientTLSFromCert(authority.Pool, "localhost"))
	client := healthpb.NewHealthClient(conn)
	check := func(ctx context.Context, name string) (healthpb.HealthCheckResponse_ServingStatus, error) {
		resp, err := client.Check(ctx, &healthpb.HealthCheckRequest{Service: name})
		return resp.GetStatus(), err
	}

	for _, name := range []string{"", "shop.v1.Catalog"} {
		if got, err := check(callContext(t), name); err != nil || got != serving {
			t.Errorf("check of %q: %v, %v", name, got, err)
		}
	}
	for _, value := range []string{"", "0"} {
		ctx := metadata.AppendToOutgoingContext(callContext(t), strangerHeader, value)
		if _, err := check(ctx, "backend/a"); status.Code(err) != codes.NotFound {
			t.Errorf("check of a backend: %v", err)
		}
	}
	watchOf(t, conn, "backend/a").want(t, unknown)
	list, err := client.List(callContext(t), &healthpb.HealthListRequest{})
	if names := slices.Collect(maps.Keys(list.GetStatuses())); err != nil || !slices.Equal(names, []string{""}) {
		t.Errorf("list has %q, %v", names, err)
	}
	watchOf(t, connectTo(t, d, "inside", insecure.NewCredentials()), "backend/a").want(t, serving)
}

// What is too long for a message is refused in whole.
func TestHealthListsSoMany(t *testing.T) {
	services := map[string][]string{}
	h := newHealth(func() readiness { return readiness{services: services, ready: func(string) bool { return true }} })
	for i := range mostListed - 1 {
		services[string(rune('A'+i))] = []string{"b"}
	}
	if list, err := h.List(t.Context(), nil); err != nil || len(list.GetStatuses()) != mostListed {
		t.Errorf("%d names, %v; want %d", len(list.GetStatuses()), err, mostListed)
	}
	services["one.more"] = []string{"b"}
	if _, err := h.List(t.Context(), nil); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("with one more: %v", err)
	}
}

// So many may watch, and no more; who asks once is answered in any case.
func TestHealthWatches(t *testing.T) {
	h := newHealth(func() readiness { return readiness{} })
	h.watches.Store(mostWatches)
	if err := h.Watch(&healthpb.HealthCheckRequest{}, nil); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("one too many: %v", err)
	}
	if r, err := h.Check(t.Context(), &healthpb.HealthCheckRequest{}); err != nil || r.GetStatus() != serving {
		t.Errorf("check: %v, %v", r, err)
	}
	h.watches.Store(mostWatches - 1)
	ctx, cancel := context.WithCancel(t.Context())
	w := watcher{ctx: ctx, sent: make(chan healthpb.HealthCheckResponse_ServingStatus, 1)}
	ended := make(chan error, 1)
	go func() { ended <- h.Watch(&healthpb.HealthCheckRequest{}, w) }() // ends with cancel
	if s := receive(t, w.sent, 1, "a status")[0]; s != serving {
		t.Errorf("the last one is told %v", s)
	}
	cancel()
	if err := receive(t, ended, 1, "the end")[0]; status.Code(err) != codes.Canceled || h.watches.Load() != mostWatches-1 {
		t.Errorf("ended with %v, %d are left", err, h.watches.Load())
	}
}

// watcher is a stream to who watches.
type watcher struct {
	grpc.ServerStreamingServer[healthpb.HealthCheckResponse]
	ctx  context.Context
	sent chan healthpb.HealthCheckResponse_ServingStatus
}

func (w watcher) Context() context.Context { return w.ctx }

func (w watcher) Send(r *healthpb.HealthCheckResponse) error {
	w.sent <- r.GetStatus()

	return nil
}
