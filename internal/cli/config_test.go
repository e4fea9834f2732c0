// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"github.com/manifold-grpc/manifold/internal/config"
	"github.com/manifold-grpc/manifold/internal/sample/samplepb"
)

// configFile writes a configuration file.
func configFile(t *testing.T, text string) string {
	t.Helper()

	name := filepath.Join(t.TempDir(), "manifold.yaml")
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}

	return name
}

const goodFile = `
frontends: [{name: f, listen: "127.0.0.1:0"}]
backends: {b: {endpoints: ["127.0.0.1:1"]}}
routes:
  - {match: {service: a.S, metadata: {k: v}}, backend: b}
`

func TestCheck(t *testing.T) {
	if code, stdout, stderr := run("check", configFile(t, goodFile)); code != exitOK || stdout+stderr != "" {
		t.Errorf("a good file: exit code %d, %q, %q", code, stdout, stderr)
	}

	bad := configFile(t, "frontends: []\nbackend: {}\n")
	want := bad + ":1:12: no frontend, expected at least one\n" +
		bad + ":2:1: unknown key \"backend\" (did you mean backends?), expected frontends, backends, routes, drain, admin, access_log, tracing, log or metrics\n"
	if code, stdout, stderr := run("check", bad); code != exitFailed || stdout != "" || stderr != want {
		t.Errorf("a bad file: exit code %d, %q\n%swant\n%s", code, stdout, stderr, want)
	}

	absent := filepath.Join(t.TempDir(), "absent.yaml")
	if code, _, stderr := run("check", absent); code != exitFailed || !strings.HasPrefix(stderr, "manifold check: open "+absent) {
		t.Errorf("no file: exit code %d, %q", code, stderr)
	}
}

func TestServeBadFile(t *testing.T) {
	bad := configFile(t, "x: 1\n")
	if code, _, stderr := run("serve", "--config", bad); code != exitFailed || !strings.HasPrefix(stderr, bad+":1:1: ") || strings.Contains(stderr, "usage") {
		t.Errorf("exit code %d, %q", code, stderr)
	}
}

// The delay and the time of a drain must fit, whoever says which: what the file leaves out is the flag's, given or not.
func TestDrainOfFlagsAndFile(t *testing.T) {
	tests := []struct {
		drain string // of the file
		args  []string
		good  bool
	}{
		{"{delay: 30s}", nil, false}, // the time is 25s then
		{"{delay: 30s}", []string{"--drain-timeout", "60s"}, true},
		{"{delay: 10s}", []string{"--drain-timeout", "5s"}, false},
		{"{timeout: 60s}", []string{"--drain-delay", "40s"}, true},
		{"{timeout: 5s}", []string{"--drain-delay", "10s"}, false},
		{"{}", []string{"--drain-delay", "40s"}, false},
		{"{delay: 30s, timeout: 60s}", nil, true},
	}
	for _, tt := range tests {
		file := configFile(t, goodFile+"drain: "+tt.drain+"\n")
		var f serveFlags
		flags := pflag.NewFlagSet("serve", pflag.ContinueOnError)
		f.register(flags)
		if err := flags.Parse(append(tt.args, "--config", file)); err != nil {
			t.Fatal(err)
		}
		f.timeoutGiven = flags.Changed("drain-timeout")
		cfg, err := f.declared(io.Discard)
		if good := err == nil; good != tt.good || !good && !strings.HasPrefix(err.Error(), file+": a drain of ") {
			t.Errorf("drain: %s, %q: error = %v", tt.drain, tt.args, err)
		}
		if err == nil {
			if err := os.WriteFile(file, []byte(goodFile+"drain: {delay: 2h}\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := cfg.Load(); err == nil {
				t.Errorf("drain: %s, %q: a reload takes any file", tt.drain, tt.args)
			}
		}
	}
}

// TestServeFile is TestServe by a file.
func TestServeFile(t *testing.T) {
	ctx := testContext(t)
	one, addr := startSample(ctx, t, "one")
	t.Setenv("BACKEND", addr)
	file := configFile(t, `
frontends: [{name: f, listen: "127.0.0.1:0"}, {name: g, listen: "127.0.0.1:0"}]
backends: {b: {endpoints: ["${BACKEND}"]}}
routes: [{match: {service: manifold.sample.v1.*}, backend: b}]
`)
	proxy := start(t, discard{}, "serve", "--config", file, "--log-format", "json")
	for range 2 { // both frontends
		resp, err := client(t, proxy.address(ctx, t)).Echo(ctx, &samplepb.EchoRequest{})
		if err != nil || resp.GetBackend() != "one" {
			t.Errorf("answer = %v, %v", resp, err)
		}
	}
	proxy.end(ctx, t)
	one.end(ctx, t)
}

func TestSchema(t *testing.T) {
	if code, stdout, _ := run("schema"); code != exitOK || stdout != string(config.Schema()) {
		t.Errorf("exit code %d, %d bytes", code, len(stdout))
	}
}

func TestExplain(t *testing.T) {
	name := configFile(t, goodFile)
	code, stdout, stderr := run("explain", "--config", name, "--host", "h", "--method", "/a.S/M", "--metadata", "K=v", "--metadata", "k=w")
	if code != exitOK || stderr != "" || !strings.HasPrefix(stdout, "h/a.S/M: routes[0] ("+name+":5:5)\n") {
		t.Errorf("exit code %d, %q, %q", code, stdout, stderr)
	}
	if _, stdout, _ := run("explain", "--config", name, "--method", "/a.S/M", "--metadata", "k=w"); stdout != "/a.S/M: no route, answered with UNIMPLEMENTED\n" {
		t.Errorf("other metadata: %q", stdout)
	}
	bad := configFile(t, "x: 1\n")
	if code, _, stderr := run("explain", "--config", bad, "--method", "/a.S/M"); code != exitFailed || !strings.HasPrefix(stderr, bad+":1:1: ") {
		t.Errorf("a bad file: exit code %d, %q", code, stderr)
	}
}
