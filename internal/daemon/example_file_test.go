// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"crypto/tls"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/manifold-grpc/manifold/internal/certtest"
	"github.com/manifold-grpc/manifold/internal/sample"
	"github.com/manifold-grpc/manifold/internal/sample/samplepb"
)

// TestExampleFile runs examples/manifold.yaml with addresses and certificates of the test's, and
// makes the calls that its comments speak of.
func TestExampleFile(t *testing.T) {
	authority := certtest.New(t)
	server, client := authority.Issue(t, "127.0.0.1", "api.example.com"), authority.Issue(t, "client")
	backends := startBackends(t, 2)
	next := startBackend(t, loopback, sample.Options{Name: "next", TLS: &tls.Config{
		Certificates: []tls.Certificate{server.Certificate}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: authority.Pool,
	}})
	file := loadExample(t, "manifold.yaml", t.TempDir(),
		`":8443"`, "127.0.0.1:0", "unix:manifold.sock", "unix:"+socket(t, "m").Addr,
		"127.0.0.1:50051", backends[0].Addr().String(), "127.0.0.1:50052", backends[1].Addr().String(), "localhost:50053", next.Addr().String(),
		"ca.crt", authority.File, "server.crt", server.CertFile, "server.key", server.KeyFile, "client.crt", client.CertFile, "client.key", client.KeyFile,
	)
	d := startDaemon(t, Config{File: file})
	public := connectTo(t, d, "public", credentials.NewTLS(&tls.Config{RootCAs: authority.Pool, Certificates: []tls.Certificate{client.Certificate}}),
		grpc.WithAuthority("api.example.com"))
	local := connectTo(t, d, "local", insecure.NewCredentials())

	seen := map[string]int{}
	for range 20 {
		resp, got, err := ask(t, public, &samplepb.EchoRequest{}, "x-debug", "1")
		if err != nil || got["x-debug"] != "" || got["x-via"] != "manifold" || !strings.Contains(got[identityHeader], "CN=client") {
			t.Fatalf("metadata %v, %v", got, err)
		}
		seen[resp.GetBackend()]++
	}
	if seen["next"] < 1 || seen["next"] > 3 || seen["0"] == 0 || seen["1"] == 0 {
		t.Errorf("canary: %v of 20 calls, want about 2 of next", seen)
	}
	if resp, _, err := ask(t, local, &samplepb.EchoRequest{}, "x-version", "next"); err != nil || resp.GetBackend() != "next" {
		t.Errorf("who asks for the next version has %q, %v", resp.GetBackend(), err)
	}
	fleet, err := samplepb.NewFleetServiceClient(public).Describe(callContext(t), &samplepb.DescribeRequest{})
	var sources []string
	for _, n := range fleet.GetNodes() {
		sources = append(sources, n.GetMetadata().GetHostname())
	}
	if slices.Sort(sources); err != nil || !slices.Equal(sources, []string{"node-a", "node-b"}) {
		t.Errorf("one to many: %q, %v", sources, err)
	}
}
