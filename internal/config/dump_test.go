// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

// same parses a file, dumps it and parses that; both must be the same.
func same(t *testing.T, name string, text []byte) (dump string) {
	t.Helper()
	env := func(name string) (string, bool) { return "value-of-" + name, true }
	first, err := Source{Name: name, Env: env}.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	dump = first.Dump()
	again, err := Source{Name: "/elsewhere/dump.yaml"}.Parse([]byte(dump))
	if err != nil {
		t.Fatalf("%v in\n%s", err, dump)
	}
	if !reflect.DeepEqual(first, again) {
		t.Errorf("another configuration: %+v, want %+v, by\n%s", again, first, dump)
	}

	return dump
}

// What Dump prints of each example is the same file again.
func TestDumpOfExamples(t *testing.T) {
	root, err := filepath.Abs("../../examples")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	err = filepath.WalkDir(root, func(name string, _ fs.DirEntry, err error) error {
		if err != nil || filepath.Base(name) != "manifold.yaml" {
			return err
		}
		n++
		text, err := os.ReadFile(name)
		if err == nil {
			t.Run(strings.TrimPrefix(name, root+"/"), func(t *testing.T) { same(t, name, text) })
		}
		return err
	})
	if err != nil || n < 4 {
		t.Errorf("%d examples, %v", n, err)
	}
}

// The same of everything that needs care.
func TestDumpOfOddities(t *testing.T) {
	dump := same(t, "/etc/manifold/m.yaml", []byte(`
frontends:
- {name: "true", listen: "unix:a socket.sock", socket_mode: "0660", trusted: [10.0.0.0/8, "2001:db8::1", unix], proxy_protocol: [192.0.2.1]}
- name: "12"
  listen: systemd:x
  tls: {certificates: [{cert: "a b.crt", key: /k.key}], client_ca: ca.crt}
  limits: {idle_timeout: never, max_age: 90m, max_request_message: 4MiB, handshake_timeout: 1500us}
backends:
  "a: b": {endpoints: {one: "127.0.0.1:1", "127.0.0.1:2": "127.0.0.1:2"}, weights: {one: 0}, tls: {}, health: {}, retry: {codes: [UNAVAILABLE, CANCELLED]}}
  "null": {target: "dns:///h:1", balance: ring_hash, hash_key: user-id, authority: "${HOST}", keepalive_time: never}
  c: {endpoints: ["https://h:1"], tls: {ca: ca.crt, server_name: "*.x"}, ejection: {disabled: true}, retry: {}}
routes:
- {backend: [{name: c, weight: 0}, {name: "a: b", weight: 3}], match: {host: "*.example.com", metadata: {k: "", any: "*", n: "1.10"}}}
- match: {service: s.*}
  backend: c
  request_headers: {remove: [x], set: {authorization: "Bearer $${x} \"e\" #", a: "yes"}, add: {b: "2020-01-01", c: "${SECRET}"}}
  response_headers: {set: {x-d-bin: AAE}}
- {match: {service: d}, deny: true}
- {match: {service: f}, fan_out: {backends: [c, "null"], policy: primary(c), reserve: never, layout: talos, unary: [List], hedge: 1}}
drain: {delay: 1s, removed: never}
admin: {listen: "127.0.0.1:0"}
access_log: {path: stdout, headers: [x-a]}
log: {level: warn, format: auto}
metrics: {descriptors: [a.pb]}
`))
	for _, want := range []string{"ca: /etc/manifold/ca.crt", `authority: value-of-HOST`, "weight: 0", "value-of-SECRET", "backend: c\n", "health: {}"} {
		if !strings.Contains(dump, want) {
			t.Errorf("no %q in\n%s", want, dump)
		}
	}
}

// Only the masked dump hides the values of headers.
func TestDumpMasked(t *testing.T) {
	c, err := Source{Name: "/m.yaml"}.Parse([]byte(`
frontends: [{name: f, listen: ":1"}]
backends: {b: {endpoints: ["h:1"]}}
routes: [{match: {metadata: {set: shown}}, backend: b, request_headers: {set: {x-key: hunter2}, add: {x-more: hunter3}, remove: [gone]}}]
`))
	if err != nil {
		t.Fatal(err)
	}
	if dump := c.DumpMasked(); strings.Contains(dump, "hunter") || strings.Count(dump, "(not shown)") != 2 || !strings.Contains(dump, "shown\n") || !strings.Contains(dump, "gone") {
		t.Errorf("masked:\n%s", dump)
	}
	if dump := c.Dump(); !strings.Contains(dump, "hunter2") || !strings.Contains(dump, "hunter3") {
		t.Errorf("after that:\n%s", dump)
	}
}
