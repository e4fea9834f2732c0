// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package clients

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

const (
	echoService  = "manifold.sample.v1.EchoService"
	fleetService = "manifold.sample.v1.FleetService"
)

// grpcurl is the program, and the proxy it calls. It learns the services from the
// backends, by reflection through the proxy.
type grpcurl struct {
	path string
	target
}

// run runs grpcurl with flags and, behind the address, words: a verb, a name. It
// returns what is printed and the exit code: 0, or 64 and the call's status code.
func (c grpcurl) run(t *testing.T, stdin string, flags []string, words ...string) (stdout, stderr string, code int) {
	t.Helper()

	ctx, cancel := context.WithTimeout(t.Context(), startTimeout)
	defer cancel()
	cmd := c.command(ctx, flags, words...)
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &errs

	err := cmd.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && ctx.Err() == nil {
		return out.String(), errs.String(), exit.ExitCode()
	}
	if err != nil {
		t.Fatalf("%s: %v\n%s", cmd, errors.Join(err, ctx.Err()), errs.String())
	}

	return out.String(), errs.String(), 0
}

func (c grpcurl) command(ctx context.Context, flags []string, words ...string) *exec.Cmd {
	security := []string{"-plaintext"}
	if c.ca != "" {
		security = []string{"-cacert", c.ca}
	}

	return exec.CommandContext(ctx, c.path, slices.Concat(security, flags, []string{c.addr}, words)...)
}

// ok is run for what is to work.
func (c grpcurl) ok(t *testing.T, stdin string, flags []string, words ...string) string {
	t.Helper()

	stdout, stderr, code := c.run(t, stdin, flags, words...)
	if code != 0 {
		t.Fatalf("%q: exit code %d\n%s", words, code, stderr)
	}

	return stdout
}

// answers decodes a sequence of JSON messages.
func answers(t *testing.T, stdout string) []map[string]any {
	t.Helper()

	var all []map[string]any
	for decoder := json.NewDecoder(strings.NewReader(stdout)); ; {
		var message map[string]any
		err := decoder.Decode(&message)
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatalf("%v in\n%s", err, stdout)
		}
		all = append(all, message)
	}
}

// texts are the "text" of messages.
func texts(messages []map[string]any) []any {
	var all []any
	for _, m := range messages {
		all = append(all, m["text"])
	}

	return all
}

// TestGrpcurl runs github.com/fullstorydev/grpcurl.
func TestGrpcurl(t *testing.T) {
	path := filepath.Join(t.TempDir(), "grpcurl")
	if err := build(path, ".", "github.com/fullstorydev/grpcurl/cmd/grpcurl"); err != nil {
		t.Fatal(err)
	}

	overEach(t, func(t *testing.T, g target) {
		c := grpcurl{path, g}
		for _, check := range []struct {
			name string
			run  func(*testing.T, grpcurl)
		}{
			{"reflection", testReflection},
			{"kinds", testKinds},
			{"balance", testBalance},
			{"metadata", testMetadata},
			{"size", testSize},
			{"error", testError},
			{"deadline", testDeadline},
			{"cancel", testCancel},
			{"health", testHealth},
		} {
			t.Run(check.name, func(t *testing.T) { check.run(t, c) })
		}
	})
}

func testReflection(t *testing.T, c grpcurl) {
	services := strings.Fields(c.ok(t, "", nil, "list"))
	for _, want := range []string{echoService, fleetService} {
		if !slices.Contains(services, want) {
			t.Errorf("list = %q, want %s among them", services, want)
		}
	}
	if got := c.ok(t, "", nil, "describe", echoService+".Chat"); !strings.Contains(got, "rpc Chat ( stream .manifold.sample.v1.EchoRequest )") {
		t.Errorf("describe = %s", got)
	}
}

func testKinds(t *testing.T, c grpcurl) {
	tests := []struct {
		method, in string
		want       []any // texts
	}{
		{"Echo", `{"text": "grüße 世界"}`, []any{"grüße 世界"}},
		{"Expand", `{"text": "x", "count": 3}`, []any{"x", "x", "x"}},
		{"Expand", `{"count": 0}`, nil},
		{"Chat", `{"text": "a"} {"text": "b"}`, []any{"a", "b"}},
		{"Chat", ``, nil},
	}
	for _, tt := range tests {
		got := texts(answers(t, c.ok(t, tt.in, []string{"-d", "@"}, echoService+"/"+tt.method)))
		if !slices.Equal(got, tt.want) {
			t.Errorf("%s of %s = %q, want %q", tt.method, tt.in, got, tt.want)
		}
	}

	collected := answers(t, c.ok(t, `{"text": "a"} {"text": "b", "payload": "AAAA"}`, []string{"-d", "@"}, echoService+"/Collect"))
	if len(collected) != 1 || !slices.Equal(collected[0]["texts"].([]any), []any{"a", "b"}) || collected[0]["payloadBytes"] != "3" {
		t.Errorf("Collect = %v", collected)
	}
}

// grpcurl makes a connection for each call, so this is not balance within one.
func testBalance(t *testing.T, c grpcurl) {
	seen := map[any]bool{}
	for range 10 * len(backendNames) {
		seen[answers(t, c.ok(t, "", nil, echoService+"/Echo"))[0]["backend"]] = true
	}
	for _, name := range backendNames {
		if !seen[name] {
			t.Errorf("backends = %v, want %s among them", seen, name)
		}
	}
}

