// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package route

import (
	"fmt"
	"testing"
)

// values makes Call.Values of pairs.
func values(md map[string][]string) func(string, func(string) bool) {
	return func(key string, yield func(string) bool) {
		for _, v := range md[key] {
			if !yield(v) {
				return
			}
		}
	}
}

type md = map[string][]string

// TestLookup holds lookups to the precedence and the cases of Gateway API's GRPCRoute.
func TestLookup(t *testing.T) {
	tests := []struct {
		name    string
		matches []Match
		call    Call
		md      md
		want    int // -1: none
	}{
		{"no route", nil, Call{Service: "s", Method: "M"}, nil, -1},
		{"catch-all", []Match{{}}, Call{Host: "h", Service: "s", Method: "M"}, nil, 0},
		{"star is a catch-all", []Match{{Service: "*"}}, Call{Service: "a.S", Method: "M"}, nil, 0},
		{"exact method", []Match{{Service: "a.S", Method: "M"}}, Call{Service: "a.S", Method: "M"}, nil, 0},
		{"other method", []Match{{Service: "a.S", Method: "M"}}, Call{Service: "a.S", Method: "N"}, nil, -1},
		{"other service", []Match{{Service: "a.S"}}, Call{Service: "a.T", Method: "M"}, nil, -1},
		{"names are case-sensitive", []Match{{Service: "a.S"}}, Call{Service: "a.s", Method: "M"}, nil, -1},

		{"host before none", []Match{{}, {Host: "a.com"}}, Call{Host: "a.com"}, nil, 1},
		{"host without port and case", []Match{{Host: "a.com"}}, Call{Host: "A.com:8443"}, nil, 0},
		{"host with final dot", []Match{{Host: "a.com"}}, Call{Host: "a.com."}, nil, 0},
		{"IPv6 host", []Match{{Host: "::1"}}, Call{Host: "[::1]:80"}, nil, 0},
		{"exact host before wildcard", []Match{{Host: "*.b.com"}, {Host: "a.b.com"}}, Call{Host: "a.b.com"}, nil, 1},
		{"longer wildcard first", []Match{{Host: "*.com"}, {Host: "*.b.com"}}, Call{Host: "a.b.com"}, nil, 1},
		{"wildcard spans labels", []Match{{Host: "*.com"}}, Call{Host: "a.b.com"}, nil, 0},
		{"wildcard is not the name itself", []Match{{Host: "*.b.com"}}, Call{Host: "b.com"}, nil, -1},
		{"host counts more than service", []Match{{Service: "a.S", Method: "M"}, {Host: "a.com"}}, Call{Host: "a.com", Service: "a.S", Method: "M"}, nil, 1},
		{"falls to a wider host", []Match{{Host: "a.com", Service: "x.X"}, {Service: "a.S"}}, Call{Host: "a.com", Service: "a.S"}, nil, 1},
		{"falls to a wider wildcard", []Match{{Host: "*.b.com", Service: "x.X"}, {Host: "*.com", Service: "a.S"}}, Call{Host: "a.b.com", Service: "a.S"}, nil, 1},

		{"exact service before glob", []Match{{Service: "a.*"}, {Service: "a.S"}}, Call{Service: "a.S"}, nil, 1},
		{"longer glob first", []Match{{Service: "a.*"}, {Service: "a.b.*"}}, Call{Service: "a.b.S"}, nil, 1},
		{"glob takes packages below", []Match{{Service: "a.*"}}, Call{Service: "a.b.c.S"}, nil, 0},
		{"glob ends at a dot", []Match{{Service: "a.*"}}, Call{Service: "ab.S"}, nil, -1},
		{"glob before catch-all", []Match{{}, {Service: "a.*"}}, Call{Service: "a.S"}, nil, 1},
		{"method before none", []Match{{Service: "a.S"}, {Service: "a.S", Method: "M"}}, Call{Service: "a.S", Method: "M"}, nil, 1},
		{"exact service counts more than a method", []Match{{Service: "a.*", Method: "M"}, {Service: "a.S"}}, Call{Service: "a.S", Method: "M"}, nil, 1},

		{"metadata", []Match{{Metadata: map[string]string{"k": "v"}}}, Call{}, md{"k": {"v"}}, 0},
		{"metadata of another value", []Match{{Metadata: map[string]string{"k": "v"}}}, Call{}, md{"k": {"w"}}, -1},
		{"one of several values", []Match{{Metadata: map[string]string{"k": "v"}}}, Call{}, md{"k": {"w", "v"}}, 0},
		{"any value", []Match{{Metadata: map[string]string{"k": "*"}}}, Call{}, md{"k": {"w"}}, 0},
		{"any value, none there", []Match{{Metadata: map[string]string{"k": "*"}}}, Call{}, md{"l": {"w"}}, -1},
		{"call without metadata", []Match{{Metadata: map[string]string{"k": "*"}}}, Call{}, nil, -1},
		{"all keys", []Match{{Metadata: map[string]string{"k": "v", "l": "w"}}}, Call{}, md{"k": {"v"}}, -1},
		{"more metadata first", []Match{{Metadata: map[string]string{"k": "v"}}, {Metadata: map[string]string{"k": "v", "l": "w"}}},
			Call{}, md{"k": {"v"}, "l": {"w"}}, 1},
		{"metadata fails: a wider service", []Match{{Service: "a.S", Metadata: map[string]string{"k": "v"}}, {Service: "a.*"}}, Call{Service: "a.S"}, nil, 1},
		{"the earlier one", []Match{{Metadata: map[string]string{"k": "v"}}, {Metadata: map[string]string{"l": "w"}}},
			Call{}, md{"k": {"v"}, "l": {"w"}}, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			table, conflicts := New(tt.matches)
			if len(conflicts) > 0 {
				t.Fatalf("conflicts: %v", conflicts)
			}
			if tt.md != nil {
				tt.call.Values = values(tt.md)
			}
			got, ok := table.Lookup(&tt.call)
			if !ok {
				got = -1
			}
			if got != tt.want {
				t.Errorf("route %d, want %d", got, tt.want)
			}
		})
	}
}

