// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
)

// module is the path of the main module; directories below it are packages.
const module = "github.com/manifold-grpc/manifold"

// A layer says what the packages below one directory may import beside the
// standard library. Patterns are import paths; a trailing "/..." also takes
// everything below. Paths that start with "./" are relative to the module.
type layer struct {
	dir   string   // directory from the module's root, "/..." as above
	allow []string // imports of all files
	tests []string // further imports of _test.go files
}

// The dependencies of the public packages are grpc and protobuf; the engine takes
// no more of grpc than its vocabulary. The others are for tests: x/net's HTTP/2 is
// the second opinion on ours.
const (
	grpc         = "google.golang.org/grpc/..."
	grpcCodes    = "google.golang.org/grpc/codes"
	grpcMetadata = "google.golang.org/grpc/metadata"
	grpcStatus   = "google.golang.org/grpc/status"
	protobuf     = "google.golang.org/protobuf/..."

	// rpcProtos are google.rpc.Status and the standard error details, which grpc
	// itself depends on.
	rpcProtos = "google.golang.org/genproto/googleapis/rpc/..."

	cobra = "github.com/spf13/cobra"
	pflag = "github.com/spf13/pflag"

	fsnotify   = "github.com/fsnotify/fsnotify"
	proxyproto = "github.com/pires/go-proxyproto"
	systemd    = "github.com/coreos/go-systemd/v22/..."

	goleak     = "go.uber.org/goleak"
	dnsmessage = "golang.org/x/net/dns/dnsmessage"
	hpack      = "golang.org/x/net/http2/hpack"
	http2      = "golang.org/x/net/http2"
	nettest    = "golang.org/x/net/nettest"

	// unix and xterm are for the terminal that top draws on.
	unix  = "golang.org/x/sys/unix"
	xterm = "golang.org/x/term"

	// prometheus is for the daemon's metrics alone.
	prometheus = "github.com/prometheus/client_golang/prometheus/..."

	// otel is for the daemon's tracing alone; otlp is its protocol, for the collectors of tests.
	otel = "go.opentelemetry.io/otel/..."
	otlp = "go.opentelemetry.io/proto/otlp/..."

	// yaml is for the configuration file alone. v4 is the line that is developed on.
	yaml = "go.yaml.in/yaml/v4"
)

