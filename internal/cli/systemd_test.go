// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

//go:build unix

package cli

import (
	"crypto/tls"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/coreos/go-systemd/v22/unit"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/manifold-grpc/manifold/internal/exampletest"
	"github.com/manifold-grpc/manifold/internal/sample/samplepb"
)

// activated returns the command of a process that is started as systemd starts one, with sockets and
// names for them.
func activated(t *testing.T, sockets []*os.File, names string, args ...string) *exec.Cmd {
	t.Helper()

	// Only the process itself knows its LISTEN_PID.
	cmd := exec.Command("/bin/sh", append([]string{"-c", `LISTEN_PID=$$ exec "$0" "$@"`, os.Args[0]}, args...)...)
	cmd.Env = append(os.Environ(), asMain+"=1", fmt.Sprintf("LISTEN_FDS=%d", len(sockets)), "LISTEN_FDNAMES="+names)
	cmd.ExtraFiles = sockets
	cmd.Stderr = testWriter{t}

	return cmd
}

// listenFor listens as systemd does, and returns the socket to hand on. Both stay open until the test's end.
func listenFor(t *testing.T, network, address string) (net.Listener, *os.File) {
	t.Helper()

	lis, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = lis.Close() })
	socket, err := lis.(interface{ File() (*os.File, error) }).File()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = socket.Close() })

	return lis, socket
}

// A process that is started with a socket and a name for it listens there, and leaves it open.
func TestSocketActivation(t *testing.T) {
	ctx := testContext(t)
	backend, addr := startSample(ctx, t, "one")
	lis, socket := listenFor(t, "tcp", "127.0.0.1:0")
	file := filepath.Join(t.TempDir(), "manifold.yaml")
	text := fmt.Sprintf("frontends: [{name: f, listen: \"systemd:web\"}]\nbackends: {b: {endpoints: [%q]}}\nroutes: [{backend: b}]\n", addr)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}

	for range 2 { // one after the other, on the same socket
		cmd := activated(t, []*os.File{socket}, "web", "serve", "--config", file)
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

// unitFile is what a unit file says: the values of each key, by "section.key".
type unitFile map[string][]string

func readUnit(t *testing.T, name string) unitFile {
	t.Helper()

	options, err := unit.DeserializeOptions(strings.NewReader(exampletest.Read(t, "systemd/"+name)))
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	u := unitFile{}
	for _, o := range options {
		key := o.Section + "." + o.Name
		u[key] = append(u[key], o.Value)
	}

	return u
}

// one returns the only value of a key.
func (u unitFile) one(t *testing.T, key string) string {
	t.Helper()

	if len(u[key]) != 1 {
		t.Fatalf("%s = %q, want one value", key, u[key])
	}

	return u[key][0]
}

// TestSystemdExample starts the service of examples/systemd by its own command line, with the sockets and the
// names of its socket units, calls it by both, and reloads it by its own commands.
func TestSystemdExample(t *testing.T) {
	ctx := testContext(t)
	service := readUnit(t, "manifold.service")
	command := strings.Fields(service.one(t, "Service.ExecStart"))
	backend, addr := startSample(ctx, t, "one")
	dir := exampletest.Certificates(t, "certificates.sh")
	file := exampletest.Copy(t, "systemd/manifold.yaml", dir, `["localhost:50051", "localhost:50052"]`, "["+addr+"]", "127.0.0.1:9901", "127.0.0.1:0")
	const installed = "/etc/manifold/manifold.yaml"
	for i, arg := range command {
		command[i] = strings.Replace(arg, installed, file, 1)
	}

	public, publicSocket := listenFor(t, "tcp", "127.0.0.1:0")
	local, localSocket := listenFor(t, "unix", filepath.Join(dir, "m.sock"))
	names := readUnit(t, "manifold.socket").one(t, "Socket.FileDescriptorName") + ":" +
		readUnit(t, "manifold-local.socket").one(t, "Socket.FileDescriptorName")
	bus := notifications(t)
	cmd := activated(t, []*os.File{publicSocket, localSocket}, names, command[1:]...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	bus.wants(t, "READY=1") // Type=notify
	if kind := service.one(t, "Service.Type"); kind != "notify" {
		t.Errorf("Type=%s, want notify", kind)
	}
	creds := credentials.NewTLS(&tls.Config{RootCAs: exampletest.Pool(t, dir, "ca.crt"), ServerName: "localhost"})
	conn, err := grpc.NewClient("passthrough:///"+public.Addr().String(), grpc.WithTransportCredentials(creds))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close() //nolint:errcheck // the test is over
	if _, err := samplepb.NewEchoServiceClient(conn).Echo(ctx, &samplepb.EchoRequest{}); err != nil {
		t.Errorf("by TLS: %v", err)
	}
	if _, err := client(t, "unix:"+local.Addr().String()).Echo(ctx, &samplepb.EchoRequest{}); err != nil {
		t.Errorf("by the Unix socket: %v", err)
	}

	reload := service["Service.ExecReload"]
	if len(reload) != 2 || reload[0] != "/usr/bin/manifold check "+installed || reload[1] != "/bin/kill -HUP $MAINPID" {
		t.Fatalf("ExecReload = %q, want a check and a SIGHUP", reload)
	}
	if code, _, stderr := run("check", file); code != exitOK {
		t.Errorf("the check says %s", stderr)
	}
	if err := cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	bus.wants(t, "RELOADING=1")
	bus.wants(t, "READY=1")
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	bus.wants(t, "STOPPING=1")
	if err := cmd.Wait(); err != nil {
		t.Errorf("the process ends with %v", err)
	}
	backend.end(ctx, t)
}

// TestSystemdVerify has systemd look at the units, with programs that are there.
func TestSystemdVerify(t *testing.T) {
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("no systemd-analyze")
	}
	if said := verifyUnits(t, analyze, ""); said != "" {
		t.Errorf("systemd-analyze verify:\n%s", said)
	}
	// It does see mistakes.
	if said := verifyUnits(t, analyze, "ProtectSytem=yes\n"); !strings.Contains(said, "ProtectSytem") {
		t.Errorf("systemd-analyze verify is silent about a misspelt key:\n%s", said)
	}
}

// verifyUnits returns what systemd says of copies of the units, with more in the service.
func verifyUnits(t *testing.T, analyze, more string) string {
	t.Helper()

	dir := t.TempDir()
	args := []string{"verify"}
	for _, name := range []string{"manifold.service", "manifold.socket", "manifold-local.socket"} {
		var oldnew []string
		if name == "manifold.service" {
			oldnew = []string{"/usr/bin/manifold ", os.Args[0] + " ", "[Service]\n", "[Service]\n" + more}
		}
		args = append(args, exampletest.Copy(t, "systemd/"+name, dir, oldnew...))
	}
	out, err := exec.CommandContext(testContext(t), analyze, args...).CombinedOutput()
	if err != nil && len(out) == 0 {
		t.Fatal(err)
	}

	return string(out)
}

// testWriter writes to the test's log.
type testWriter struct{ t *testing.T }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Logf("%s", p)

	return len(p), nil
}