func TestConflicts(t *testing.T) {
	_, conflicts := New([]Match{
		{Host: "*.b.com", Service: "a.*", Metadata: map[string]string{"k": "v"}},
		{Service: "a.S"},
		{Host: "*.b.com", Service: "a.*", Metadata: map[string]string{"k": "v"}},
		{Host: "*.b.com", Service: "a.*", Metadata: map[string]string{"k": "w"}},
		{Service: "*"},
		{},
	})
	want := []Conflict{
		{Route: 2, Earlier: 0, Example: "any.b.com/a.Any/Any with k: v"},
		{Route: 5, Earlier: 4, Example: "/any.Service/Any"},
	}
	if fmt.Sprint(conflicts) != fmt.Sprint(want) {
		t.Errorf("got %v, want %v", conflicts, want)
	}
}

func TestCheck(t *testing.T) {
	tests := []struct {
		m    Match
		want string
	}{
		{Match{Host: "*.a.com", Service: "a.b.*", Metadata: map[string]string{"k": "*"}}, "[]"},
		{Match{Host: "a.com", Service: "S", Method: "M"}, "[]"},
		{Match{Host: "A.com"}, `[host "A.com": expected a host name in lower case without a port, or *.name]`},
		{Match{Host: "a.com:80"}, `[host "a.com:80": expected a host name in lower case without a port, or *.name]`},
		{Match{Host: "a.*.com"}, `[host "a.*.com": expected a host name in lower case without a port, or *.name]`},
		{Match{Host: "*"}, `[host "*": expected a host name in lower case without a port, or *.name]`},
		{Match{Service: "a.*.b"}, `[service "a.*.b": expected a full name such as shop.v1.Catalog, or a glob such as shop.v1.*]`},
		{Match{Service: "a*"}, `[service "a*": expected a full name such as shop.v1.Catalog, or a glob such as shop.v1.*]`},
		{Match{Service: "/a.S"}, `[service "/a.S": expected a full name such as shop.v1.Catalog, or a glob such as shop.v1.*]`},
		{Match{Service: "a.S", Method: "S/M"}, `[method "S/M": expected the name of one method, without service and slash]`},
		{Match{Method: "M"}, `[method "M": expected a service beside it]`},
		{Match{Metadata: map[string]string{"K": "v"}}, `[metadata "K": expected a key in lower case]`},
		{Match{Metadata: map[string]string{":path": "v"}}, `[metadata ":path": expected a key in lower case]`},
	}
	for _, tt := range tests {
		if got := fmt.Sprint(tt.m.Check()); got != tt.want {
			t.Errorf("%+v: got %s, want %s", tt.m, got, tt.want)
		}
	}
}

