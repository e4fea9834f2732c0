// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"errors"
	"flag"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/manifold-grpc/manifold/internal/address"
)

var update = flag.Bool("update", false, "write what is generated and what is said of testdata/bad anew")

// testSource has the variables PORT, HOST and N, and all files but those that are called absent.
func testSource(name string) Source {
	env := map[string]string{"PORT": "8443", "HOST": "api.example.com", "N": "7", "T": "3s", "EMPTY": ""}
	return Source{
		Name: name,
		Env:  func(n string) (string, bool) { v, ok := env[n]; return v, ok },
		Exists: func(path string) error {
			if strings.Contains(path, "absent") {
				return &fs.PathError{Op: "open", Path: path, Err: fs.ErrNotExist}
			}
			return nil
		},
	}
}

// TestBad holds each bad file to the message beside it.
func TestBad(t *testing.T) {
	files, err := filepath.Glob("testdata/bad/*.yaml")
	if err != nil || len(files) < 40 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			_, err = testSource(filepath.Base(file)).Parse(text)
			if err == nil {
				t.Fatal("no error")
			}
			got := err.Error() + "\n"
			golden := strings.TrimSuffix(file, ".yaml") + ".txt"
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if want, err := os.ReadFile(golden); err != nil || got != string(want) {
				t.Errorf("got\n%swant\n%s%v", got, want, err)
			}
		})
	}
}

const full = `
frontends:
  - name: public
    listen: ":${PORT}"
    forwarded_for: true
    tls:
      certificates: [{cert: a.crt, key: /k/a.key}, {cert: b.crt, key: b.key}]
      client_ca: ca.pem
    limits: {max_concurrent_streams: "${N}", buffer: 2MiB, max_header_bytes: 4096, idle_timeout: never, max_age: 2h, write_timeout: "${T}"}
  - {name: local, listen: "unix:///run/m.sock"}
backends:
  a:
    endpoints: [10.0.0.1:1, "https://b.example"]
    balance: least_request
    tls: &tls {ca: ca.pem, server_name: a.internal}
    connect_timeout: 250ms
    authority: a.internal
  b:
    endpoints: {two: 10.0.0.2:1, one: "unix:x.sock"}
    tls: *tls
routes:
  - match: {host: "${HOST}", service: shop.v1.*, metadata: {tier: gold, cost: "$${x}"}}
    backend: a
    max_duration: 5s
    idle_timeout: 1m
    methods: {allow: [Get, /shop.v1.S/List], deny: [/shop.v1.T/Get]}
    max_request_message: 4kB
    request_headers: {remove: [x-a], set: {x-b: "1"}, add: {x-c: "2"}}
    response_headers: {remove: [server], set: {x-d-bin: AAE}}
  - match: {service: shop.v1.S, method: Get}
    backend: [{name: a, weight: 90}, {name: b, weight: 10}]
  - match: {service: m.S}
    fan_out: {backend: b, unary: [List, /m.S/Get], layout: talos}
  - match: {service: n.S}
    fan_out: {backend: b, streaming: [Watch], layout: {hostname: 3}}
  - match: {service: x.S}
    deny: true
  - match: {service: y.S}
    deny: unimplemented
`

func TestParse(t *testing.T) {
	got, err := testSource("/etc/m/manifold.yaml").Parse([]byte(full))
	if err != nil {
		t.Fatal(err)
	}
	endpoint := func(network, addr string, tls bool) address.Endpoint {
		return address.Endpoint{Address: address.Address{Network: network, Addr: addr}, TLS: tls}
	}
	tls := &BackendTLS{CA: "/etc/m/ca.pem", ServerName: "a.internal"}
	want := &Config{
		Frontends: []Frontend{{
			Name: "public", Listen: address.Address{Network: "tcp", Addr: ":8443"}, ForwardedFor: true,
			TLS: &FrontendTLS{Certificates: []Certificate{{"/etc/m/a.crt", "/k/a.key"}, {"/etc/m/b.crt", "/etc/m/b.key"}}, ClientCA: "/etc/m/ca.pem"},
			Limits: Limits{
				MaxConcurrentStreams: 7, Buffer: 2 << 20, MaxHeaderBytes: 4096, IdleTimeout: -1,
				MaxAge: OrNever(2 * time.Hour), WriteTimeout: Time(3 * time.Second),
			},
		}, {Name: "local", Listen: address.Address{Network: "unix", Addr: "/run/m.sock"}}},
		Backends: map[string]Backend{
			"a": {
				Endpoints: Endpoints{{"10.0.0.1:1", endpoint("tcp", "10.0.0.1:1", false)}, {"https://b.example:443", endpoint("tcp", "b.example:443", true)}},
				Balance:   LeastRequest, TLS: tls, ConnectTimeout: Time(250 * time.Millisecond), Authority: "a.internal",
			},
			"b": {Endpoints: Endpoints{{"two", endpoint("tcp", "10.0.0.2:1", false)}, {"one", endpoint("unix", "x.sock", false)}}, TLS: tls},
		},
		Routes: []Route{
			{
				Match: Match{Host: "api.example.com", Service: "shop.v1.*", Metadata: map[string]string{"tier": "gold", "cost": "${x}"}}, Backend: Targets{{"a", 1}},
				MaxDuration: Time(5 * time.Second), IdleTimeout: Time(time.Minute), MaxRequestMessage: 4000,
				Methods:         &Methods{Allow: []string{"Get", "/shop.v1.S/List"}, Deny: []string{"/shop.v1.T/Get"}},
				RequestHeaders:  &HeaderChanges{Remove: []string{"x-a"}, Set: map[string]string{"x-b": "1"}, Add: map[string]string{"x-c": "2"}},
				ResponseHeaders: &HeaderChanges{Remove: []string{"server"}, Set: map[string]string{"x-d-bin": "AAE"}},
			},
			{Match: Match{Service: "shop.v1.S", Method: "Get"}, Backend: Targets{{"a", 90}, {"b", 10}}},
			{Match: Match{Service: "m.S"}, FanOut: &FanOut{Backend: "b", Unary: []string{"List", "/m.S/Get"}, Layout: Layout{Element: 1, Metadata: 1, Hostname: 1, Error: 2, Status: 3}}},
			{Match: Match{Service: "n.S"}, FanOut: &FanOut{Backend: "b", Streaming: []string{"Watch"}, Layout: Layout{Hostname: 3}}},
			{Match: Match{Service: "x.S"}, Deny: PermissionDenied},
			{Match: Match{Service: "y.S"}, Deny: Unimplemented},
		},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got\n%+v\nwant\n%+v", got, want)
	}
}

