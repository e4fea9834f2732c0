// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

// Package clients runs clients of other makes against the daemon: the real
// binary, in processes of its own, with sample backends behind it. README.md says
// how to run it and what it needs.
package clients

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/manifold-grpc/manifold/internal/certtest"
)

const (
	// startTimeout is how long a process may take until it listens, and to end.
	startTimeout = 20 * time.Second
	// suiteTimeout bounds one client's whole suite.
	suiteTimeout = 3 * time.Minute
	// sampleProto is the file of the sample services.
	sampleProto = "../internal/sample/samplepb/sample.proto"
)

var backendNames = []string{"one", "two", "three"}

// binary is the manifold to test: $MANIFOLD, or one that TestMain has built.
var binary = os.Getenv("MANIFOLD")

func TestMain(m *testing.M) {
	os.Exit(func() int {
		if binary != "" {
			return m.Run()
		}

		dir, err := os.MkdirTemp("", "manifold")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		binary = filepath.Join(dir, "manifold")
		if err := build(binary, "..", "./cmd/manifold"); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}

		return m.Run()
	}())
}

// build builds the package of the module in dir.
func build(out, dir, pkg string) error {
	cmd := exec.Command("go", "build", "-o", out, pkg)
	cmd.Dir = dir
	if text, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build %s: %w\n%s", pkg, err, text)
	}

	return nil
}

// target is a running proxy with the sample backends behind it.
type target struct {
	addr string
	ca   string // PEM file to trust, "" for plaintext
}

// environment is what a suite in another language is told.
func (g target) environment(t *testing.T) []string {
	t.Helper()

	proto, err := filepath.Abs(sampleProto)
	if err != nil {
		t.Fatal(err)
	}

	return append(os.Environ(),
		"MANIFOLD_TARGET="+g.addr,
		"MANIFOLD_CA="+g.ca,
		"MANIFOLD_BACKENDS="+strings.Join(backendNames, ","),
		"MANIFOLD_SAMPLE_PROTO="+proto,
		// The way to the proxy is direct.
		"NO_PROXY=127.0.0.1", "no_proxy=127.0.0.1",
	)
}

// overEach runs check against a plaintext and a TLS proxy.
func overEach(t *testing.T, check func(*testing.T, target)) {
	t.Run("plaintext", func(t *testing.T) { check(t, start(t)) })
	t.Run("tls", func(t *testing.T) {
		authority := certtest.New(t)
		pair := authority.Issue(t, "127.0.0.1")
		g := start(t, "--tls-cert", pair.CertFile, "--tls-key", pair.KeyFile)
		g.ca = authority.File
		check(t, g)
	})
}

// start runs three backends and a proxy; the test's end stops them.
func start(t *testing.T, flags ...string) target {
	t.Helper()

	var backends []string
	for _, name := range backendNames {
		backends = append(backends, run(t, "sample", "--listen", "127.0.0.1:0", "--name", name))
	}
	flags = append([]string{"serve", "--listen", "127.0.0.1:0", "--to", strings.Join(backends, ",")}, flags...)

	return target{addr: run(t, flags...)}
}

// run runs a command of the binary and returns the address it listens on.
func run(t *testing.T, args ...string) string {
	t.Helper()

	cmd := exec.Command(binary, append(args, "--log-format", "json")...)
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	log := &logReader{listening: make(chan string, 1), ended: make(chan struct{})}
	go log.read(stderr) // until the process ends
	t.Cleanup(func() { stop(t, cmd, log) })

	select {
	case addr := <-log.listening:
		return addr
	case <-log.ended:
		t.Fatalf("%s ends at once:\n%s", args[0], log.text())
	case <-time.After(startTimeout):
		t.Fatalf("%s does not listen within %v:\n%s", args[0], startTimeout, log.text())
	}

	return ""
}

// stop ends a process by the signal for it and wants it to end well.
func stop(t *testing.T, cmd *exec.Cmd, log *logReader) {
	t.Helper()

	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Errorf("%s: %v", cmd, err)
	}
	kill := time.AfterFunc(startTimeout, func() { _ = cmd.Process.Kill() }) // may be gone by then
	defer kill.Stop()

	<-log.ended // before Wait, which closes the pipe
	if err := cmd.Wait(); err != nil {
		t.Errorf("%s ends with %v", cmd.Args[1], err)
	}
	if t.Failed() {
		t.Logf("log of %s:\n%s", cmd.Args[1], log.text())
	}
}

// logReader reads the log of a process.
type logReader struct {
	listening chan string   // gets the address
	ended     chan struct{} // closed at the end of the log

	mu    sync.Mutex
	lines strings.Builder
}

func (r *logReader) read(from io.Reader) {
	defer close(r.ended)

	for scanner := bufio.NewScanner(from); scanner.Scan(); {
		r.mu.Lock()
		fmt.Fprintln(&r.lines, scanner.Text())
		r.mu.Unlock()

		var entry struct{ Msg, Address string }
		if json.Unmarshal(scanner.Bytes(), &entry) == nil && entry.Msg == "listening" {
			r.listening <- entry.Address
		}
	}
}

func (r *logReader) text() string {
	r.mu.Lock()
	defer r.mu.Unlock()

	return r.lines.String()
}

// need finds a program. A suite that cannot run has not passed, so a missing one
// is a failure, which says what to install.
func need(t *testing.T, program, install string) string {
	t.Helper()

	path, err := exec.LookPath(program)
	if err != nil {
		t.Fatalf("needs %s: %s", program, install)
	}

	return path
}

// suite runs a suite in another language to its end. Its output is shown by
// go test -v, or if it fails.
func suite(t *testing.T, dir string, env []string, program string, args ...string) {
	t.Helper()

	ctx, cancel := context.WithTimeout(t.Context(), suiteTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir, cmd.Env = dir, env
	// The program may have started others that keep its output open.
	cmd.WaitDelay = time.Second
	out, err := cmd.CombinedOutput()
	t.Logf("%s\n%s", cmd, out)
	if err != nil {
		t.Error(errors.Join(err, context.Cause(ctx)))
	}
}
