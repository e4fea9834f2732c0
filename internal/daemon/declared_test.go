// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/manifold-grpc/manifold/internal/certtest"
	"github.com/manifold-grpc/manifold/internal/config"
	"github.com/manifold-grpc/manifold/internal/sample"
	"github.com/manifold-grpc/manifold/internal/sample/samplepb"
)

// declare parses the text of a configuration file, with addresses and paths in it by format verbs.
func declare(t *testing.T, text string, args ...any) *config.Config {
	t.Helper()

	file, err := config.Source{Name: "/test.yaml"}.Parse(fmt.Appendf(nil, text, args...))
	if err != nil {
		t.Fatal(err)
	}

	return file
}

// connectTo returns a connection to a frontend.
func connectTo(t *testing.T, d *Daemon, frontend string, creds credentials.TransportCredentials, opts ...grpc.DialOption) *grpc.ClientConn {
	t.Helper()

	addr, ok := d.AddrOf(frontend)
	if !ok {
		t.Fatalf("no frontend %q", frontend)
	}
	target := "passthrough:///" + addr.Addr
	if addr.Network == "unix" {
		target = "unix:" + addr.Addr
	}
	conn, err := grpc.NewClient(target, append(opts, grpc.WithTransportCredentials(creds))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })

	return conn
}

// ask makes an Echo call with metadata, and returns who answered and the metadata that got there.
func ask(t *testing.T, conn *grpc.ClientConn, req *samplepb.EchoRequest, pairs ...string) (*samplepb.EchoResponse, map[string]string, error) {
	t.Helper()

	ctx := metadata.AppendToOutgoingContext(callContext(t), pairs...)
	req.WantMetadata = true
	resp, err := samplepb.NewEchoServiceClient(conn).Echo(ctx, req)
	got := map[string]string{}
	for _, entry := range resp.GetMetadata() {
		var values []string
		for _, v := range entry.GetValues() {
			values = append(values, string(v))
		}
		got[entry.GetKey()] = strings.Join(values, ",")
	}

	return resp, got, err
}

const echoService = "manifold.sample.v1.EchoService"

func TestDeclaredRoutes(t *testing.T) {
	backends := startBackends(t, 3)
	d := startDaemon(t, Config{File: declare(t, `
frontends: [{name: f, listen: "127.0.0.1:0", forwarded_for: true}]
backends:
  zero: {endpoints: ["%[1]s"], authority: zero.internal}
  one: {endpoints: ["%[2]s"]}
  two: {endpoints: ["%[3]s"]}
routes:
  - match: {service: %[4]s}
    backend: zero
    request_headers: {remove: [x-a, x-none], set: {x-b: new}, add: {x-c: more}}
  - {match: {service: %[4]s, metadata: {version: next}}, backend: one, max_duration: 5s, max_request_message: 1KiB}
  - {match: {service: %[4]s, metadata: {version: "*", tier: gold}}, backend: two}
  - {match: {host: "*.example.com"}, backend: two}
`, backends[0].Addr(), backends[1].Addr(), backends[2].Addr(), echoService)})
	conn := connectTo(t, d, "f", insecure.NewCredentials())

	t.Run("headers", func(t *testing.T) {
		resp, got, err := ask(t, conn, &samplepb.EchoRequest{}, "x-a", "1", "x-b", "old", "x-b", "older", "x-c", "first", "x-forwarded-for", "10.9.8.7")
		if err != nil || resp.GetBackend() != "0" {
			t.Fatalf("answer of %q, %v", resp.GetBackend(), err)
		}
		for key, want := range map[string]string{"x-a": "", "x-b": "new", "x-c": "first,more", ":authority": "zero.internal", "x-forwarded-for": "127.0.0.1"} {
			if got[key] != want {
				t.Errorf("%s = %q at the backend, want %q", key, got[key], want)
			}
		}
	})
	t.Run("metadata", func(t *testing.T) {
		for _, tt := range []struct {
			pairs []string
			want  string
		}{
			{[]string{"version", "next"}, "1"},
			{[]string{"version", "old", "version", "next"}, "1"},
			{[]string{"version", "old"}, "0"},
			{[]string{"version", "old", "tier", "gold"}, "2"},
		} {
			if resp, _, err := ask(t, conn, &samplepb.EchoRequest{}, tt.pairs...); err != nil || resp.GetBackend() != tt.want {
				t.Errorf("%q: answer of %q, %v; want %q", tt.pairs, resp.GetBackend(), err, tt.want)
			}
		}
	})
	t.Run("host", func(t *testing.T) {
		other := connectTo(t, d, "f", insecure.NewCredentials(), grpc.WithAuthority("a.example.com"))
		if resp, _, err := ask(t, other, &samplepb.EchoRequest{}); err != nil || resp.GetBackend() != "2" {
			t.Errorf("answer of %q, %v", resp.GetBackend(), err)
		}
	})
	t.Run("request message", func(t *testing.T) {
		_, _, err := ask(t, conn, &samplepb.EchoRequest{Payload: make([]byte, 2000)}, "version", "next")
		if status.Code(err) != codes.ResourceExhausted {
			t.Errorf("error = %v", err)
		}
	})
	t.Run("time", func(t *testing.T) {
		resp, _, err := ask(t, conn, &samplepb.EchoRequest{}, "version", "next")
		if left := resp.GetTimeLeft().AsDuration(); err != nil || left <= 0 || left > 5*time.Second {
			t.Errorf("time left = %v, %v; want at most 5s of the caller's %v", left, err, testTimeout)
		}
	})
}

