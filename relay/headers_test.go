// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package relay

import (
	"crypto/tls"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/manifold-grpc/manifold/internal/h2"
	"github.com/manifold-grpc/manifold/internal/h2/hpack"
)

// fields makes header fields of lines "name: value".
func fields(lines ...string) []hpack.Field {
	var fs []hpack.Field
	for _, l := range lines {
		i := strings.Index(l[1:], ":") + 1 // pseudo-header fields begin with one
		fs = append(fs, hpack.Field{Name: l[:i], Value: strings.TrimPrefix(l[i+1:], " ")})
	}
	return fs
}

func lines(fs []hpack.Field) []string {
	var ls []string
	for _, f := range fs {
		ls = append(ls, f.Name+": "+f.Value)
	}
	return ls
}

// request is what every request below begins with.
var request = []string{":method: POST", ":scheme: http", ":path: /a.B/C", ":authority: shop", "content-type: application/grpc"}

// upstreamed returns what the fields of a request become on their way to an upstream. It holds against that what becomes of
// a list that came before, the second time and the third.
func upstreamed(srv *Server, dc *downConn, cfg EndpointConfig, route func(*Call), in []string) (*Call, []string) {
	dc.srv, dc.set = srv, newSettings(srv.settingsOfFields())
	uc := &upConn{ep: &Endpoint{cfg: cfg}, scheme: "http"}
	start := time.Now()
	pass := func(take func(*Call) bool) (*Call, bool, []string) {
		c := &Call{srv: srv, dc: dc, start: start}
		grpc := take(c)
		if route != nil {
			route(c)
		}
		out := c.upstreamFields(nil, uc, start)
		if l := c.list(uc, start, 0); l != nil {
			out = l.Fields
		}
		return c, grpc, lines(out)
	}
	c, grpc, want := pass(func(c *Call) bool { return c.take(fields(in...)) == "POST" && isGRPC(c.content) })
	known := &h2.Known{List: hpack.NewList(fields(in...))}
	for range 3 {
		k, g, got := pass(func(c *Call) bool { return c.takeKnown(known) })
		if g != grpc || !slices.Equal(got, want) || k.path != c.path || k.host != c.host || k.content != c.content || k.timeout != c.timeout {
			panic(fmt.Sprintf("known list of %q: %q, want %q", in, got, want))
		}
	}
	return c, want
}

func more(lines ...string) []string { return append(slices.Clone(request), lines...) }

