// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package relay

import (
	"net/url"
	"path"
	"strings"
	"testing"
)

func TestSplitPath(t *testing.T) {
	tests := []struct {
		path            string
		service, method string // both empty: refused
	}{
		{"/a.B/C", "a.B", "C"},
		{"/B/C", "B", "C"},
		{"/a.b.c.D_2/get-It~", "a.b.c.D_2", "get-It~"},
		{"/a.B/C:v=1", "a.B", "C:v=1"}, // odd, and read alike by everybody
		{"/a..b/C", "a..b", "C"},
		{"/.../C", "...", "C"},

		{"", "", ""},
		{"*", "", ""},
		{"/", "", ""},
		{"//", "", ""},
		{"///", "", ""},
		{"a.B/C", "", ""},
		{"a.B/C/D", "", ""},
		{"/a.B", "", ""},
		{"/a.B/", "", ""},
		{"//C", "", ""},
		{"//a.B/C", "", ""},
		{"/a.B//C", "", ""},
		{"/a.B/C/", "", ""},
		{"/a.B/C/D", "", ""},
		{"/x/../a.B/C", "", ""},
		{"/./C", "", ""},
		{"/../C", "", ""},
		{"/a.B/.", "", ""},
		{"/a.B/..", "", ""},
		{"/a.B/C?x", "", ""},
		{"/a.B/C?", "", ""},
		{"/a.B/C#x", "", ""},
		{"/a.B/C;v=1", "", ""}, // a path parameter to some
		{"/a.B%2FC", "", ""},
		{"/a.B/%43", "", ""},
		{"/a.B/%2e%2e", "", ""},
		{`/a.B\C`, "", ""},
		{`/a.B/C\`, "", ""},
		{"/a.B/C\x00", "", ""},
		{"/a.B/\tC", "", ""},
		{"/a.B/C D", "", ""},
		{"/a.B/C\x7f", "", ""},
		{"/a.B/C\u00e9", "", ""},
		{"/a.B/\u4e16", "", ""},
		{"/a.B\u2215C", "", ""}, // DIVISION SLASH
		{"/a.B\xc0\xafC", "", ""},
		{"http://h/a.B/C", "", ""},
		{"/a.B/<C>", "", ""},
		{"/a.B/{C}", "", ""},
	}
	for _, tt := range tests {
		slash, ok := splitPath(tt.path)
		c := Call{path: tt.path, slash: slash}
		service, method := c.Service(), c.Method()
		if service != tt.service || method != tt.method || ok != (tt.service != "") {
			t.Errorf("splitPath(%q) = %q, %q, %t, want %q, %q", tt.path, service, method, ok, tt.service, tt.method)
		}
	}
}

// What splitPath takes must mean the same to everyone who may look at it after us:
// URL parsers, path cleaners, those that split at the first slash and those that
// split at the last.
func FuzzSplitPath(f *testing.F) {
	for _, s := range []string{"/a.B/C", "//a.B/C", "/a.B//C", "/a.B/C?x", "/a.B%2FC", "/a/..", "/./b", "/a.B/\x00"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		slash, ok := splitPath(s)
		if !ok {
			return
		}
		service, method := s[1:slash], s[slash+1:]
		if "/"+service+"/"+method != s || strings.Count(s, "/") != 2 {
			t.Errorf("%q came apart as %q and %q", s, service, method)
		}
		if path.Clean(s) != s {
			t.Errorf("path.Clean(%q) = %q", s, path.Clean(s))
		}
		u, err := url.ParseRequestURI(s)
		if err != nil || u.Path != s || u.EscapedPath() != s || u.RawQuery != "" || u.ForceQuery {
			t.Errorf("as a URL, %q is %+v, %v", s, u, err)
		}
	})
}