// Calls that go nowhere, and those that the daemon answers itself.
func TestDeclaredAnswers(t *testing.T) {
	d := startDaemon(t, Config{File: declare(t, `
frontends: [{name: f, listen: "127.0.0.1:0"}]
routes:
  - {match: {service: %[1]s, method: Collect}, deny: true}
  - {match: {service: %[1]s, method: Chat}, deny: unimplemented}
`, echoService)})
	conn := connectTo(t, d, "f", insecure.NewCredentials())

	t.Run("denied", func(t *testing.T) {
		client := samplepb.NewEchoServiceClient(conn)
		collect, err := client.Collect(callContext(t))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := collect.CloseAndRecv(); status.Code(err) != codes.PermissionDenied {
			t.Errorf("permission_denied: %v", err)
		}
		chat, err := client.Chat(callContext(t))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := chat.Recv(); status.Code(err) != codes.Unimplemented || !strings.Contains(err.Error(), "denied") {
			t.Errorf("unimplemented: %v", err)
		}
	})
	t.Run("no route", func(t *testing.T) {
		_, err := samplepb.NewFleetServiceClient(conn).Describe(callContext(t), &samplepb.DescribeRequest{})
		if status.Code(err) != codes.Unimplemented || !strings.Contains(err.Error(), "no route for /manifold.sample.v1.FleetService/Describe") {
			t.Errorf("error = %v", err)
		}
	})
	t.Run("health", func(t *testing.T) {
		resp, err := healthpb.NewHealthClient(conn).Check(callContext(t), &healthpb.HealthCheckRequest{})
		if err != nil || resp.GetStatus() != healthpb.HealthCheckResponse_SERVING {
			t.Errorf("health = %v, %v", resp, err)
		}
	})
}

// A call that takes longer than its route allows ends, with a deadline of the caller and without.
func TestDeclaredMaxDuration(t *testing.T) {
	backend := startBackends(t, 1)[0]
	d := startDaemon(t, Config{File: declare(t, `
frontends: [{name: f, listen: "127.0.0.1:0"}]
backends: {b: {endpoints: ["%s"]}}
routes: [{backend: b, max_duration: 50ms}]
`, backend.Addr())})
	client := samplepb.NewEchoServiceClient(connectTo(t, d, "f", insecure.NewCredentials()))

	_, err := client.Echo(t.Context(), &samplepb.EchoRequest{Delay: durationpb.New(testTimeout)})
	if status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("without a deadline: %v", err)
	}
	_, err = client.Echo(callContext(t), &samplepb.EchoRequest{Delay: durationpb.New(testTimeout)})
	if status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("with a longer deadline: %v", err)
	}
}

// Health that a route has for itself is the backend's.
func TestDeclaredHealth(t *testing.T) {
	backend := startBackends(t, 1)[0]
	d := startDaemon(t, Config{File: declare(t, `
frontends: [{name: f, listen: "127.0.0.1:0"}]
backends: {b: {endpoints: ["%s"]}}
routes: [{match: {service: grpc.health.v1.Health}, backend: b}]
`, backend.Addr())})

	client := healthpb.NewHealthClient(connectTo(t, d, "f", insecure.NewCredentials()))
	_, err := client.Check(callContext(t), &healthpb.HealthCheckRequest{Service: "x"})
	if status.Code(err) != codes.NotFound || strings.Contains(err.Error(), "manifold") {
		t.Errorf("health = %v, want the backend's words", err)
	}
}