func testMetadata(t *testing.T, c grpcurl) {
	binary := base64.StdEncoding.EncodeToString([]byte{0x00, 0xff, 0x80})
	out := c.ok(t, "", []string{
		"-v", "-d", `{"want_metadata": true}`,
		"-H", "sample-header-a: 1", "-H", "sample-header-a: 2", "-H", "sample-header-b-bin: " + binary,
		"-H", "sample-trailer-c: three",
	}, echoService+"/Echo")

	_, rest, _ := strings.Cut(out, "Response headers received:")
	headers, rest, _ := strings.Cut(rest, "Response contents:")
	contents, trailers, _ := strings.Cut(rest, "Response trailers received:")
	for _, want := range []string{"sample-header-a: 1\n", "sample-header-a: 2\n", "sample-backend: "} {
		if !strings.Contains(headers, want) {
			t.Errorf("no %q in the headers:\n%s", want, headers)
		}
	}
	// Without padding, as grpcurl prints it.
	if !strings.Contains(headers, "sample-header-b-bin: "+strings.TrimRight(binary, "=")) {
		t.Errorf("no %q in the headers:\n%s", binary, headers)
	}
	if !strings.Contains(trailers, "sample-trailer-c: three\n") {
		t.Errorf("trailers:\n%s", trailers)
	}
	if !strings.Contains(contents, `"key": "sample-header-b-bin"`) || !strings.Contains(contents, `"`+binary+`"`) {
		t.Errorf("the backend has received:\n%s", contents)
	}
}

func testSize(t *testing.T, c grpcurl) {
	payload := strings.Repeat("AAAA", 2<<20) // 6 MiB
	in, err := json.Marshal(map[string]string{"payload": payload})
	if err != nil {
		t.Fatal(err)
	}
	got := answers(t, c.ok(t, string(in), []string{"-max-msg-sz", "10000000", "-d", "@"}, echoService+"/Echo"))
	if got[0]["payload"] != payload {
		t.Error("another payload comes back")
	}
}

func testError(t *testing.T, c grpcurl) {
	in := `{"fail": {"code": 15, "message": "löst\n100% 世界", "details": [
		{"@type": "type.googleapis.com/google.protobuf.StringValue", "value": "why"}]}}`
	_, stderr, code := c.run(t, "", []string{"-format-error", "-d", in}, echoService+"/Echo")
	if code != 64+15 {
		t.Errorf("exit code %d, want that of DATA_LOSS", code)
	}
	var status struct {
		Message string
		Details []map[string]string
	}
	if err := json.Unmarshal([]byte(stderr), &status); err != nil {
		t.Fatalf("%v in\n%s", err, stderr)
	}
	if status.Message != "löst\n100% 世界" || len(status.Details) != 1 || status.Details[0]["value"] != "why" {
		t.Errorf("status = %+v", status)
	}

	stdout, _, code := c.run(t, "", []string{"-d", `{"text": "x", "count": 2, "fail": {"code": 10}}`}, echoService+"/Expand")
	if got := texts(answers(t, stdout)); code != 64+10 || !slices.Equal(got, []any{"x", "x"}) {
		t.Errorf("a stream that fails at its end: exit code %d after %q", code, got)
	}
}

func testDeadline(t *testing.T, c grpcurl) {
	before := c.cancelled(t)
	_, stderr, code := c.run(t, "", []string{"-max-time", "0.5", "-d", `{"delay": "60s"}`}, echoService+"/Echo")
	if code != 64+4 {
		t.Errorf("exit code %d, want that of DEADLINE_EXCEEDED\n%s", code, stderr)
	}
	c.awaitCancelled(t, before+1)
}

func testCancel(t *testing.T, c grpcurl) {
	before := c.cancelled(t)
	cmd := c.command(t.Context(), []string{"-d", `{"text": "x", "count": 2, "interval": "60s"}`}, echoService+"/Expand")
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := bufio.NewReader(stdout).ReadString('}'); err != nil {
		t.Errorf("no answer before it is cancelled: %v", err)
	}

	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // that it was killed
	c.awaitCancelled(t, before+1)
}

func testHealth(t *testing.T, c grpcurl) {
	if got := answers(t, c.ok(t, "", nil, "grpc.health.v1.Health/Check")); got[0]["status"] != "SERVING" {
		t.Errorf("health = %v", got)
	}
	// The backends have the service too, but other words.
	_, stderr, code := c.run(t, "", []string{"-d", `{"service": "x"}`}, "grpc.health.v1.Health/Check")
	if code != 64+5 || !strings.Contains(stderr, "the proxy itself") {
		t.Errorf("health of a named service: exit code %d\n%s", code, stderr)
	}
}

// cancelled is the number of calls that the backends have seen cancelled.
func (c grpcurl) cancelled(t *testing.T) int {
	t.Helper()

	counts := map[string]json.Number{}
	for len(counts) < len(backendNames) {
		var resp struct {
			Nodes []struct {
				Backend   string
				Cancelled json.Number
			}
		}
		if err := json.Unmarshal([]byte(c.ok(t, "", nil, fleetService+"/Describe")), &resp); err != nil {
			t.Fatal(err)
		}
		counts[resp.Nodes[0].Backend] = resp.Nodes[0].Cancelled
	}

	sum := 0
	for _, count := range counts {
		n, _ := count.Int64() // absent is 0
		sum += int(n)
	}

	return sum
}

func (c grpcurl) awaitCancelled(t *testing.T, least int) {
	t.Helper()

	for end := time.Now().Add(startTimeout); c.cancelled(t) < least; {
		if time.Now().After(end) {
			t.Fatal("no backend has seen the call cancelled")
		}
	}
}