// TestExample holds the example of the repository to the checks. The certificates that it names are
// made by a script.
func TestExample(t *testing.T) {
	const name = "../../examples/manifold.yaml"
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := testSource(name).Parse(text); err != nil {
		t.Error(err)
	}
}

func TestStreams(t *testing.T) {
	tests := []struct {
		f      FanOut
		method string
		want   bool
	}{
		{FanOut{}, "/s.S/Get", true},
		{FanOut{Unary: []string{"Get"}}, "/s.S/Get", false},
		{FanOut{Unary: []string{"Get"}}, "/s.S/List", true},
		{FanOut{Unary: []string{"/s.S/Get"}}, "/s.S/Get", false},
		{FanOut{Unary: []string{"/s.S/Get"}}, "/t.S/Get", true},
		{FanOut{Streaming: []string{"Watch"}}, "/s.S/Watch", true},
		{FanOut{Streaming: []string{"Watch"}}, "/s.S/Get", false},
	}
	for _, tt := range tests {
		if got := tt.f.Streams(tt.method); got != tt.want {
			t.Errorf("%+v: %s streams = %v, want %v", tt.f, tt.method, got, tt.want)
		}
	}
}

// TestLoad reads files of the file system, where those beside the configuration must be there.
func TestLoad(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "m.yaml")
	text := "frontends: [{name: f, listen: \":1\", tls: {certificates: [{cert: c.crt, key: c.key}]}}]\n"
	for file, content := range map[string]string{"m.yaml": text, "c.crt": ""} {
		if err := os.WriteFile(filepath.Join(dir, file), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want := name + `:1:77: file "` + filepath.Join(dir, "c.key") + `": no such file or directory, expected one that can be read`
	if _, err := Load(name); err == nil || err.Error() != want {
		t.Errorf("error = %v\nwant %s", err, want)
	}
	if err := os.WriteFile(filepath.Join(dir, "c.key"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, err := Load(name)
	if err != nil || cfg.Frontends[0].TLS.Certificates[0].Key != File(filepath.Join(dir, "c.key")) {
		t.Errorf("got %+v, %v", cfg, err)
	}
	if _, err := Load(filepath.Join(dir, "absent")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("error of an absent file = %v", err)
	}
}

func TestGuarded(t *testing.T) {
	for service, want := range map[string]bool{
		"grpc.reflection.v1.ServerReflection": true, "grpc.reflection.v1alpha.ServerReflection": true, "grpc.channelz.v1.Channelz": true,
		"envoy.service.status.v3.ClientStatusDiscoveryService": true, "grpc.health.v1.Health": false, "grpc.reflections.S": false,
	} {
		if got := Guarded(service); got != want {
			t.Errorf("Guarded(%s) = %v, want %v", service, got, want)
		}
	}
	for service, want := range map[string]bool{"": false, "*": false, "grpc.reflection.*": true, "a.S": true} {
		if got := (&Match{Service: service}).Names(); got != want {
			t.Errorf("a match of service %q names it = %v, want %v", service, got, want)
		}
	}
}

// FuzzParse wants of any text a configuration or errors with places in the text, and no panic.
func FuzzParse(f *testing.F) {
	f.Add(full)
	files, _ := filepath.Glob("testdata/bad/*.yaml")
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(text))
	}
	f.Fuzz(func(t *testing.T, text string) {
		cfg, err := testSource("m.yaml").Parse([]byte(text))
		if err == nil {
			cfg.Table()
			return
		}
		errs, ok := errors.AsType[Errors](err)
		if !ok || len(errs) == 0 {
			t.Fatalf("error = %#v", err)
		}
		for _, e := range errs {
			if e.Line > strings.Count(text, "\n")+strings.Count(text, "\r")+strings.Count(text, "\u0085")+strings.Count(text, "\u2028")+strings.Count(text, "\u2029")+2 || e.Message == "" || strings.Contains(e.Message, "\n") {
				t.Errorf("error %q for a text of %d lines", e, strings.Count(text, "\n"))
			}
		}
	})
}
