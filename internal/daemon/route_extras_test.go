// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/manifold-grpc/manifold/internal/sample"
	"github.com/manifold-grpc/manifold/internal/sample/samplepb"
)

// A route changes the headers of answers, and leaves trailers.
func TestDeclaredResponseHeaders(t *testing.T) {
	backend := startBackends(t, 1)[0]
	d := startDaemon(t, Config{File: declare(t, `
frontends: [{name: f, listen: "127.0.0.1:0"}]
backends: {b: {endpoints: ["%s"]}}
routes:
  - {match: {metadata: {plain: "1"}}, backend: b}
  - {backend: b, response_headers: {remove: [%s], set: {x-via: manifold}, add: {x-two: "2", x-one: "1"}}}
`, backend.Addr(), sample.BackendHeader)})
	client := samplepb.NewEchoServiceClient(connectTo(t, d, "f", insecure.NewCredentials()))
	for range 3 {
		for _, plain := range []bool{true, false} {
			ctx, want := callContext(t), 0
			if plain {
				ctx, want = metadata.AppendToOutgoingContext(ctx, "plain", "1"), 1
			}
			var header metadata.MD
			if _, err := client.Echo(ctx, &samplepb.EchoRequest{}, grpc.Header(&header)); err != nil {
				t.Fatal(err)
			}
			if len(header[sample.BackendHeader]) != want || len(header["x-via"]) != 1-want || len(header["x-one"]) != 1-want || len(header["x-two"]) != 1-want {
				t.Errorf("plain %v: header = %v", plain, header)
			}
		}
	}
}

// Methods that a route does not let through are denied, and go to no other route.
func TestDeclaredMethods(t *testing.T) {
	d := startRoutes(t, `
  - {backend: v3}
  - {match: {service: a.S}, backend: v1, methods: {allow: [Get, /a.S/List]}}
  - {match: {service: b.*}, backend: v2, methods: {deny: [Drop, /b.T/Get]}}
`)
	conn := connectTo(t, d, "f", insecure.NewCredentials())
	denied := codes.PermissionDenied.String()
	for path, want := range map[string]string{
		"/a.S/Get": "v1", "/a.S/List": "v1", "/a.S/Put": denied,
		"/b.S/Get": "v2", "/b.S/Drop": denied, "/b.T/Get": denied, "/b.T/Put": "v2",
		"/c.S/Drop": "v3",
	} {
		if got := answerer(callContext(t), conn, path); got != want {
			t.Errorf("%s: %s, want %s", path, got, want)
		}
	}
}

// A call of which nothing moves ends; others do not.
func TestDeclaredIdleTimeout(t *testing.T) {
	backend := startBackends(t, 1)[0]
	d := startDaemon(t, Config{File: declare(t, `
frontends: [{name: f, listen: "127.0.0.1:0"}]
backends: {b: {endpoints: ["%s"]}}
routes:
  - {match: {service: %s}, backend: b}
  - {match: {service: %[2]s, method: Chat}, backend: b, idle_timeout: 200ms}
`, backend.Addr(), echoService)})
	conn := connectTo(t, d, "f", insecure.NewCredentials())
	chat := openChat(t, conn)
	if err := chat.Send(&samplepb.EchoRequest{Text: "hi"}); err != nil {
		t.Fatal(err)
	}
	if _, err := chat.Recv(); err != nil {
		t.Fatal(err)
	}
	_, err := chat.Recv()
	if status.Code(err) != codes.DeadlineExceeded || !strings.Contains(err.Error(), "nothing moved for 200ms") {
		t.Errorf("error = %v", err)
	}
	if who, err := echo(callContext(t), conn); err != nil || who != "0" {
		t.Errorf("answer of %q, %v", who, err)
	}
}
