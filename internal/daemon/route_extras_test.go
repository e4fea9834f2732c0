// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

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
