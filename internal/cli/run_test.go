// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"encoding/json"
	"io"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/manifold-grpc/manifold/internal/sample/samplepb"
)

// testContext bounds all that a test waits for.
func testContext(t *testing.T) context.Context {
	t.Helper()

	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)

	return ctx
}

// address returns where a process listens, from its log in JSON.
func (p *process) address(ctx context.Context, t *testing.T) string {
	t.Helper()

	var entry struct{ Address string }
	if err := json.Unmarshal([]byte(p.line(ctx, t, "listening")), &entry); err != nil {
		t.Fatal(err)
	}

	return entry.Address
}

// end sends a signal and wants the process to end well.
func (p *process) end(ctx context.Context, t *testing.T) {
	t.Helper()

	p.signals <- syscall.SIGTERM
	if code := p.wait(ctx, t); code != exitOK {
		t.Errorf("exit code %d", code)
	}
}

func client(t *testing.T, addr string) samplepb.EchoServiceClient {
	t.Helper()

	conn, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	})

	return samplepb.NewEchoServiceClient(conn)
}

// chat opens a call that stays in flight.
func chat(ctx context.Context, t *testing.T, c samplepb.EchoServiceClient) grpc.BidiStreamingClient[samplepb.EchoRequest, samplepb.EchoResponse] {
	t.Helper()

	stream, err := c.Chat(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Header(); err != nil {
		t.Fatal(err)
	}

	return stream
}

func startSample(ctx context.Context, t *testing.T, name string) (p *process, addr string) {
	t.Helper()

	p = start(t, discard{}, "sample", "--listen", "127.0.0.1:0", "--name", name, "--log-format", "json")

	return p, p.address(ctx, t)
}

// Two sample commands behind a serve command, as the help has it.
func TestServe(t *testing.T) {
	ctx := testContext(t)
	one, oneAddr := startSample(ctx, t, "one")
	two, twoAddr := startSample(ctx, t, "two")
	proxy := start(t, discard{}, "serve", "--listen", "127.0.0.1:0", "--to", oneAddr+","+twoAddr, "--log-format", "json")
	c := client(t, proxy.address(ctx, t))

	for _, want := range []string{"one", "two", "one"} {
		if resp, err := c.Echo(ctx, &samplepb.EchoRequest{}); err != nil || resp.GetBackend() != want {
			t.Errorf("answer = %v, %v; want one of %q", resp, err, want)
		}
	}

	// The first signal lets a call finish.
	stream := chat(ctx, t, c)
	proxy.signals <- syscall.SIGTERM
	proxy.line(ctx, t, "draining")
	if err := stream.Send(&samplepb.EchoRequest{Text: "last"}); err != nil {
		t.Fatal(err)
	}
	if resp, err := stream.Recv(); err != nil || resp.GetText() != "last" {
		t.Errorf("answer while draining = %v, %v", resp, err)
	}
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	proxy.line(ctx, t, "stopped")
	if code := proxy.wait(ctx, t); code != exitOK {
		t.Errorf("exit code %d", code)
	}

	one.end(ctx, t)
	two.end(ctx, t)
}

// What ends a drain before the last call does: the second signal, or the time.
func TestServeCutsOff(t *testing.T) {
	tests := []struct {
		name    string
		flags   []string
		signals []os.Signal
		cause   string
	}{
		{"second signal", nil, []os.Signal{syscall.SIGTERM, os.Interrupt}, "second signal: interrupt"},
		{"timeout", []string{"--drain-timeout", "1ms"}, []os.Signal{syscall.SIGTERM}, "not done within --drain-timeout 1ms"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ctx := testContext(t)
			backend, addr := startSample(ctx, t, "one")
			args := append([]string{"serve", "--listen", "127.0.0.1:0", "--to", addr, "--log-format", "json"}, tt.flags...)
			proxy := start(t, discard{}, args...)
			stream := chat(ctx, t, client(t, proxy.address(ctx, t)))

			for _, s := range tt.signals {
				proxy.signals <- s
			}
			if line := proxy.line(ctx, t, "calls cut off"); !strings.Contains(line, tt.cause) || !strings.Contains(line, `"calls":1`) {
				t.Errorf("log = %q, want one call and the cause %q", line, tt.cause)
			}
			if code := proxy.wait(ctx, t); code != exitOK {
				t.Errorf("exit code %d", code)
			}
			if _, err := stream.Recv(); status.Code(err) != codes.Unavailable {
				t.Errorf("the call ends with %v, want Unavailable", err)
			}
			backend.end(ctx, t)
		})
	}
}

// The demo keeps running until a signal, with --keep alone.
func TestDemoKeep(t *testing.T) {
	ctx := testContext(t)
	out, in := io.Pipe()
	demo := start(t, in, "demo", "--keep")

	var text strings.Builder
	for buf := make([]byte, 4096); !strings.Contains(text.String(), "Ctrl-C ends it"); {
		n, err := out.Read(buf)
		if err != nil {
			t.Fatalf("%v after\n%s", err, text.String())
		}
		text.Write(buf[:n])
	}
	_, rest, _ := strings.Cut(text.String(), "grpcurl -plaintext ")
	addr, _, _ := strings.Cut(rest, " ")
	if _, err := client(t, addr).Echo(ctx, &samplepb.EchoRequest{}); err != nil {
		t.Errorf("a call to %s, which the demo names: %v", addr, err)
	}

	demo.end(ctx, t)
}