// many returns a table of n exact routes, and a call that takes the last.
func many(n int) (*Table, *Call) {
	matches := make([]Match, n)
	for i := range matches {
		matches[i] = Match{Host: "api.example.com", Service: fmt.Sprintf("shop.v1.Service%d", i), Method: "Get"}
	}
	table, _ := New(matches)
	return table, &Call{Host: "api.example.com:443", Service: fmt.Sprintf("shop.v1.Service%d", n-1), Method: "Get"}
}

func TestLookupAllocates(t *testing.T) {
	table, call := many(100)
	if n := testing.AllocsPerRun(100, func() { table.Lookup(call) }); n != 0 {
		t.Errorf("%v allocations for a lookup, want 0", n)
	}
}

func TestAsksMetadata(t *testing.T) {
	plain, with := Match{Service: "a.B"}, Match{Service: "a.B", Metadata: map[string]string{"tenant": "x"}}
	for _, tt := range []struct {
		matches []Match
		want    bool
	}{{nil, false}, {[]Match{plain}, false}, {[]Match{plain, with}, true}, {[]Match{with, plain}, true}} {
		if table, _ := New(tt.matches); table.AsksMetadata() != tt.want {
			t.Errorf("%v: AsksMetadata is %v, want %v", tt.matches, !tt.want, tt.want)
		}
	}
}

func BenchmarkLookup(b *testing.B) {
	for _, n := range []int{10, 10_000} {
		table, call := many(n)
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			for b.Loop() {
				if _, ok := table.Lookup(call); !ok {
					b.Fatal("no route")
				}
			}
		})
	}
}

// FuzzLookup compares the table with the plain reading of the precedence.
func FuzzLookup(f *testing.F) {
	f.Add("a.b.com", "x.y.S", "M", "v", uint16(0xffff))
	f.Add("b.com:1", "x.S", "N", "", uint16(0x0f0f))
	f.Fuzz(func(t *testing.T, host, service, method, value string, set uint16) {
		all := []Match{
			{}, {Host: "a.b.com"}, {Host: "*.b.com"}, {Host: "*.com"}, {Service: "x.*"}, {Service: "x.y.*"}, {Service: "x.y.S"},
			{Service: "x.y.S", Method: "M"}, {Host: "*.com", Service: "x.*", Method: "M"}, {Metadata: map[string]string{"k": "v"}},
			{Service: "x.S", Metadata: map[string]string{"k": "*"}}, {Host: "a.b.com", Service: "x.y.S", Metadata: map[string]string{"k": "v"}},
		}
		var matches []Match
		for i, m := range all {
			if set>>i&1 == 1 {
				matches = append(matches, m)
			}
		}
		c := &Call{Host: host, Service: service, Method: method, Values: values(md{"k": {value}})}
		table, _ := New(matches)
		got, ok := table.Lookup(c)
		want, found := plain(matches, c)
		if ok != found || ok && got != want {
			t.Fatalf("route %d %v, want %d %v of %+v for %q %q %q %q", got, ok, want, found, matches, host, service, method, value)
		}
	})
}
