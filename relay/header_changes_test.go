// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package relay_test

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/manifold-grpc/manifold/relay"
)

// xFields returns the fields of md with names that begin with "x-", sorted.
func xFields(md metadata.MD) string {
	var all []string
	for _, name := range slices.Sorted(maps.Keys(md)) {
		if strings.HasPrefix(name, "x-") {
			all = append(all, name+"="+strings.Join(md[name], ","))
		}
	}
	return strings.Join(all, " ")
}

var changes = &relay.HeaderChanges{
	Remove: []string{"x-a", "x-none"},
	Set:    []relay.HeaderField{{Name: "x-b", Value: "new"}, {Name: "x-a", Value: "again"}},
	Add:    []relay.HeaderField{{Name: "x-c", Value: "more"}, {Name: "x-c", Value: "most"}},
}

const (
	unchanged = "x-a=1 x-b=old,older x-c=first"
	changed   = "x-a=again x-b=new x-c=first,more,most"
)

// tagged answers with header fields and the same as trailers; methods called Fail fail, and Bare in one header block.
func tagged(_ any, st grpc.ServerStream) error {
	if _, err := recv(st); err != nil {
		return err
	}
	md := metadata.Pairs("x-a", "1", "x-b", "old", "x-b", "older", "x-c", "first")
	st.SetTrailer(md)
	method, _ := grpc.MethodFromServerStream(st)
	if strings.HasSuffix(method, "Bare") {
		return status.Error(codes.NotFound, "bare")
	}
	if err := st.SendHeader(md); err != nil {
		return err
	}
	if strings.HasSuffix(method, "Fail") {
		return status.Error(codes.NotFound, "failed")
	}
	return send(st, "answer")
}

// Responses are changed where the route says so, and no others: header lists that come again are shared by calls.
func TestResponseHeaders(t *testing.T) {
	r := start(t, rigConfig{server: func(s *relay.Server) {
		forward := s.Route
		s.Route = func(c *relay.Call) {
			if c.Service() == "a.Changed" {
				c.SetResponseHeaders(changes)
			}
			forward(c)
		}
	}}, serve(t, tagged))
	cc := dial(t, r.addr)
	tests := []struct {
		method          string
		code            codes.Code
		header, trailer string
	}{
		{"/a.Plain/Get", codes.OK, unchanged, unchanged},
		{"/a.Changed/Get", codes.OK, changed, unchanged},
		{"/a.Plain/Fail", codes.NotFound, unchanged, unchanged},
		{"/a.Changed/Fail", codes.NotFound, changed, unchanged},
		{"/a.Plain/Bare", codes.NotFound, "", unchanged},
		{"/a.Changed/Bare", codes.NotFound, "", changed},
	}
	for range 4 {
		for _, tt := range tests {
			var header, trailer metadata.MD
			_, err := unary(t.Context(), cc, tt.method, "m", grpc.Header(&header), grpc.Trailer(&trailer))
			if status.Code(err) != tt.code || xFields(header) != tt.header || xFields(trailer) != tt.trailer {
				t.Errorf("%s: %v, header %q, trailer %q; want %v, %q, %q", tt.method, err, xFields(header), xFields(trailer), tt.code, tt.header, tt.trailer)
			}
		}
	}
}

// The joined answer of many targets is changed as any other.
func TestResponseHeadersOfFanOut(t *testing.T) {
	r := fan(t, &relay.FanOut{}, rigConfig{server: func(s *relay.Server) {
		fanOut := s.Route
		s.Route = func(c *relay.Call) { c.SetResponseHeaders(changes); fanOut(c) }
	}}, serve(t, tagged), serve(t, tagged))
	var header metadata.MD
	must(unary(t.Context(), dial(t, r.addr), "/a.B/C", "m", grpc.Header(&header)))(t)
	if want := "x-a=again x-b=new x-c=first,first,more,most"; xFields(header) != want {
		t.Errorf("header = %q, want %q", xFields(header), want)
	}
}