var headerTests = []struct {
	name  string
	fwd   bool // Server.ForwardedFor
	dc    downConn
	cfg   EndpointConfig
	route func(*Call)
	in    []string
	want  []string // without te, which ends what the caller sent
	added []string
}{
	{name: "nothing of note", in: more("x-a: 1", "x-b-bin: AAE="), want: more("x-a: 1", "x-b-bin: AAE=")},
	{name: "order and repetition stay", in: more("x-a: 1", "x-b: 2", "x-a: 3"), want: more("x-a: 1", "x-b: 2", "x-a: 3")},
	{name: "compression is untouched", in: more("grpc-encoding: snappy", "grpc-accept-encoding: gzip,zstd"), want: more("grpc-encoding: snappy", "grpc-accept-encoding: gzip,zstd")},
	{name: "te and content-length", in: more("te: trailers", "content-length: 5", "x-a: 1"), want: more("x-a: 1")},
	{
		name: "host instead of authority",
		in:   []string{":method: POST", ":scheme: http", ":path: /a.B/C", "host: shop", "content-type: application/grpc"},
		want: []string{":method: POST", ":scheme: http", ":path: /a.B/C", ":authority: shop", "content-type: application/grpc"},
	},
	{
		name: "host beside an empty authority",
		in:   []string{":method: POST", ":scheme: http", ":path: /a.B/C", ":authority: ", "host: shop", "content-type: application/grpc"},
		want: []string{":method: POST", ":scheme: http", ":path: /a.B/C", ":authority: shop", "content-type: application/grpc"},
	},
	{
		name: "empty authority",
		in:   []string{":method: POST", ":scheme: http", ":path: /a.B/C", ":authority: ", "content-type: application/grpc"},
		want: []string{":method: POST", ":scheme: http", ":path: /a.B/C", ":authority: ", "content-type: application/grpc"},
	},
	{name: "host beside authority", in: more("host: other"), want: request},
	{
		name: "neither", in: []string{":method: POST", ":scheme: http", ":path: /a.B/C", "content-type: application/grpc"},
		want: []string{":method: POST", ":scheme: http", ":path: /a.B/C", "content-type: application/grpc"},
	},
	{
		name: "authority of the endpoint", cfg: EndpointConfig{Authority: "inner:1"}, in: more(),
		want: []string{":method: POST", ":scheme: http", ":path: /a.B/C", ":authority: inner:1", "content-type: application/grpc"},
	},
	{
		name: "authority of the endpoint, none of the caller", cfg: EndpointConfig{Authority: "inner:1"},
		in:   []string{":method: POST", ":scheme: http", ":path: /a.B/C", "content-type: application/grpc"},
		want: []string{":method: POST", ":scheme: http", ":path: /a.B/C", ":authority: inner:1", "content-type: application/grpc"},
	},
	{
		name: "authority of the route, none of the caller", route: func(c *Call) { c.SetHeader(":authority", "routed") },
		in:   []string{":method: POST", ":scheme: http", ":path: /a.B/C", "content-type: application/grpc"},
		want: []string{":authority: routed", ":method: POST", ":scheme: http", ":path: /a.B/C", "content-type: application/grpc"},
	},
	{
		name: "the route sets, adds and deletes", in: more("x-a: 1", "x-b: 2", "x-a: 3", "x-c: 4"),
		route: func(c *Call) {
			c.SetHeader("x-a", "9")
			c.AddHeader("x-d", "5")
			c.AddHeader("x-d", "6")
			c.DelHeader("x-c")
			c.DelHeader("x-none")
			c.SetHeader(":authority", "routed")
		},
		want: []string{":method: POST", ":scheme: http", ":path: /a.B/C", ":authority: routed", "content-type: application/grpc", "x-a: 9", "x-b: 2", "x-d: 5", "x-d: 6"},
	},
	{
		name: "forwarding headers of a stranger",
		in: more("x-forwarded-for: 1.2.3.4", "x-forwarded-host: evil", "x-forwarded-proto: https", "x-forwarded-port: 1", "x-forwarded-user: root",
			"forwarded: for=1.2.3.4", "x-forwarded-client-cert: By=x", "client-cert: :MIIB:", "client-cert-chain: :MIIB:", "x-a: 1"),
		want: more("x-a: 1"),
	},
	{
		name: "forwarding headers of a trusted client", dc: downConn{trusted: true},
		in:   more("x-forwarded-for: 1.2.3.4", "forwarded: for=1.2.3.4", "x-forwarded-client-cert: By=x", "client-cert: :MIIB:"),
		want: more("x-forwarded-for: 1.2.3.4", "forwarded: for=1.2.3.4", "x-forwarded-client-cert: By=x", "client-cert: :MIIB:"),
	},
	{
		name: "own forwarding headers", fwd: true, dc: downConn{forwarded: "10.0.0.9"}, in: more("x-forwarded-for: 1.2.3.4"), want: request,
		added: []string{"x-forwarded-for: 10.0.0.9", "x-forwarded-host: shop", "x-forwarded-proto: http"},
	},
	{
		name: "own forwarding headers over TLS, of a client without an address", fwd: true, dc: downConn{tls: new(tls.ConnectionState)}, in: more(), want: request,
		added: []string{"x-forwarded-host: shop", "x-forwarded-proto: https"},
	},
	{
		name: "own forwarding headers behind a trusted proxy", fwd: true, dc: downConn{trusted: true, forwarded: "10.0.0.9"},
		in:    more("x-forwarded-for: 1.2.3.4", "x-forwarded-host: outer", "x-forwarded-proto: https"),
		want:  more("x-forwarded-for: 1.2.3.4", "x-forwarded-host: outer", "x-forwarded-proto: https"),
		added: []string{"x-forwarded-for: 10.0.0.9"}, // what the client saw of the caller is not for us to say again
	},
}

