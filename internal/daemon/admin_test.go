// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/credentials/insecure"
	grpcstatus "google.golang.org/grpc/status"

	"github.com/manifold-grpc/manifold/internal/config"
	"github.com/manifold-grpc/manifold/internal/sample/samplepb"
	"github.com/manifold-grpc/manifold/internal/status"
	"github.com/manifold-grpc/manifold/relay"
)

// operated runs a daemon with everything for operators, before one backend that is up and one that is not.
func operated(t *testing.T) (d *Daemon, url, accessLog string) {
	t.Helper()
	accessLog = filepath.Join(t.TempDir(), "access.log")
	up := startBackends(t, 1)[0]
	file := declare(t, `
frontends: [{name: public, listen: "127.0.0.1:0"}]
backends:
  good: {endpoints: {one: "%s"}}
  bad: {endpoints: ["127.0.0.1:1"]}
routes:
  - {match: {service: manifold.sample.v1.EchoService}, backend: good}
  - {match: {service: other.*}, backend: bad, request_headers: {set: {authorization: "Bearer secret"}}}
  - {match: {service: denied.S}, deny: true}
admin: {listen: "127.0.0.1:0"}
access_log: {path: "%s"}
`, up.Addr(), accessLog)
	d = startDaemon(t, Config{File: file, Level: new(slog.LevelVar), Version: "v1.2.3"})
	addr, ok := d.AdminAddr()
	if !ok {
		t.Fatal("no admin endpoint")
	}

	return d, "http://" + addr, accessLog
}

// fetch asks the admin endpoint.
func fetch(t *testing.T, method, url, body string, headers ...string) (code int, text string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: testTimeout}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}

	return resp.StatusCode, string(raw)
}

// What calls do shows in the status, in the metrics and in the access log.
func TestOperation(t *testing.T) {
	d, url, accessLog := operated(t)
	conn := connectTo(t, d, "public", insecure.NewCredentials())
	for range 3 {
		if _, err := echo(callContext(t), conn); err != nil {
			t.Fatal(err)
		}
	}
	for method, reason := range map[string]string{"/other.v1.X/Random": relay.ReasonNoEndpoint, "/denied.S/M": "DENIED", "/no.Route/M": "NO_ROUTE"} {
		err := conn.Invoke(callContext(t), method, &samplepb.EchoRequest{}, &samplepb.EchoResponse{})
		details := grpcstatus.Convert(err).Details()
		if len(details) != 1 || details[0].(*errdetails.ErrorInfo).GetReason() != reason || details[0].(*errdetails.ErrorInfo).GetDomain() != relay.ErrorDomain {
			t.Errorf("%s: %v with %v, want the reason %s", method, err, details, reason)
		}
	}

	_, text := fetch(t, http.MethodGet, url+"/metrics", "")
	for _, line := range []string{
		`grpc_server_handled_total{backend="good",frontend="public",grpc_code="OK",grpc_method="*",grpc_service="manifold.sample.v1.EchoService",grpc_type="bidi_stream"} 3`,
		`grpc_client_attempt_started_total{grpc_method="manifold.sample.v1.EchoService/*",grpc_target="good"} 3`,
		`grpc_server_handled_total{backend="bad",frontend="public",grpc_code="Unavailable",grpc_method="*",grpc_service="other.*",grpc_type="bidi_stream"} 1`,
		`grpc_server_handled_total{backend="",frontend="public",grpc_code="PermissionDenied",grpc_method="*",grpc_service="denied.S",grpc_type="bidi_stream"} 1`,
		`grpc_server_handled_total{backend="",frontend="public",grpc_code="Unimplemented",grpc_method="other",grpc_service="other",grpc_type="bidi_stream"} 1`,
		`manifold_rejected_total{frontend="public",reason="NO_ROUTE"} 1`,
		`manifold_upstream_healthy{backend="good",endpoint="one"} 1`,
		`manifold_upstream_ready{backend="bad"} 0`,
		`manifold_connections_accepted_total{frontend="public"} 1`,
		`manifold_config_last_reload_success 1`,
		`manifold_build_info{version="v1.2.3"} 1`,
	} {
		if !strings.Contains(text, line+"\n") {
			name, _, _ := strings.Cut(line, "{")
			t.Errorf("no line %s among\n%s", line, grep(text, name))
		}
	}

	s := statusOf(t, url, func(s *status.Status) bool { return s.Total.Calls == 6 })
	if s.Total.Errors != 2 || s.State != "serving" || len(s.Frontends) != 1 || s.Frontends[0].Connections != 1 || len(s.Routes) != 3 {
		t.Errorf("status %+v", s)
	}
	if b := s.Backends[1]; b.Name != "good" || !b.Ready || b.Activity.Calls != 3 || b.Endpoints[0].Calls != 3 || b.Endpoints[0].State != "ready" {
		t.Errorf("backend %+v", b)
	}
	if b := s.Backends[0]; b.Ready || b.Endpoints[0].Error == "" || b.Endpoints[0].Failed == 0 {
		t.Errorf("backend %+v", b)
	}

	shutdown(t, d)
	raw, err := os.ReadFile(accessLog)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(raw)), "\n")
	if len(lines) != 6 || !strings.Contains(lines[0], `"route":"routes[0]","backend":"good"`) || !strings.Contains(lines[0], `"grpc_status":"OK"`) {
		t.Errorf("access log:\n%s", raw)
	}
}