func TestDeclaredWeights(t *testing.T) {
	backends := startBackends(t, 3)
	d := startDaemon(t, Config{File: declare(t, `
frontends: [{name: f, listen: "127.0.0.1:0"}]
backends: {a: {endpoints: ["%s"]}, b: {endpoints: ["%s"]}, c: {endpoints: ["%s"]}}
routes: [{backend: [{name: a, weight: 9}, {name: b, weight: 1}, {name: c, weight: 0}]}]
`, backends[0].Addr(), backends[1].Addr(), backends[2].Addr())})
	conn := connectTo(t, d, "f", insecure.NewCredentials())

	seen := map[string]int{}
	for range 100 {
		name, err := echo(callContext(t), conn)
		if err != nil {
			t.Fatal(err)
		}
		seen[name]++
	}
	if seen["2"] != 0 || seen["1"] < 8 || seen["1"] > 12 {
		t.Errorf("calls = %v, want 90 and 10, give or take 2, and none", seen)
	}
}

// With calls in flight, the endpoint that has fewer is taken.
func TestDeclaredLeastRequest(t *testing.T) {
	backends := startBackends(t, 2)
	d := startDaemon(t, Config{File: declare(t, `
frontends: [{name: f, listen: "127.0.0.1:0"}]
backends: {b: {endpoints: ["%s", "%s"], balance: least_request}}
routes: [{backend: b}]
`, backends[0].Addr(), backends[1].Addr())})
	conn := connectTo(t, d, "f", insecure.NewCredentials())

	for i := range 10 {
		openChat(t, conn)
		a, b := endpointOf(d, 0).InFlight(), endpointOf(d, 1).InFlight()
		if a+b != i+1 || max(a, b)-min(a, b) > 1 {
			t.Fatalf("%d and %d calls in flight after %d", a, b, i+1)
		}
	}
}

func TestDeclaredFanOut(t *testing.T) {
	backends := startBackends(t, 2)
	d := startDaemon(t, Config{File: declare(t, `
frontends: [{name: f, listen: "127.0.0.1:0"}]
backends: {fleet: {endpoints: {node-a: "%s", node-b: "%s"}}}
routes:
  - match: {service: manifold.sample.v1.FleetService}
    fan_out: {backend: fleet, unary: [Describe], layout: {hostname: 1, error: 2, status: 3}}
    max_duration: 10s
`, backends[0].Addr(), backends[1].Addr())})
	fleet := samplepb.NewFleetServiceClient(connectTo(t, d, "f", insecure.NewCredentials()))

	resp, err := fleet.Describe(callContext(t), &samplepb.DescribeRequest{FailOn: "1"})
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, n := range resp.GetNodes() {
		got[n.GetMetadata().GetHostname()] = n.GetBackend() + n.GetMetadata().GetStatus().GetMessage()
	}
	if len(got) != 2 || got["node-a"] != "0" || !strings.Contains(got["node-b"], "fails") {
		t.Errorf("answers = %q", got)
	}

	watch, err := fleet.Watch(callContext(t), &samplepb.WatchRequest{Count: 2})
	if err != nil {
		t.Fatal(err)
	}
	nodes := map[string]int{}
	for node, err := watch.Recv(); err == nil; node, err = watch.Recv() {
		nodes[node.GetMetadata().GetHostname()]++
	}
	if nodes["node-a"] != 2 || nodes["node-b"] != 2 {
		t.Errorf("messages by source = %v", nodes)
	}
}

