// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc/credentials/insecure"

	"github.com/manifold-grpc/manifold/internal/config"
	"github.com/manifold-grpc/manifold/internal/sample/samplepb"
)

// The access log follows the file without a line lost; what cannot follow is told.
func TestReloadOperation(t *testing.T) {
	dir := t.TempDir()
	first, second := filepath.Join(dir, "first.log"), filepath.Join(dir, "second.log")
	up := startBackends(t, 1)[0].Addr()
	const text = `
frontends: [{name: f, listen: "127.0.0.1:0"}]
backends: {b: {endpoints: ["%s"]}}
routes: [{backend: b}]
%s
`
	var out logBuffer
	var told []config.Log
	d, file := startDeclared(t, Config{
		Log:   out.logger(),
		Relog: func(_, now config.Log) error { told = append(told, now); return nil },
	}, text, up, "access_log: {path: "+first+"}")
	conn := connectTo(t, d, "f", insecure.NewCredentials())
	call := func() {
		t.Helper()
		if _, err := echo(callContext(t), conn); err != nil {
			t.Fatal(err)
		}
	}
	// now reloads, and returns what is logged besides.
	now := func(keys string) string {
		t.Helper()
		before := len(out.String())
		file.set(text, up, keys)
		reload(t, d)
		call()
		return out.String()[before:]
	}
	call()
	if log := now("access_log: {path: " + second + ", headers: [user-agent]}\nlog: {level: debug}"); strings.Contains(log, "restart") {
		t.Errorf("log %s", log)
	}
	now("") // off
	if log := now("access_log: {path: " + second + ", progress: 1m}\nadmin: {listen: \"127.0.0.1:0\"}\ntracing: {endpoint: \"c:1\"}\nlog: {level: warn}"); strings.Count(log, "takes a restart") != 3 ||
		!strings.Contains(log, "key=tracing ") ||
		!strings.Contains(log, "key=admin ") || !strings.Contains(log, "key=access_log.progress ") {
		t.Errorf("log %s", log)
	}
	if len(told) != 3 || told[0].Level != "debug" || told[1].Level != "" || told[2].Level != "warn" {
		t.Errorf("told of the log settings %v", told)
	}

	file.set(text, up, "access_log: {path: "+filepath.Join(dir, "no", "such")+"}")
	if err := d.Reload(); err == nil || !strings.Contains(err.Error(), "access log: ") {
		t.Errorf("reload to a path that cannot be: %v", err)
	}
	call()
	shutdown(t, d)
	if got := callsIn(t, first); got != 1 {
		t.Errorf("%d lines in the first file, want 1", got)
	}
	if got := callsIn(t, second); got != 3 {
		t.Errorf("%d lines in the second file, want 3", got)
	}
	raw, _ := os.ReadFile(second)
	if n := strings.Count(string(raw), `"request.user-agent":`); n != 1 {
		t.Errorf("%d lines with the header, want that of the one file that asks for it:\n%s", n, raw)
	}
}

// Without an access log or somebody who sets the log anew, a change of them takes a restart.
func TestReloadOperationRestart(t *testing.T) {
	up := startBackends(t, 1)[0].Addr()
	var out logBuffer
	d, file := startDeclared(t, Config{Log: out.logger()}, oneBackend, "a", up)
	file.set(oneBackend+"log: {level: debug}\naccess_log: {path: stdout}\n", "a", up)
	reload(t, d)
	for _, want := range []string{"reload: log has changed, which takes a restart", "reload: access_log is not as in the file, that takes a restart"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
}

// callsIn counts the lines of a file.
func callsIn(t *testing.T, path string) int {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}

	return strings.Count(string(raw), "\n")
}

// A frontend that has another name in the file is counted under that one, its connections too, however many reloads come.
func TestReloadRenamed(t *testing.T) {
	up := startBackends(t, 1)[0].Addr()
	path := filepath.Join(t.TempDir(), "f.sock")
	const text = `
frontends: [{name: %s, listen: "unix:%s"}]
backends: {b: {endpoints: ["%s"]}}
routes: [{match: {service: manifold.sample.v1.EchoService}, backend: b}]
admin: {listen: "127.0.0.1:0"}
`
	d, file := startDeclared(t, Config{}, text, "before", path, up)
	file.set(text, "after", path, up)
	reload(t, d)
	reload(t, d)
	conn := connectTo(t, d, "after", insecure.NewCredentials())
	if err := conn.Invoke(callContext(t), "/no.Route/M", &samplepb.EchoRequest{}, &samplepb.EchoResponse{}); err == nil {
		t.Fatal("a call without a route")
	}
	awaitMetric(t, d, `manifold_connections_accepted_total{frontend="after"} 1`)
	awaitMetric(t, d, `manifold_rejected_total{frontend="after",reason="NO_ROUTE"} 1`)
}
