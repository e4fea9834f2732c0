// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package proxy_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/manifold-grpc/manifold/proxy"
)

// routes returns a route for each pattern, whose director answers with a backend of that name.
func routes(patterns ...string) []proxy.Route {
	var list []proxy.Route
	for _, p := range patterns {
		list = append(list, proxy.Route{Pattern: p, Director: (&proxy.Upstream{Name: p}).Direct})
	}

	return list
}

// routed returns the pattern of the route that takes the method, or the code of the refusal.
func routed(t *testing.T, r *proxy.Router, method string) string {
	t.Helper()

	mode, backends, err := r.Direct(context.Background(), method)
	if err != nil {
		return status.Code(err).String()
	}

	if mode != proxy.One2One || len(backends) != 1 {
		t.Fatalf("%s: mode %v and %d backends", method, mode, len(backends))
	}

	return backends[0].String()
}

func TestRouterPrecedence(t *testing.T) {
	const none = "Unimplemented"

	all := []string{
		"*", "shop.*", "shop.Cart*", "shop.Cart", "shop.Cart/Get*", "shop.Cart/GetAll*", "shop.Cart/GetItem", "/shop.Order/Cancel", "bank.Account/*",
	}
	tests := []struct {
		name     string
		patterns []string
		want     map[string]string // by method
	}{
		{"most specific wins", all, map[string]string{
			"/shop.Cart/GetItem":       "shop.Cart/GetItem",
			"/shop.Cart/GetItems":      "shop.Cart/Get*",
			"/shop.Cart/GetAll":        "shop.Cart/GetAll*",
			"/shop.Cart/GetAllOfThem":  "shop.Cart/GetAll*",
			"/shop.Cart/Get":           "shop.Cart/Get*",
			"/shop.Cart/Put":           "shop.Cart",
			"/shop.Carts/GetItem":      "shop.Cart*",
			"/shop.Order/Cancel":       "/shop.Order/Cancel",
			"/shop.Order/Place":        "shop.*",
			"/shop.v2.Order/Place":     "shop.*",
			"/bank.Account/Open":       "bank.Account/*",
			"/bank.Accounts/Open":      "*",
			"/other.Service/AnyMethod": "*",
			"/s/m":                     "*",
			"/shop.cart/GetItem":       "shop.*",
		}},
		{"no star for all", []string{"a.B", "c.*", "d.E/F"}, map[string]string{
			"/a.B/M": "a.B", "/a.Bc/M": none, "/a/M": none, "/c.D/M": "c.*", "/c/M": none, "/d.E/F": "d.E/F", "/d.E/Fg": none, "/d.E/f": none, "/x.Y/Z": none,
		}},
		{"methods only, with a star behind", []string{"a.B/C", "a.*"}, map[string]string{"/a.B/C": "a.B/C", "/a.B/D": "a.*"}},
		{"malformed paths", []string{"*"}, map[string]string{
			"": none, "/": none, "//": none, "a.B/C": none, "/a.B": none, "/a.B/": none, "//C": none, "//a.B/C": none, "/a.B//C": none, "/a.B/C/": none, "/a.B/C/D": none,
			"/a.B/C?x": none, "/a.B/C#x": none, "/a%2FB/C": none, "/a.B%2FC": none, `/a.B\C/D`: none, "/a.B/C;v=1": none, "/a.B/*": none, "/../C": none, "/a.B/..": none, "/./C": none,
			"/a.B/C\x00": none, "/a.B/\n": none, "/a.B/ C": none, "/a.B/Ç": none, "/a.B/C\xff": none, "/a.B/\x7f": none,
			"/a-b_c.D:e~$/F+g'h(i)": "*",
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r, err := proxy.NewRouter(routes(tt.patterns...)...)
			if err != nil {
				t.Fatal(err)
			}

			for method, want := range tt.want {
				if got := routed(t, r, method); got != want {
					t.Errorf("%q went to %s, want %s", method, got, want)
				}
			}
		})
	}
}

func TestRouterRejects(t *testing.T) {
	const star = "; a star may only end it"

	tests := []struct {
		name   string
		routes []proxy.Route
		want   string // one line for each error
	}{
		{"empty", routes(""), `proxy: route #0 "": the name of the service is empty`},
		{"slash", routes("/"), `proxy: route #0 "/": the name of the service is empty`},
		{"no method", routes("a.B/"), `proxy: route #0 "a.B/": the name of the method is empty`},
		{"star in front", routes("*.B"), `proxy: route #0 "*.B": '*' cannot be in the name of a service` + star},
		{"two stars", routes("a.**"), `proxy: route #0 "a.**": '*' cannot be in the name of a service` + star},
		{"star inside a method", routes("a.B/G*t"), `proxy: route #0 "a.B/G*t": '*' cannot be in the name of a method` + star},
		{"star in both", routes("a.*/Get"), `proxy: route #0 "a.*/Get": a star in the service takes no method after it`},
		{"three parts", routes("a.B/C/D"), `proxy: route #0 "a.B/C/D": '/' cannot be in the name of a method` + star},
		{"two slashes in front", routes("//a.B"), `proxy: route #0 "//a.B": the name of the service is empty`},
		{"space", routes("a.B /C"), `proxy: route #0 "a.B /C": ' ' cannot be in the name of a service` + star},
		{"not ASCII", routes("a.Ü*"), `proxy: route #0 "a.Ü*": 'Ü' cannot be in the name of a service` + star},
		{"no director", []proxy.Route{{Pattern: "a.B"}}, `proxy: route #0 "a.B": it has no director`},
		{"twice", routes("a.B", "c.D", "a.B"), `proxy: route #2 "a.B" matches the same calls as route #0 "a.B"`},
		{"same service, other spelling", routes("/a.B", "a.B/*"), `proxy: route #1 "a.B/*" matches the same calls as route #0 "/a.B"`},
		{"same star, other spelling", routes("a.*", "a.*/*"), `proxy: route #1 "a.*/*" matches the same calls as route #0 "a.*"`},
		{"same method", routes("a.B/C", "/a.B/C"), `proxy: route #1 "/a.B/C" matches the same calls as route #0 "a.B/C"`},
		{"same methods", routes("a.B/C*", "/a.B/C*"), `proxy: route #1 "/a.B/C*" matches the same calls as route #0 "a.B/C*"`},
		{"all at once", routes("", "a.B", "a.B", "?"), strings.Join([]string{
			`proxy: route #0 "": the name of the service is empty`,
			`proxy: route #2 "a.B" matches the same calls as route #1 "a.B"`,
			`proxy: route #3 "?": '?' cannot be in the name of a service` + star,
		}, "\n")},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r, err := proxy.NewRouter(tt.routes...)
			if err == nil || err.Error() != tt.want || r != nil {
				t.Errorf("NewRouter = %v, %v\nwant error %s", r, err, tt.want)
			}
		})
	}
}

