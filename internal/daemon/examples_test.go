// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"crypto/tls"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/manifold-grpc/manifold/internal/config"
	"github.com/manifold-grpc/manifold/internal/exampletest"
	"github.com/manifold-grpc/manifold/internal/sample"
	"github.com/manifold-grpc/manifold/internal/sample/samplepb"
)

// loadExample reads a file below examples as it would be in dir, with its addresses and paths replaced.
func loadExample(t *testing.T, name, dir string, oldnew ...string) *config.Config {
	t.Helper()

	file, err := config.Load(exampletest.Copy(t, name, dir, oldnew...))
	if err != nil {
		t.Fatal(err)
	}

	return file
}

// TestTLSExample sees that a backend whose health says so gets no more calls, and that plaintext is not served.
func TestTLSExample(t *testing.T) {
	dir := exampletest.Certificates(t, "certificates.sh")
	var backends []*sample.Backend
	for _, name := range []string{"one", "two"} {
		backends = append(backends, startBackend(t, loopback, sample.Options{
			Name: name, TLS: &tls.Config{Certificates: []tls.Certificate{exampletest.Pair(t, dir, "server")}},
		}))
	}
	d := startDaemon(t, Config{File: loadExample(t, "tls/manifold.yaml", dir,
		"127.0.0.1:9901", "127.0.0.1:0", `":8443"`, "127.0.0.1:0",
		"localhost:50051", backends[0].Addr().String(), "localhost:50052", backends[1].Addr().String())})
	conn := connectTo(t, d, "public", credentials.NewTLS(&tls.Config{RootCAs: exampletest.Pool(t, dir, "ca.crt"), ServerName: "localhost"}))

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
	d := startDaemon(t, Config{File: loadExample(t, "one-to-many/manifold.yaml", t.TempDir(), "localhost:8080", "127.0.0.1:0", "localhost:*", "127.0.0.1:*",
		"localhost:50051", backends[0].Addr().String(), "localhost:50052", backends[1].Addr().String(), "localhost:50053", backends[2].Addr().String())})
	conn := connectTo(t, d, "local", insecure.NewCredentials())
	fleet := samplepb.NewFleetServiceClient(conn)

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
		{"by address", "", []string{"address", backends[1].Addr().String()}, []string{"1"}, codes.OK, ""},
		{"another address", "", []string{"address", "192.0.2.1:80"}, nil, codes.PermissionDenied, ""},
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
	t.Run("first", func(t *testing.T) {
		if got, _, err := describe(t, fleet, "1", "want", "first"); err != nil || len(got) != 1 || got[0] == "1" {
			t.Errorf("answers of %q, %v, want one of another than 1", got, err)
		}
	})
	t.Run("sorted", func(t *testing.T) {
		if got, want := watch(t, conn, "sorted", "yes"), "0 0 1 1 2 2"; got != want {
			t.Errorf("reports of %q, want %q", got, want)
		}
	})
	t.Run("envelope", func(t *testing.T) {
		got := answersOf(metadata.AppendToOutgoingContext(callContext(t), "want", "envelope"), conn, true)
		slices.Sort(got)
		if want := []string{"node-a: 0", "node-b: 1", "node-c: 2"}; !slices.Equal(got, want) {
			t.Errorf("answers %q, want %q", got, want)
		}
	})
}

// watch returns the names of those who report, twice each, as they come.
func watch(t *testing.T, conn *grpc.ClientConn, pairs ...string) string {
	t.Helper()

	stream, err := samplepb.NewFleetServiceClient(conn).Watch(metadata.AppendToOutgoingContext(callContext(t), pairs...), &samplepb.WatchRequest{Count: 2})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for {
		node, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return strings.Join(names, " ")
		}
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, node.GetBackend())
	}
}
