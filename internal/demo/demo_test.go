// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"flag"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/manifold-grpc/manifold/internal/daemon"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var update = flag.Bool("update", false, "write testdata/output.txt anew")

var (
	address  = regexp.MustCompile(`127\.0\.0\.1:\d+`)
	duration = regexp.MustCompile(`took .*\.`)
	padding  = regexp.MustCompile(`(?m) +$`)
)

// The whole output, as users see it but for ports and times.
func TestOutput(t *testing.T) {
	var out strings.Builder
	start := time.Now()
	if err := Run(t.Context(), &out, Options{Listen: daemon.Address{Network: "tcp", Addr: "127.0.0.1:0"}}); err != nil {
		t.Fatalf("%v, after\n%s", err, out.String())
	}
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("took %v, want seconds at most", took)
	}

	const golden = "testdata/output.txt"
	got := nameEndpoints(t, out.String())
	if *update {
		if err := os.WriteFile(golden, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("output differs from %s (-update writes it):\n%s", golden, got)
	}
}

// nameEndpoints replaces what differs between two runs: the time, and each address
// by the name it is introduced with, so that a backend's answers under another
// one's address would show.
func nameEndpoints(t *testing.T, out string) string {
	t.Helper()

	introduced := map[string]string{"proxy": `in front of them, on (127\.0\.0\.1:\d+)\.`}
	for _, name := range backendNames {
		introduced[name] = `(?m)^  ` + name + ` +(127\.0\.0\.1:\d+)$`
	}
	for name, pattern := range introduced {
		match := regexp.MustCompile(pattern).FindStringSubmatch(out)
		if match == nil {
			t.Fatalf("no address of %s in\n%s", name, out)
		}
		placeholder := "<" + name + ">"
		if name != "proxy" { // in tables, where columns are to stay
			placeholder = fmt.Sprintf("%-*s", len(match[1]), placeholder)
		}
		out = strings.ReplaceAll(out, match[1], placeholder)
	}
	if left := address.FindString(out); left != "" {
		t.Errorf("%s is nobody's address", left)
	}

	return padding.ReplaceAllString(duration.ReplaceAllString(out, "took <time>."), "")
}

// What to try with a proxy that keeps running goes for sockets too.
func TestTryIt(t *testing.T) {
	for want, address := range map[string]daemon.Address{
		"grpcurl -plaintext 127.0.0.1:8080 list\n":    {Network: "tcp", Addr: "127.0.0.1:8080"},
		"grpcurl -plaintext -unix /run/m.sock list\n": {Network: "unix", Addr: "/run/m.sock"},
	} {
		var out strings.Builder
		(&printer{out: &out}).tryIt(address)
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
}

// The file that is shown is the one that the proxy runs on: it starts another.
func TestShowConfig(t *testing.T) {
	var out strings.Builder
	if err := Run(t.Context(), &out, Options{Listen: daemon.Address{Network: "tcp", Addr: "127.0.0.1:0"}, ShowConfig: true}); err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(out.String(), "It runs on this file:\n\n")
	shown, _, _ := strings.Cut(rest, "\nONE TO ONE")
	var text strings.Builder
	for line := range strings.Lines(shown) {
		text.WriteString(strings.TrimPrefix(line, "  "))
	}
	d, _, err := startProxy(text.String())
	if err != nil {
		t.Fatalf("%v, with\n%s", err, text.String())
	}
	if err := stopProxy(d); err != nil {
		t.Error(err)
	}
}
