// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"math"
	"net"
	"slices"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// Gateway API's conformance cases of GRPCRoute, each said in the words of the configuration file. A
// rule with several matches, or a route with several hostnames, is a route for each here. A listener's hostname has no key of its own:
// the hosts of the routes are what is left when both are put together. Its case of named rules is that of exact methods, with names that
// say nothing about calls; those of the other cases that the suite does not have are our own.

// startNamed runs a backend that answers every unary method with its name, and returns its address.
func startNamed(t *testing.T, name string) string {
	t.Helper()

	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := grpc.NewServer(grpc.UnknownServiceHandler(func(_ any, stream grpc.ServerStream) error {
		if err := stream.RecvMsg(new(emptypb.Empty)); err != nil {
			return err
		}
		return stream.SendMsg(wrapperspb.String(name))
	}))
	done := make(chan struct{})
	go func() { // ends with Stop
		defer close(done)
		_ = srv.Serve(lis)
	}()
	t.Cleanup(func() { srv.Stop(); <-done })

	return lis.Addr().String()
}

// startRoutes runs a daemon with the backends v1, v2 and v3, and some routes.
func startRoutes(t *testing.T, routes string) *Daemon {
	t.Helper()

	return startDaemon(t, Config{File: declare(t, `
frontends: [{name: f, listen: "127.0.0.1:0"}]
backends: {v1: {endpoints: ["%s"]}, v2: {endpoints: ["%s"]}, v3: {endpoints: ["%s"]}}
routes:
`+routes, startNamed(t, "v1"), startNamed(t, "v2"), startNamed(t, "v3"))})
}

// answerer returns who answers a call, or the name of the code that it ends with.
func answerer(ctx context.Context, conn *grpc.ClientConn, path string) string {
	var who wrapperspb.StringValue
	if err := conn.Invoke(ctx, path, new(emptypb.Empty), &who); err != nil {
		return status.Code(err).String()
	}

	return who.GetValue()
}

const echoMethod = "/conformance.Echo/Echo"

// A routeCall is a call, and who answers it.
type routeCall struct {
	host, path string
	metadata   []string
	want       string
}

func headerCall(want string, pairs ...string) routeCall {
	return routeCall{path: echoMethod, metadata: pairs, want: want}
}

func hostCall(host, want string) routeCall {
	return routeCall{host: host, path: echoMethod, want: want}
}

// unrouted is what a call without a route ends with.
var unrouted = codes.Unimplemented.String()