func TestRequestHeaders(t *testing.T) {
	for i := range headerTests {
		tt := &headerTests[i]
		t.Run(tt.name, func(t *testing.T) {
			_, got := upstreamed(&Server{ForwardedFor: tt.fwd}, &tt.dc, tt.cfg, tt.route, tt.in)
			want := append(append(slices.Clone(tt.want), "te: trailers"), tt.added...)
			if !slices.Equal(got, want) {
				t.Errorf("sent upstream:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
			}
		})
	}
}

func TestRequestTimeout(t *testing.T) {
	tests := []struct {
		name  string
		in    []string // grpc-timeout fields
		spent time.Duration
		want  string // "" stands for one that is no longer than left
		left  time.Duration
	}{
		{"nothing spent", []string{"10S"}, 0, "10S", 0},
		{"next to nothing spent", []string{"10S"}, time.Millisecond, "10S", 0},
		{"half spent", []string{"10S"}, 5 * time.Second, "", 5 * time.Second},
		{"all spent", []string{"10S"}, 11 * time.Second, "0n", 0},
		{"none to begin with", []string{"0S"}, time.Second, "0n", 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			in := slices.Clone(request)
			for _, s := range tt.in {
				in = append(in, "grpc-timeout: "+s)
			}
			_, got := upstreamed(&Server{}, &downConn{}, EndpointConfig{}, func(c *Call) { c.start = c.start.Add(-tt.spent) }, in)
			text, _ := strings.CutPrefix(got[len(got)-2], "grpc-timeout: ")
			if tt.want != "" {
				if text != tt.want {
					t.Errorf("sent upstream %q, want %q", text, tt.want)
				}
				return
			}
			if d, ok := parseTimeout(text); !ok || d > tt.left || d < tt.left-time.Second {
				t.Errorf("sent upstream %q, want a little under %v", text, tt.left)
			}
		})
	}
}

// The getters say what the caller sent.
func TestCallGetters(t *testing.T) {
	in := append(slices.Clone(request), "x-a: 1", "x-a: 2", "grpc-timeout: 3S")
	c, _ := upstreamed(&Server{}, &downConn{}, EndpointConfig{}, nil, in)
	if c.Host() != "shop" || c.Path() != "/a.B/C" || c.ContentType() != "application/grpc" {
		t.Errorf("host %q, path %q, content-type %q", c.Host(), c.Path(), c.ContentType())
	}
	if v, ok := c.Header("x-a"); v != "1" || !ok {
		t.Errorf("x-a = %q, %t", v, ok)
	}
	if _, ok := c.Header("x-b"); ok {
		t.Error("there is no x-b")
	}
	if d, ok := c.Timeout(); d != 3*time.Second || !ok {
		t.Errorf("timeout = %v, %t", d, ok)
	}
	var got []string
	for name, value := range c.Headers() {
		if got = append(got, name+": "+value); name == "x-a" {
			break
		}
	}
	if want := in[:len(request)+1]; !slices.Equal(got, want) {
		t.Errorf("headers %q, want %q", got, want)
	}
}