// layers is the whole table. The first layer whose directory matches decides,
// and a package that matches none is an error: a new package gets its line here.
var layers = []layer{
	{
		dir:   "proxy/...",
		allow: []string{"./proxy/...", "./fanout/...", "./internal/nonblock", grpc, protobuf},
		tests: []string{"./internal/certtest", "./internal/memnet", goleak, hpack, http2, nettest, rpcProtos},
	},
	{
		dir:   "fanout/fanoutclient",
		allow: []string{"./fanout/...", grpc, protobuf},
		tests: []string{goleak, rpcProtos},
	},
	{dir: "fanout/...", allow: []string{"./fanout/fanoutpb", grpcCodes, grpcMetadata, grpcStatus, rpcProtos, protobuf}},
	{
		dir:   "relay/channel",
		allow: []string{"./relay", "./internal/h2/...", grpc, rpcProtos, protobuf},
		tests: []string{"./relay/channel", "./proxy", "./internal/certtest", "./internal/memnet", "./internal/rawpeer", "./internal/sample/...", goleak, http2},
	},
	{
		dir:   "relay/...",
		allow: []string{"./relay/...", "./fanout", "./fanout/fanoutpb", "./internal/h2/...", "./internal/memnet", "./internal/tlsconn", grpcCodes, grpcMetadata, grpcStatus, rpcProtos, protobuf},
		tests: []string{"./proxy/...", "./internal/certtest", "./internal/memnet", "./internal/rawpeer", "./internal/sample/...", goleak, grpc, hpack, http2},
	},
	{
		dir:   "internal/h2/...",
		allow: []string{"./internal/evloop", "./internal/h2/...", "./internal/nonblock"},
		tests: []string{"./internal/memnet", goleak, hpack, http2},
	},
	{
		dir:   "internal/sample/...",
		allow: []string{"./internal/sample/...", grpc, protobuf, rpcProtos},
		tests: []string{"./internal/certtest", goleak},
	},
	{dir: "cmd/manifold", allow: []string{"./internal/cli"}},
	{
		dir:   "internal/cli",
		allow: []string{"./internal/address", "./internal/config", "./internal/daemon", "./internal/demo", "./internal/filewatch", "./internal/sample", "./internal/top", cobra, pflag, systemd},
		tests: []string{"./internal/exampletest", "./internal/sample/samplepb", goleak, grpc},
	},
	{
		dir:   "internal/demo",
		allow: []string{"./internal/config", "./internal/daemon", "./internal/sample/...", grpc, protobuf, rpcProtos},
		tests: []string{goleak},
	},
	{
		dir:   "internal/daemon",
		allow: []string{"./fanout", "./internal/accesslog", "./internal/address", "./internal/admin", "./internal/config", "./internal/methodkind", "./internal/metrics", "./internal/status", "./internal/route", "./internal/tlsfiles", "./internal/tracing", "./internal/upstream", "./proxy/splice", "./relay", grpc, rpcProtos, protobuf, proxyproto},
		tests: []string{"./fanout/fanoutclient", "./proxy", "./internal/certtest", "./internal/dnstest", "./internal/exampletest", "./internal/rawpeer", "./internal/sample/...", goleak, http2, otlp, protobuf, rpcProtos},
	},
	{dir: "internal/methodkind", allow: []string{grpc, protobuf}, tests: []string{"./internal/methodkind", "./internal/sample/...", goleak}},
	{dir: "internal/address"},
	{dir: "internal/filewatch", allow: []string{fsnotify}, tests: []string{goleak}},
	{
		dir:   "internal/config",
		allow: []string{"./fanout", "./internal/address", "./internal/route", "./proxy/splice", grpcCodes, protobuf, yaml},
	},
	{dir: "internal/tlsfiles", allow: []string{"./internal/config"}, tests: []string{"./internal/certtest"}},
	{
		dir:   "internal/upstream",
		allow: []string{"./internal/address", "./internal/config", "./internal/tlsfiles", "./relay", grpc},
		tests: []string{"./fanout", "./internal/certtest", "./internal/dnstest", "./internal/memnet", "./internal/sample/...", goleak, protobuf},
	},
	{
		dir:   "internal/metrics",
		allow: []string{"./fanout/fanoutpb", "./internal/status", "./relay", grpcCodes, prometheus},
		tests: []string{"./internal/metrics", "./fanout", "./fanout/fanoutpb", grpcStatus},
	},
	{
		dir:   "internal/accesslog",
		allow: []string{"./relay", grpcCodes},
		tests: []string{"./internal/accesslog", "./fanout", "./fanout/fanoutpb", "./internal/memnet", "./internal/rawpeer", goleak, grpcStatus, http2},
	},
	{
		dir:   "internal/tracing",
		allow: []string{"./relay", grpc, otel},
		tests: []string{goleak, otlp},
	},
	{dir: "internal/admin", allow: []string{"./internal/status"}, tests: []string{"./internal/admin"}},
	{dir: "internal/status"},
	{dir: "internal/top", allow: []string{"./internal/status", unix, xterm}, tests: []string{goleak}},
	{dir: "internal/nonblock", tests: []string{goleak}},
	{dir: "internal/evloop", allow: []string{"./internal/nonblock"}, tests: []string{goleak, nettest}},
	{dir: "internal/tlsconn", allow: []string{"./internal/nonblock"}, tests: []string{"./internal/tlsconn", "./internal/certtest", "./internal/memnet", goleak}},
	{dir: "internal/memnet", tests: []string{goleak, nettest}},
	{dir: "internal/rawpeer", allow: []string{hpack, http2}},
	{dir: "internal/certtest"},
	{dir: "internal/dnstest", allow: []string{dnsmessage}},
	{dir: "internal/exampletest"},
	{dir: "internal/readme", tests: []string{"./proxy", "./relay", "./internal/sample/...", grpc}},
	{dir: "internal/route"},
	{dir: "internal/rules"},
}

