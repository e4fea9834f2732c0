// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

//go:build unix

package cli

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/manifold-grpc/manifold/internal/sample/samplepb"
)

// A process that is started as systemd starts one, with a socket and a name for it, listens there, and leaves it open.
func TestSocketActivation(t *testing.T) {
	ctx := testContext(t)
	backend, addr := startSample(ctx, t, "one")
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer lis.Close() //nolint:errcheck // as systemd, which keeps it
	socket, err := lis.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close() //nolint:errcheck // likewise
	file := filepath.Join(t.TempDir(), "manifold.yaml")
	text := fmt.Sprintf("frontends: [{name: f, listen: \"systemd:web\"}]\nbackends: {b: {endpoints: [%q]}}\nroutes: [{backend: b}]\n", addr)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}

	for range 2 { // one after the other, on the same socket
		// Only the process itself knows its LISTEN_PID.
		cmd := exec.Command("/bin/sh", "-c", `LISTEN_PID=$$ exec "$0" "$@"`, os.Args[0], "serve", "--config", file)
		cmd.Env = append(os.Environ(), asMain+"=1", "LISTEN_FDS=1", "LISTEN_FDNAMES=web")
		cmd.ExtraFiles = []*os.File{socket}
		cmd.Stderr = testWriter{t}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		// The call waits in the socket's backlog for the process to start.
		if resp, err := client(t, lis.Addr().String()).Echo(ctx, &samplepb.EchoRequest{}); err != nil || resp.GetBackend() != "one" {
			t.Errorf("answer of %q, %v", resp.GetBackend(), err)
		}
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("the process ends with %v", err)
		}
	}
	backend.end(ctx, t)
}

// testWriter writes to the test's log.
type testWriter struct{ t *testing.T }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Logf("%s", p)

	return len(p), nil
}
