// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"crypto/tls"
	"crypto/x509"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/manifold-grpc/manifold/internal/config"
	"github.com/manifold-grpc/manifold/internal/sample"
	"github.com/manifold-grpc/manifold/internal/sample/samplepb"
)

// loadExample reads a file below examples as it would be in dir, with its addresses and paths
// replaced. Each of them must be in the file.
func loadExample(t *testing.T, name, dir string, oldnew ...string) *config.Config {
	t.Helper()

	text, err := os.ReadFile(filepath.Join("../../examples", name))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(oldnew); i += 2 {
		if !strings.Contains(string(text), oldnew[i]) {
			t.Fatalf("%s has no %q to replace", name, oldnew[i])
		}
	}
	changed := filepath.Join(dir, "manifold.yaml")
	if err := os.WriteFile(changed, []byte(strings.NewReplacer(oldnew...).Replace(string(text))), 0o600); err != nil {
		t.Fatal(err)
	}
	file, err := config.Load(changed)
	if err != nil {
		t.Fatal(err)
	}

	return file
}

// exampleCertificates runs a script below examples, as a user would, for a new directory.
func exampleCertificates(t *testing.T, script string) (dir string) {
	t.Helper()

	if _, err := exec.LookPath("openssl"); err != nil {
		t.Skipf("no openssl, which examples/%s needs", script)
	}
	dir = t.TempDir()
	if out, err := exec.CommandContext(callContext(t), "sh", filepath.Join("../../examples", script), dir).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", script, err, out)
	}

	return dir
}

// loadPair loads NAME.crt and NAME.key, loadPool the authorities of a file.
func loadPair(t *testing.T, dir, name string) *tls.Certificate {
	t.Helper()

	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, name+".crt"), filepath.Join(dir, name+".key"))
	if err != nil {
		t.Fatal(err)
	}

	return &pair
}

func loadPool(t *testing.T, name string) *x509.CertPool {
	t.Helper()

	pem, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		t.Fatalf("%s has no certificates", name)
	}

	return pool
}

// TestTLSExample sees that a backend whose health says so gets no more calls, and that plaintext is not served.
func TestTLSExample(t *testing.T) {
	dir := exampleCertificates(t, "certificates.sh")
	var backends []*sample.Backend
	for _, name := range []string{"one", "two"} {
		backends = append(backends, startBackend(t, loopback, sample.Options{
			Name: name, TLS: &tls.Config{Certificates: []tls.Certificate{*loadPair(t, dir, "server")}},
		}))
	}
	d := startDaemon(t, Config{File: loadExample(t, "tls/manifold.yaml", dir,
		"127.0.0.1:9901", "127.0.0.1:0", `":8443"`, "127.0.0.1:0",
		"localhost:50051", backends[0].Addr().String(), "localhost:50052", backends[1].Addr().String())})
	conn := connectTo(t, d, "public", credentials.NewTLS(&tls.Config{RootCAs: loadPool(t, filepath.Join(dir, "ca.crt")), ServerName: "localhost"}))

	seen := map[string]int{}
	for range 4 {
		name, err := echo(callContext(t), conn)
		if err != nil {
			t.Fatal(err)
		}
		seen[name]++
	}
	if seen["one"] == 0 || seen["two"] == 0 {
		t.Errorf("answers by backend = %v, want of both", seen)
	}

	backends[0].Health(healthpb.HealthCheckResponse_NOT_SERVING)
	ctx := callContext(t)
	for run := 0; run < 10; run++ {
		name, err := echo(ctx, conn)
		if err != nil {
			t.Fatalf("%v, while one backend is not serving", err)
		}
		if name == "one" {
			run = 0
		}
	}

	if _, err := echo(callContext(t), connectTo(t, d, "public", insecure.NewCredentials())); status.Code(err) != codes.Unavailable {
		t.Errorf("a client without TLS gets %v, want no connection", err)
	}
}

func TestCanaryExample(t *testing.T) {
	backends := startBackends(t, 3)
	d := startDaemon(t, Config{File: loadExample(t, "canary/manifold.yaml", t.TempDir(), "localhost:8080", "127.0.0.1:0",
		"localhost:50051", backends[0].Addr().String(), "localhost:50052", backends[1].Addr().String(), "localhost:50053", backends[2].Addr().String())})
	conn := connectTo(t, d, "local", insecure.NewCredentials())

	const calls = 400
	seen := map[string]map[string]int{}
	for _, version := range []string{"", "next", "stable", "other"} {
		seen[version] = map[string]int{}
		for range calls {
			resp, _, err := ask(t, conn, &samplepb.EchoRequest{}, "x-version", version)
			if err != nil {
				t.Fatal(err)
			}
			seen[version][resp.GetBackend()]++
		}
	}
	// What is random is given wide bounds: less than one run in a million leaves them.
	for _, version := range []string{"", "other"} {
		if n := seen[version]["2"]; n == 0 || n > 80 {
			t.Errorf("x-version %q: %d of %d calls went to the next version, want about %d", version, n, calls, calls/20)
		}
	}
	if seen["next"]["2"] != calls || seen["stable"]["2"] != 0 {
		t.Errorf("calls by version and backend = %v, want them where they ask to go", seen)
	}
}

func TestOneToManyExample(t *testing.T) {
	backends := startBackends(t, 3)
	d := startDaemon(t, Config{File: loadExample(t, "one-to-many/manifold.yaml", t.TempDir(), "localhost:8080", "127.0.0.1:0",
		"localhost:50051", backends[0].Addr().String(), "localhost:50052", backends[1].Addr().String(), "localhost:50053", backends[2].Addr().String())})
	fleet := samplepb.NewFleetServiceClient(connectTo(t, d, "local", insecure.NewCredentials()))

	tests := []struct {
		name, failOn string
		pairs        []string
		want         []string // the backends that answered, "" for an error in the place of one
		code         codes.Code
		summary      string // a part of the trailer
	}{
		{"all", "", nil, []string{"0", "1", "2"}, codes.OK, ""},
		{"an error in its place", "1", nil, []string{"0", "", "2"}, codes.OK, ""},
		{"chosen", "", []string{"nodes", "node-a,node-c"}, []string{"0", "2"}, codes.OK, ""},
		{"all chosen, one fails", "1", []string{"nodes", "*"}, nil, codes.Unavailable, ""},
		{"unknown", "", []string{"nodes", "node-x"}, nil, codes.PermissionDenied, ""},
		{"most", "1", []string{"want", "most"}, []string{"0", "2"}, codes.OK, "targets=3 ok=2"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, trailer, err := describe(t, fleet, tt.failOn, tt.pairs...)
			if status.Code(err) != tt.code || !slices.Equal(got, tt.want) {
				t.Errorf("answers of %q, %v, want %q, %v", got, err, tt.want, tt.code)
			}
			if summary := strings.Join(trailer.Get("manifold-fanout"), ""); (summary == "") != (tt.summary == "") || !strings.Contains(summary, tt.summary) {
				t.Errorf("summary %q, want %q in it", summary, tt.summary)
			}
		})
	}
}