// A violation is one import that the table does not allow, or a package that is
// not in the table.
type violation struct{ where, pkg, why string }

func (v violation) String() string {
	return fmt.Sprintf("%s: package %q: %s", v.where, v.pkg, v.why)
}

// violations returns what the files have that table does not allow.
func violations(files []sourceFile, table []layer) []violation {
	var found []violation
	for _, f := range files {
		l, ok := layerOf(path.Dir(f.name), table)
		if !ok {
			missing := violation{path.Dir(f.name), path.Dir(f.name), "no layer in the table takes it"}
			if !slices.Contains(found, missing) {
				found = append(found, missing)
			}
			continue
		}
		for _, imported := range f.imports() {
			switch {
			case standard(imported) || matchesAny(l.allow, imported):
			case f.test() && matchesAny(l.tests, imported):
			default:
				found = append(found, violation{f.name, imported, "no import for " + l.dir})
			}
		}
	}
	return found
}

// layerOf returns the first layer of table that covers dir.
func layerOf(dir string, table []layer) (layer, bool) {
	i := slices.IndexFunc(table, func(l layer) bool { return matches(l.dir, dir) })
	if i < 0 {
		return layer{}, false
	}
	return table[i], true
}

// standard reports whether an import path is of the standard library: those
// have no dot in their first element.
func standard(imported string) bool {
	first, _, _ := strings.Cut(imported, "/")
	return !strings.Contains(first, ".")
}

func matchesAny(patterns []string, imported string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool {
		if rest, ok := strings.CutPrefix(p, "./"); ok {
			p = path.Join(module, rest)
		}
		return matches(p, imported)
	})
}

func matches(pattern, s string) bool {
	parent, tree := strings.CutSuffix(pattern, "/...")
	return s == parent || tree && strings.HasPrefix(s, parent+"/")
}

func TestImports(t *testing.T) {
	t.Parallel()
	files := mainModule(load(t, repository()))
	if len(files) == 0 {
		t.Fatal("found no source files: the test reads the wrong directory")
	}
	for _, v := range violations(files, layers) {
		t.Error(v)
	}
}

// A line of the table for a directory that is gone would allow its imports to
// whoever takes the name next.
func TestLayersExist(t *testing.T) {
	t.Parallel()
	root := repository()
	for _, l := range layers {
		if _, err := fs.Stat(root, strings.TrimSuffix(l.dir, "/...")); err != nil {
			t.Errorf("layer %s: %v", l.dir, err)
		}
	}
}

func TestViolations(t *testing.T) {
	t.Parallel()
	table := []layer{
		{dir: "a/inner", allow: []string{"./b"}},
		{dir: "a/...", allow: []string{"./a/inner", "example.org/x/..."}, tests: []string{goleak}},
		{dir: "b"},
	}
	tests := []struct {
		name, file, imported string
		ok                   bool
	}{
		{"standard library", "b/b.go", "net/http", true},
		{"listed package", "a/a.go", module + "/a/inner", true},
		{"listed tree", "a/a.go", "example.org/x/y", true},
		{"root of a listed tree", "a/a.go", "example.org/x", true},
		{"subpackage of a layer", "a/deep/a.go", "example.org/x", true},
		{"neighbour of a listed tree", "a/a.go", "example.org/xy", false},
		{"package beside", "a/a.go", module + "/b", false},
		{"below a package listed alone", "a/a.go", module + "/a/inner/deeper", false},
		{"first layer decides", "a/inner/a.go", "example.org/x", false},
		{"third party", "b/b.go", "golang.org/x/net/http2", false},
		{"for tests, in a test", "a/a_test.go", goleak, true},
		{"for tests, outside of one", "a/a.go", goleak, false},
		{"no layer", "c/c.go", "net/http", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			source := fmt.Sprintf("package p\n\nimport _ %q\n", tt.imported)
			files := load(t, fstest.MapFS{tt.file: {Data: []byte(source)}})
			got := violations(files, table)
			if ok := len(got) == 0; ok != tt.ok {
				t.Errorf("%s importing %s: allowed = %t, want %t (%v)", tt.file, tt.imported, ok, tt.ok, got)
			}
		})
	}
}