func grep(text, prefix string) string {
	var lines []string
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, prefix) {
			lines = append(lines, line)
		}
	}

	return strings.Join(lines, "")
}

// statusOf asks until the status is as it should be.
func statusOf(t *testing.T, url string, ok func(*status.Status) bool) *status.Status {
	t.Helper()
	deadline := time.Now().Add(testTimeout)
	for {
		_, text := fetch(t, http.MethodGet, url+"/status.json", "")
		var s status.Status
		if err := json.Unmarshal([]byte(text), &s); err != nil {
			t.Fatalf("%v in %s", err, text)
		}
		if ok(&s) {
			return &s
		}
		if time.Now().After(deadline) {
			t.Fatalf("status %s", text)
		}
	}
}

// The rest of the admin endpoint.
func TestAdmin(t *testing.T) {
	d, url, _ := operated(t)
	tests := []struct {
		method, path, body string
		header             string
		code               int
		want               string
	}{
		{"GET", "/", "", "", 200, "<!doctype html>"},
		{"GET", "/config", "", "", 200, "listen: \"127.0.0.1:0\""},
		{"GET", "/config", "", "", 200, "authorization: \"(not shown)\""},
		{"GET", "/explain?method=/other.v1.X/Y", "", "", 200, "goes to backend bad"},
		{"GET", "/explain?method=Y", "", "", 400, "expected /service/method"},
		{"GET", "/healthz", "", "", 200, "ok"},
		{"GET", "/readyz", "", "", 200, "ok"},
		{"GET", "/readyz?backend=good", "", "", 200, "ok"},
		{"GET", "/readyz?backend=bad", "", "", 503, `backend "bad" has no endpoint that takes calls`},
		{"GET", "/readyz?backend=none", "", "", 404, "no backend"},
		{"GET", "/log/level", "", "", 200, "info"},
		{"PUT", "/log/level", "debug", "", 403, "X-Manifold"},
		{"PUT", "/log/level", "loud", "1", 400, "expected debug"},
		{"PUT", "/log/level", "debug", "1", 200, "debug"},
		{"GET", "/debug/pprof/goroutine?debug=1", "", "", 200, "goroutine profile"},
		{"POST", "/drain", "", "", 403, "X-Manifold"},
	}
	for _, tt := range tests {
		var headers []string
		if tt.header != "" {
			headers = []string{"X-Manifold", tt.header}
		}
		code, text := fetch(t, tt.method, url+tt.path, tt.body, headers...)
		if code != tt.code || !strings.Contains(text, tt.want) {
			t.Errorf("%s %s: %d %q, want %d with %q", tt.method, tt.path, code, text, tt.code, tt.want)
		}
	}
	if d.cfg.Level.Level() != slog.LevelDebug {
		t.Errorf("level %v", d.cfg.Level.Level())
	}
	select {
	case <-d.Done():
		t.Fatal("the daemon ended")
	default:
	}
	if code, _ := fetch(t, "POST", url+"/drain", "", "X-Manifold", "1"); code != 202 {
		t.Errorf("drain: %d", code)
	}
	wait(t, d.Done(), "the drain")
	shutdown(t, d) // as the command does then
}

// Others cannot be let in by mistake.
// Nobody is told that a daemon is ready before it listens.
func TestReadyWhenListening(t *testing.T) {
	d, err := New(Config{File: declare(t, `
frontends: [{name: public, listen: "127.0.0.1:0"}]
backends: {main: {endpoints: ["127.0.0.1:1"]}}
routes: [{backend: main}]
`)})
	if err != nil {
		t.Fatal(err)
	}
	for _, backend := range []string{"", "main"} {
		if err, ok := d.ready(backend); err == nil || err.Error() != "starting" || !ok {
			t.Errorf("before the start, backend %q: %v, %v", backend, err, ok)
		}
	}
	if err := d.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Shutdown(t.Context()) }) //nolint:errcheck // nothing is under way
	if err, ok := d.ready(""); err != nil || !ok {
		t.Errorf("after the start: %v, %v", err, ok)
	}
}

func TestAdminLoopbackOnly(t *testing.T) {
	cfg := Config{Listen: loopback, Endpoints: endpoints(startBackends(t, 1)...), Admin: &config.Admin{Listen: "0.0.0.0:0"}}
	d, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Start(); err == nil || !strings.Contains(err.Error(), "allow_remote") {
		t.Errorf("start: %v", err)
	}
}

// Counts survive a reload.
func TestReloadKeepsCounts(t *testing.T) {
	d, url, _ := operated(t)
	conn := connectTo(t, d, "public", insecure.NewCredentials())
	for range 3 {
		if err := d.Reload(); err != nil {
			t.Fatal(err)
		}
		if _, err := echo(callContext(t), conn); err != nil {
			t.Fatal(err)
		}
	}
	s := statusOf(t, url, func(s *status.Status) bool { return s.Total.Calls >= 3 })
	if s.Total.Calls != 3 || s.Reload.Count != 3 || !s.Reload.OK {
		t.Errorf("%d calls, reload %+v", s.Total.Calls, s.Reload)
	}
}