func TestRouterMessages(t *testing.T) {
	for method, want := range map[string]string{
		"/a.B/C": "proxy: no route for method /a.B/C",
		"/a.B":   `proxy: malformed method name "/a.B", expected /service/method`,
	} {
		_, _, err := new(proxy.Router).Direct(context.Background(), method)
		if got := status.Convert(err); got.Code() != codes.Unimplemented || got.Message() != want {
			t.Errorf("a router without routes answers %s with %v, want Unimplemented: %s", method, got, want)
		}
	}
}

// A director gets the call as it is, and its answer is the router's.
func TestRouterPassesCallsOn(t *testing.T) {
	type key struct{}

	var got string

	refusal := status.Error(codes.PermissionDenied, "no")

	r, err := proxy.NewRouter(proxy.Route{Pattern: "a.*", Director: func(ctx context.Context, method string) (proxy.Mode, []proxy.Backend, error) {
		got = fmt.Sprint(ctx.Value(key{}), " ", method)

		return proxy.One2Many, nil, refusal
	}})
	if err != nil {
		t.Fatal(err)
	}

	mode, _, err := r.Direct(context.WithValue(context.Background(), key{}, "v"), "/a.B/C")
	if mode != proxy.One2Many || err != refusal || got != "v /a.B/C" {
		t.Errorf("Direct = %v, %v, after the director got %q", mode, err, got)
	}
}

// Random tables against the rule as the documentation has it: of the patterns that match, the most specific.
func TestRouterAgainstRule(t *testing.T) {
	rnd := rand.New(rand.NewPCG(3, 4))
	name := func() string {
		b := make([]byte, 1+rnd.IntN(4))
		for i := range b {
			b[i] = "ab."[rnd.IntN(3)]
		}

		return string(b)
	}

	for range 300 {
		var patterns []string

		for seen := map[string]bool{}; len(patterns) < 12; {
			p := name() + []string{"", "*", "/" + name(), "/" + name() + "*"}[rnd.IntN(4)]
			if !seen[p] {
				seen[p] = true
				patterns = append(patterns, p)
			}
		}

		r, err := proxy.NewRouter(routes(patterns...)...)
		if err != nil {
			t.Fatal(err)
		}

		for range 100 {
			service, method := name(), name()
			if strings.Trim(service, ".") == "" || strings.Trim(method, ".") == "" {
				continue // perhaps a step in a path
			}

			if got, want := routed(t, r, "/"+service+"/"+method), byRule(patterns, service, method); got != want {
				t.Fatalf("/%s/%s went to %s, want %s of %q", service, method, got, want, patterns)
			}
		}
	}
}

// byRule returns the most specific pattern that matches, or the code of the refusal.
func byRule(patterns []string, service, method string) string {
	best, bestScore := "Unimplemented", 0

	for _, p := range patterns {
		text, glob := strings.CutSuffix(p, "*")
		s, m, hasMethod := strings.Cut(text, "/")

		var score int

		switch {
		case !hasMethod && glob && strings.HasPrefix(service, s):
			score = 1 + len(s)
		case !hasMethod && !glob && service == s:
			score = 1000
		case hasMethod && glob && service == s && strings.HasPrefix(method, m):
			score = 2000 + len(m)
		case hasMethod && !glob && service == s && method == m:
			score = 3000
		}

		if score > bestScore {
			best, bestScore = p, score
		}
	}

	return best
}

func BenchmarkRouter(b *testing.B) {
	var patterns []string
	for i := range 500 {
		patterns = append(patterns, fmt.Sprintf("shop.v%d.*", i), fmt.Sprintf("shop.v%d.Cart", i), fmt.Sprintf("shop.v%d.Order/Get*", i))
	}

	r, err := proxy.NewRouter(routes(patterns...)...)
	if err != nil {
		b.Fatal(err)
	}

	b.ReportAllocs()

	for b.Loop() {
		if _, _, err := r.Direct(context.Background(), "/shop.v250.Inventory/GetItem"); err != nil {
			b.Fatal(err)
		}
	}
}