var grpcRouteTests = []struct {
	name, routes string
	calls        []routeCall
}{
	{"exact method", `
  - {match: {service: conformance.Echo, method: Echo}, backend: v1}
  - {match: {service: conformance.Echo, method: EchoTwo}, backend: v2}
`, []routeCall{
		{path: echoMethod, want: "v1"},
		{path: "/conformance.Echo/EchoTwo", want: "v2"},
		{path: "/conformance.Echo/EchoThree", want: unrouted},
		{path: "/conformance.Echo/echo", want: unrouted},
		{path: "/conformance.Other/Echo", want: unrouted},
	}},
	{"header", `
  - {match: {metadata: {version: one}}, backend: v1}
  - {match: {metadata: {version: two}}, backend: v2}
  - {match: {metadata: {version: two, color: orange}}, backend: v1}
  - {match: {metadata: {color: blue}}, backend: v1}
  - {match: {metadata: {color: green}}, backend: v1}
  - {match: {metadata: {color: red}}, backend: v2}
  - {match: {metadata: {color: yellow}}, backend: v2}
`, []routeCall{
		headerCall("v1", "Version", "one"), headerCall("v2", "Version", "two"),
		headerCall("v1", "Version", "two", "Color", "orange"), headerCall("v2", "Version", "two", "Color", "blue"),
		headerCall(unrouted, "Color", "orange"), headerCall(unrouted, "Some-Other-Header", "one"), headerCall(unrouted),
		headerCall("v1", "Color", "blue"), headerCall("v1", "Color", "green"),
		headerCall("v2", "Color", "red"), headerCall("v2", "Color", "yellow"), headerCall(unrouted, "Color", "purple"),
		headerCall(unrouted, "Color", "BLUE"),
	}},
	{"listener hostname", `
  - {match: {host: bar.com}, backend: v1}
  - {match: {host: foo.bar.com}, backend: v2}
  - {match: {host: "*.bar.com"}, backend: v3}
  - {match: {host: "*.foo.com"}, backend: v3}
`, []routeCall{
		hostCall("bar.com", "v1"), hostCall("foo.bar.com", "v2"), hostCall("baz.bar.com", "v3"), hostCall("boo.bar.com", "v3"),
		hostCall("multiple.prefixes.bar.com", "v3"), hostCall("multiple.prefixes.foo.com", "v3"),
		hostCall("foo.com", unrouted), hostCall("no.matching.host", unrouted),
		hostCall("bar.com:8443", "v1"), hostCall("FOO.bar.com", "v2"),
	}},
	// Listeners very.specific.com, *.wildcard.io and *.anotherwildcard.io.
	{"hostname intersection", `
  - {match: {host: very.specific.com, service: s.One}, backend: v1}
  - {match: {host: foo.wildcard.io, service: s.Two}, backend: v2}
  - {match: {host: bar.wildcard.io, service: s.Two}, backend: v2}
  - {match: {host: foo.bar.wildcard.io, service: s.Two}, backend: v2}
  - {match: {host: very.specific.com, service: s.Three}, backend: v3}
  - {match: {host: "*.anotherwildcard.io", service: s.Four}, backend: v1}
`, []routeCall{
		{host: "very.specific.com", path: "/s.One/M", want: "v1"},
		{host: "non.matching.com", path: "/s.One/M", want: unrouted},
		{host: "foo.nonmatchingwildcard.io", path: "/s.One/M", want: unrouted},
		{host: "very.specific.com", path: "/s.Other/M", want: unrouted},
		{host: "foo.wildcard.io", path: "/s.Two/M", want: "v2"},
		{host: "bar.wildcard.io", path: "/s.Two/M", want: "v2"},
		{host: "foo.bar.wildcard.io", path: "/s.Two/M", want: "v2"},
		{host: "wildcard.io", path: "/s.Two/M", want: unrouted},
		{host: "very.specific.com", path: "/s.Two/M", want: unrouted},
		{host: "very.specific.com", path: "/s.Three/M", want: "v3"},
		{host: "foo.specific.com", path: "/s.Three/M", want: unrouted},
		{host: "foo.anotherwildcard.io", path: "/s.Four/M", want: "v1"},
		{host: "one.two.three.anotherwildcard.io", path: "/s.Four/M", want: "v1"},
		{host: "anotherwildcard.io", path: "/s.Four/M", want: unrouted},
		{host: "foo.wildcard.io", path: "/s.Four/M", want: unrouted},
	}},
}

func TestGRPCRoute(t *testing.T) {
	for _, tt := range grpcRouteTests {
		t.Run(tt.name, func(t *testing.T) {
			d := startRoutes(t, tt.routes)
			conns := map[string]*grpc.ClientConn{}
			for _, c := range tt.calls {
				if conns[c.host] == nil {
					conns[c.host] = connectTo(t, d, "f", insecure.NewCredentials(), grpc.WithAuthority(c.host))
				}
				ctx := metadata.AppendToOutgoingContext(callContext(t), c.metadata...)
				if got := answerer(ctx, conns[c.host], c.path); got != c.want {
					t.Errorf("%s%s %q: %s, want %s", c.host, c.path, c.metadata, got, c.want)
				}
			}
		})
	}
}

