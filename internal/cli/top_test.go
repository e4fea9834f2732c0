// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"encoding/json"
	"net"
	"strings"
	"testing"

	"github.com/manifold-grpc/manifold/internal/sample/samplepb"
)

// A look at a daemon of which one endpoint is down, after calls.
func TestTop(t *testing.T) {
	ctx := testContext(t)
	backend, addr := startSample(ctx, t, "one")
	proxy := start(t, discard{}, "serve", "--listen", "127.0.0.1:0", "--to", addr+",127.0.0.1:1", "--admin", "127.0.0.1:0", "--log-format", "json")
	var entry struct{ URL string }
	if err := json.Unmarshal([]byte(proxy.line(ctx, t, "admin endpoint")), &entry); err != nil {
		t.Fatal(err)
	}
	c := client(t, proxy.address(ctx, t))
	stream := chat(ctx, t, c)
	if _, err := c.Echo(ctx, &samplepb.EchoRequest{}); err != nil {
		t.Fatal(err)
	}

	code, stdout, stderr := run("top", "--once", "--admin", entry.URL)
	if code != exitOK || stderr != "" {
		t.Fatalf("exit code %d, stderr %q", code, stderr)
	}
	for _, want := range []string{"serving", "1 in flight", "default", "1 of 2 ready", addr, "failing", "127.0.0.1:1: dial tcp", "→ default"} {
		if !strings.Contains(stdout, want) {
			t.Errorf("no %q in\n%s", want, stdout)
		}
	}
	if err := stream.CloseSend(); err != nil {
		t.Error(err)
	}
	proxy.end(ctx, t)
	backend.end(ctx, t)
}

func TestTopWithoutDaemon(t *testing.T) {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := lis.Addr().String()
	if err := lis.Close(); err != nil {
		t.Fatal(err)
	}
	code, _, stderr := run("top", "--admin", addr)
	want := "manifold top: nothing listens on " + addr + ": expected a daemon with admin.listen in its file, or --admin\n"
	if code != exitFailed || stderr != want {
		t.Errorf("exit code %d, stderr %q, want %q", code, stderr, want)
	}
}