// A client's certificate is asked for, its identity passed on, and what the client says of itself is not.
func TestDeclaredMutualTLS(t *testing.T) {
	authority, clients, up := certtest.New(t), certtest.New(t), certtest.New(t)
	server, client, stranger := authority.Issue(t, "127.0.0.1"), clients.Issue(t, "client.example.com"), authority.Issue(t, "stranger")
	proxy := up.Issue(t, "proxy.internal")
	backend := startBackend(t, loopback, sample.Options{Name: "secure", TLS: &tls.Config{
		Certificates: []tls.Certificate{up.Issue(t, "secure.internal").Certificate}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: up.Pool,
	}})
	d := startDaemon(t, Config{File: declare(t, `
frontends:
  - {name: public, listen: "127.0.0.1:0", tls: {certificates: [{cert: "%s", key: "%s"}], client_ca: "%s"}}
  - {name: plain, listen: "unix:%s"}
backends: {b: {endpoints: ["%s"], tls: {ca: "%s", server_name: secure.internal, cert: "%s", key: "%s"}}}
routes: [{backend: b}]
`, server.CertFile, server.KeyFile, clients.File, socket(t, "plain").Addr, backend.Addr(), up.File, proxy.CertFile, proxy.KeyFile)})
	with := func(pair certtest.Pair) credentials.TransportCredentials {
		return credentials.NewTLS(&tls.Config{RootCAs: authority.Pool, Certificates: []tls.Certificate{pair.Certificate}})
	}

	resp, got, err := ask(t, connectTo(t, d, "public", with(client)), &samplepb.EchoRequest{}, identityHeader, "Subject=\"CN=forged\"")
	sum := sha256.Sum256(client.Leaf.Raw)
	want := "Hash=" + hex.EncodeToString(sum[:]) + `;Subject="CN=client.example.com";DNS="client.example.com"`
	if err != nil || resp.GetBackend() != "secure" || got[identityHeader] != want {
		t.Errorf("%s = %q, %v\nwant %q", identityHeader, got[identityHeader], err, want)
	}
	_, got, err = ask(t, connectTo(t, d, "plain", insecure.NewCredentials()), &samplepb.EchoRequest{}, identityHeader, "forged")
	if _, there := got[identityHeader]; err != nil || there {
		t.Errorf("without TLS %s = %q, %v; want none", identityHeader, got[identityHeader], err)
	}
	for name, creds := range map[string]credentials.TransportCredentials{
		"no certificate":       credentials.NewTLS(&tls.Config{RootCAs: authority.Pool}),
		"of another authority": with(stranger),
	} {
		if _, _, err := ask(t, connectTo(t, d, "public", creds), &samplepb.EchoRequest{}); status.Code(err) != codes.Unavailable {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Reflection needs a route of its name where strangers are.
func TestDeclaredGuard(t *testing.T) {
	pair := certtest.New(t).Issue(t, "127.0.0.1")
	backend := startBackends(t, 1)[0]
	const text = `
frontends:
  - {name: public, listen: "127.0.0.1:0", tls: {certificates: [{cert: "%s", key: "%s"}]}}
  - {name: plain, listen: "127.0.0.1:0"}
backends: {b: {endpoints: ["%s"]}}
routes: [{backend: b}%s]
`
	reflect := func(d *Daemon, frontend string) error {
		creds := insecure.NewCredentials()
		if frontend == "public" {
			creds = credentials.NewTLS(&tls.Config{InsecureSkipVerify: true})
		}
		stream, err := reflectionpb.NewServerReflectionClient(connectTo(t, d, frontend, creds)).ServerReflectionInfo(callContext(t))
		if err != nil {
			return err
		}
		if err := stream.Send(&reflectionpb.ServerReflectionRequest{MessageRequest: &reflectionpb.ServerReflectionRequest_ListServices{}}); err != nil {
			t.Log(err) // Recv has the status
		}
		_, err = stream.Recv()
		return err
	}

	d := startDaemon(t, Config{File: declare(t, text, pair.CertFile, pair.KeyFile, backend.Addr(), "")})
	if err := reflect(d, "public"); status.Code(err) != codes.Unimplemented || !strings.Contains(err.Error(), "denied here") {
		t.Errorf("with TLS: %v", err)
	}
	if err := reflect(d, "plain"); err != nil {
		t.Errorf("without TLS: %v", err)
	}
	named := startDaemon(t, Config{File: declare(t, text, pair.CertFile, pair.KeyFile, backend.Addr(), ", {match: {service: grpc.reflection.*}, backend: b}")})
	if err := reflect(named, "public"); err != nil {
		t.Errorf("with a route: %v", err)
	}
}

// A frontend that cannot be opened takes the others with it.
func TestDeclaredStartFails(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close() //nolint:errcheck // nothing was written
	first := filepath.Join(filepath.Dir(socket(t, "x").Addr), "first.sock")
	d, err := New(Config{File: declare(t, `
frontends: [{name: a, listen: "unix:%s"}, {name: b, listen: "%s"}]
`, first, taken.Addr())})
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Start(); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("error = %v", err)
	}
	if conn, err := net.Dial("unix", first); err == nil {
		_ = conn.Close()
		t.Error("the first frontend is still open")
	}
}

func TestFileBesideFlags(t *testing.T) {
	_, err := New(Config{File: &config.Config{}, Listen: loopback})
	if err == nil || !strings.Contains(err.Error(), "a file beside addresses") {
		t.Errorf("error = %v", err)
	}
}