// 500 calls, 10 at once, are shared out by weights to within 5 %.
func TestGRPCRouteWeights(t *testing.T) {
	d := startRoutes(t, `  - backend: [{name: v1, weight: 70}, {name: v2, weight: 30}, {name: v3, weight: 0}]`)
	conn := connectTo(t, d, "f", insecure.NewCredentials())
	const total, atOnce, tolerance = 500, 10, 0.05
	ctx := callContext(t)
	var (
		wg   sync.WaitGroup
		mu   sync.Mutex
		seen = map[string]int{} // guarded by mu
	)
	for range atOnce {
		wg.Go(func() {
			for range total / atOnce {
				who := answerer(ctx, conn, echoMethod)
				mu.Lock()
				seen[who]++
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	for who, want := range map[string]float64{"v1": 0.7, "v2": 0.3} {
		if got := float64(seen[who]) / total; math.Abs(got-want) > tolerance {
			t.Errorf("%s had %v of the calls, want %v", who, got, want)
		}
	}
	if len(seen) != 2 {
		t.Errorf("answers of %v, want of v1 and v2 alone", seen)
	}
}

// Rules with the same match are routes of a service each here, since of such routes the first takes all calls. The suite's
// expectations of the last two cases, that a request's own value comes after what is added and that a value to set
// is that of another rule, are not the specification's: what is added comes after, and a rule sets its own.
func TestGRPCRouteRequestHeaders(t *testing.T) {
	const all = "/s.All/EchoTwo"
	tests := []struct {
		name, path string
		sent       metadata.MD
		want       metadata.MD // nil: absent
	}{
		{"set what is not there", "/s.Set/Echo", metadata.Pairs("Some-Other-Header", "stays"),
			metadata.MD{"some-other-header": {"stays"}, "x-header-set": {"set-overwrites-values"}}},
		{"set what is there", "/s.Set/Echo", metadata.Pairs("Some-Other-Header", "stays", "X-Header-Set", "gone", "X-Header-Set", "gone too"),
			metadata.MD{"some-other-header": {"stays"}, "x-header-set": {"set-overwrites-values"}}},
		{"add what is not there", "/s.Add/Echo", metadata.Pairs("Some-Other-Header", "stays"),
			metadata.MD{"some-other-header": {"stays"}, "x-header-add": {"add-appends-values"}}},
		{"add to what is there", "/s.Add/Echo", metadata.Pairs("Some-Other-Header", "stays", "X-Header-Add", "first"),
			metadata.MD{"some-other-header": {"stays"}, "x-header-add": {"first", "add-appends-values"}}},
		{"remove", "/s.Remove/Echo", metadata.Pairs("X-Header-Remove", "gone", "X-Header-Removed", "stays"),
			metadata.MD{"x-header-remove": nil, "x-header-removed": {"stays"}}},
		{"several", all, metadata.Pairs("X-Header-Set-2", "gone", "X-Header-Add-2", "first", "X-Header-Remove-2", "gone", "Some-Other-Header", "stays"),
			metadata.MD{
				"x-header-set-1": {"header-set-1"}, "x-header-set-2": {"header-set-2"}, "x-header-add-1": {"header-add-1"},
				"x-header-add-2": {"first", "header-add-2"}, "x-header-remove-2": nil, "some-other-header": {"stays"},
			}},
		{"names in lower case", all, metadata.Pairs("x-header-set-1", "gone", "x-header-add-1", "first", "x-header-remove-1", "gone"),
			metadata.MD{
				"x-header-set-1": {"header-set-1"}, "x-header-set-2": {"header-set-2"}, "x-header-add-1": {"first", "header-add-1"},
				"x-header-add-2": {"header-add-2"}, "x-header-remove-1": nil,
			}},
	}
	r := startRecorder(t, 0)
	d := startDaemon(t, Config{File: declare(t, `
frontends: [{name: f, listen: "127.0.0.1:0"}]
backends: {v1: {endpoints: ["%s"]}}
routes:
  - {match: {service: s.Set, method: Echo}, backend: v1, request_headers: {set: {x-header-set: set-overwrites-values}}}
  - {match: {service: s.Add, method: Echo}, backend: v1, request_headers: {add: {x-header-add: add-appends-values}}}
  - {match: {service: s.Remove, method: Echo}, backend: v1, request_headers: {remove: [x-header-remove]}}
  - match: {service: s.All, method: EchoTwo}
    backend: v1
    request_headers:
      set: {x-header-set-1: header-set-1, x-header-set-2: header-set-2}
      add: {x-header-add-1: header-add-1, x-header-add-2: header-add-2}
      remove: [x-header-remove-1, x-header-remove-2]
`, r.addr)})
	conn := connectTo(t, d, "f", insecure.NewCredentials())
	for i, tt := range tests {
		ctx := metadata.NewOutgoingContext(callContext(t), tt.sent)
		if err := conn.Invoke(ctx, tt.path, new(emptypb.Empty), new(emptypb.Empty)); err != nil {
			t.Fatalf("%s: %v", tt.name, err)
		}
		for name, want := range tt.want {
			if got := r.got(name)[i]; !slices.Equal(got, want) {
				t.Errorf("%s: %s is %q, want %q", tt.name, name, got, want)
			}
		}
	}
}