func TestForwardable(t *testing.T) {
	var scratch []hpack.Field
	in := fields(":status: 200", "content-length: 4", "x-a: 1", "content-length: 4", "grpc-status: 0")
	got := lines(forwardable(in, &scratch))
	if want := []string{":status: 200", "x-a: 1", "grpc-status: 0"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	whole := fields(":status: 200", "x-a: 1")
	if got := forwardable(whole, &scratch); &got[0] != &whole[0] {
		t.Error("fields of which all are forwarded were copied")
	}
}

// Endpoints of one kind, however many, get the same list, also from another connection; another scheme or authority has its own.
func TestListsByKind(t *testing.T) {
	srv := &Server{}
	start := time.Now()
	kinds := []*upConn{
		{ep: &Endpoint{}, scheme: "http"}, {ep: &Endpoint{}, scheme: "https"},
		{ep: &Endpoint{cfg: EndpointConfig{Authority: "inner"}}, scheme: "http"},
	}
	lists := make([]*hpack.List, len(kinds))
	for range 2 {
		dc := &downConn{srv: srv, set: newSettings(srv.settingsOfFields())}
		known := &h2.Known{List: hpack.NewList(fields(request...))}
		(&Call{srv: srv, dc: dc, start: start}).takeKnown(known)
		for range 2 * maxUpstreamLists {
			c := &Call{srv: srv, dc: dc, start: start}
			c.takeKnown(known)
			for i, kind := range kinds {
				l := c.list(&upConn{ep: &Endpoint{cfg: kind.ep.cfg}, scheme: kind.scheme}, start, 0)
				if got, want := lines(l.Fields), lines(c.upstreamFields(nil, kind, start)); !slices.Equal(got, want) {
					t.Fatalf("kind %d gets %q, want %q", i, got, want)
				}
				if lists[i] == nil {
					lists[i] = l
				}
				if l != lists[i] {
					t.Fatalf("kind %d got a list of its own again", i)
				}
			}
		}
	}
}

// What goes to the targets of a call to many is, from a list that came before, what it is without, and is made once for each endpoint.
func TestFannedLists(t *testing.T) {
	const targets = maxUpstreamLists / 2
	srv := &Server{}
	dc := &downConn{srv: srv, set: newSettings(srv.settingsOfFields())}
	ucs := make([]*upConn, targets)
	for i := range ucs {
		ucs[i] = &upConn{ep: &Endpoint{cfg: EndpointConfig{Authority: fmt.Sprint("target-", i)}}, scheme: "http"}
	}
	start := time.Now()
	for _, in := range [][]string{request, more("grpc-accept-encoding: gzip", "user-agent: test", "grpc-accept-encoding: deflate")} {
		plain := &Call{srv: srv, dc: dc, start: start}
		plain.take(fields(in...))
		plain.askIdentity()
		known := &h2.Known{List: hpack.NewList(fields(in...))}
		(&Call{srv: srv, dc: dc, start: start}).takeKnown(known) // from the second on it is known
		once := &Call{srv: srv, dc: dc, start: start}            // and from the second that goes to many, what their targets get
		once.takeKnown(known)
		once.askIdentity()
		if got, want := lines(once.req), lines(plain.req); !slices.Equal(got, want) {
			t.Errorf("the first request is %q, want %q", got, want)
		}
		first := make([]*hpack.List, targets)
		for round := range 3 {
			c := &Call{srv: srv, dc: dc, start: start}
			c.takeKnown(known)
			c.askIdentity()
			if c.Service() != plain.Service() || c.Method() != plain.Method() || c.path != plain.path || !slices.Equal(lines(c.req), lines(plain.req)) {
				t.Fatalf("the request is %q, want %q", lines(c.req), lines(plain.req))
			}
			for i, uc := range ucs {
				l := c.list(uc, start, i)
				if got, want := lines(l.Fields), lines(plain.upstreamFields(nil, uc, start)); !slices.Equal(got, want) {
					t.Errorf("target %d gets %q, want %q", i, got, want)
				}
				if round == 0 {
					first[i] = l
				} else if l != first[i] {
					t.Errorf("round %d makes the list for target %d anew", round, i)
				}
			}
		}
		// A call to one target has what the client sent.
		one := &Call{srv: srv, dc: dc, start: start}
		one.takeKnown(known)
		if got := find(one.req, "grpc-accept-encoding"); got == "identity" {
			t.Errorf("a call to one target asks for %q", got)
		}
	}
}
