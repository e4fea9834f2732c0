// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if os.Getenv(asMain) != "" {
		os.Exit(mainProcess())
	}
	goleak.VerifyTestMain(m)
}

// run runs a command line that ends by itself.
func run(args ...string) (code int, stdout, stderr string) {
	var out, err bytes.Buffer
	code = Run(args, &out, &err, nil)

	return code, out.String(), err.String()
}

func TestBadCommandLines(t *testing.T) {
	absent := filepath.Join(t.TempDir(), "absent.pem")
	good := []string{"serve", "--listen", "127.0.0.1:0", "--to", "127.0.0.1:1"}

	tests := []struct {
		name string
		args []string
		want []string // a part of each line of stderr but the last
	}{
		{"unknown command", []string{"sevre"}, []string{`manifold: unknown command "sevre"`}},
		{"unknown flag", []string{"serve", "--lisen", ":1"}, []string{"manifold serve: unknown flag: --lisen"}},
		{"an argument", append(good, "x"), []string{`manifold serve: unknown command "x"`}},
		{"nothing", []string{"serve"}, []string{
			"manifold serve: --listen is missing: expected the address to take calls on, such as :8080",
			"manifold serve: --to is missing: expected the endpoints to forward to",
		}},
		{"all at once", []string{"serve", "--listen", "8080", "--to", "localhost,https://a/b"}, []string{
			`--listen "8080": missing port in address; expected host:port, :port, unix:///`,
			`--to "localhost": missing port in address; expected host:port, https://host:port, unix:///`,
			`--to "https://a/b": more than a scheme, a host and a port; expected host:port, https://`,
		}},
		{"endpoint twice", append(good, "--to", "127.0.0.1:1"), []string{`endpoint "127.0.0.1:1" is given twice`}},
		{"certificate alone", append(good, "--tls-cert", "a"), []string{"--tls-key is missing: expected the key of the certificate in --tls-cert"}},
		{"key alone", append(good, "--tls-key", "a"), []string{"--tls-cert is missing: expected the certificate of the key in --tls-key"}},
		{"certificate file", append(good, "--tls-cert", absent, "--tls-key", absent), []string{"absent.pem: no such file"}},
		{"CA without use", append(good, "--to-ca", absent), []string{"no endpoint is https://"}},
		{"CA file", []string{"serve", "--listen", ":0", "--to", "https://a", "--to-ca", absent}, []string{"absent.pem: no such file"}},
		{"no duration", append(good, "--drain-timeout", "x"), []string{`invalid argument "x" for "--drain-timeout"`}},
		{"negative delay", append(good, "--drain-delay", "-1s"), []string{"--drain-delay -1s: expected 0 or more"}},
		{"delay above timeout", append(good, "--drain-delay", "1m"), []string{"--drain-timeout 25s: expected at least --drain-delay, 1m0s"}},
		{"log level", append(good, "--log-level", "loud"), []string{`--log-level "loud": expected debug, info, warn or error`}},
		{"log format", append(good, "--log-format", "xml"), []string{`--log-format "xml": expected text, json or auto`}},
		{"flags beside a file", []string{"serve", "--config", "x", "--to", "a:1", "--listen", ":1", "--log-level", "loud"}, []string{
			"--listen beside --config: expected it in the file", "--to beside --config: expected it in the file", `--log-level "loud"`,
		}},
		{"no file to check", []string{"check"}, []string{"manifold check: 0 files: expected one configuration file"}},
		{"nothing to explain", []string{"explain"}, []string{"--config is missing: expected a configuration file", `--method "": expected /service/method`}},
		{"a call to explain", []string{"explain", "--config", "x", "--method", "a.S/M", "--metadata", "k"}, []string{
			`--method "a.S/M": expected /service/method`, `--metadata "k": expected key=value`,
		}},
		{"sample's address", []string{"sample", "--listen", "x"}, []string{`manifold sample: --listen "x": missing port`}},
		{"sample's key", []string{"sample", "--tls-cert", "a"}, []string{"manifold sample: --tls-key is missing"}},
		{"sample's log", []string{"sample", "--log-format", "xml"}, []string{`--log-format "xml"`}},
		{"top's flags", []string{"top", "--admin", "9901", "--sort", "speed", "--interval", "1ms"}, []string{
			`manifold top: --admin "9901": expected host:port`, `--sort "speed": expected order, name`, `--interval 1ms: expected at least 100ms`,
		}},
		{"demo's address", []string{"demo", "--listen", "x"}, []string{`manifold demo: --listen "x": missing port`}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			code, stdout, stderr := run(tt.args...)
			if code != exitUsage || stdout != "" {
				t.Errorf("exit code %d, stdout %q; want %d and nothing", code, stdout, exitUsage)
			}

			lines := strings.Split(strings.TrimSuffix(stderr, "\n"), "\n")
			if len(lines) != len(tt.want)+1 || !strings.Contains(lines[len(lines)-1], "--help' for usage.") {
				t.Fatalf("stderr has %d lines, want %d and a hint:\n%s", len(lines), len(tt.want), stderr)
			}
			for i, want := range tt.want {
				if !strings.Contains(lines[i], want) {
					t.Errorf("line %d = %q, want %q", i+1, lines[i], want)
				}
			}
		})
	}
}

// What fails for another reason than the command line has another exit code, and
// no hint about usage.
func TestFailures(t *testing.T) {
	directory := t.TempDir()
	for _, args := range [][]string{
		{"serve", "--listen", "unix:" + directory, "--to", "127.0.0.1:1", "--log-level", "error"},
		{"sample", "--listen", "unix:" + directory},
		{"sample", "--tls-cert", directory, "--tls-key", directory},
		{"demo", "--listen", "unix:" + directory},
	} {
		t.Run(args[0], func(t *testing.T) {
			code, _, stderr := run(args...)
			if code != exitFailed || !strings.Contains(stderr, directory) || strings.Contains(stderr, "usage") {
				t.Errorf("exit code %d, stderr %q; want %d and the path", code, stderr, exitFailed)
			}
		})
	}
}

func TestHelp(t *testing.T) {
	for _, args := range [][]string{{}, {"help"}, {"--help"}} {
		code, stdout, stderr := run(args...)
		if code != exitOK || stderr != "" {
			t.Errorf("%q: exit code %d, stderr %q", args, code, stderr)
		}
		for _, command := range []string{"serve", "check", "explain", "schema", "top", "demo", "sample", "version"} {
			if !strings.Contains(stdout, "\n  "+command+" ") {
				t.Errorf("%q: no %s in\n%s", args, command, stdout)
			}
		}
	}
}

func TestVersion(t *testing.T) {
	code, stdout, _ := run("version")
	if code != exitOK || !strings.HasPrefix(stdout, "manifold "+version()+" go1.") {
		t.Errorf("exit code %d, stdout %q", code, stdout)
	}
}

// brokenPipe is a reader gone away.
type brokenPipe struct{}

var errBroken = errors.New("broken pipe")

func (brokenPipe) Write([]byte) (int, error) { return 0, errBroken }

func TestOutputFails(t *testing.T) {
	for _, args := range [][]string{{"version"}, {"demo"}} {
		var stderr bytes.Buffer
		if code := Run(args, brokenPipe{}, &stderr, nil); code != exitFailed || !strings.Contains(stderr.String(), errBroken.Error()) {
			t.Errorf("%q: exit code %d, stderr %q", args, code, stderr.String())
		}
	}
}

// process is a command that runs until it is told to end.
type process struct {
	signals chan os.Signal
	lines   chan string   // of stderr
	ended   chan struct{} // closed when exit is set
	exit    int
}

// start runs a command whose log the test reads. It has ended when the test has.
func start(t *testing.T, stdout io.WriteCloser, args ...string) *process {
	t.Helper()

	p := &process{
		signals: make(chan os.Signal, 2),
		lines:   make(chan string, 1000),
		ended:   make(chan struct{}),
	}
	go func() { // until a signal
		defer close(p.ended)
		p.exit = Run(args, stdout, lineWriter{p.lines}, p.signals)
		_ = stdout.Close() // a pipe or nothing, for both of which it cannot fail
	}()
	t.Cleanup(func() {
		for range cap(p.signals) {
			select {
			case p.signals <- syscall.SIGTERM:
			default:
			}
		}
		<-p.ended
	})

	return p
}

// line returns the next line that has text in it.
func (p *process) line(ctx context.Context, t *testing.T, text string) string {
	t.Helper()

	for {
		select {
		case line := <-p.lines:
			if strings.Contains(line, text) {
				return line
			}
		case <-ctx.Done():
			t.Fatalf("no %q in the log", text)
		}
	}
}

// wait returns the exit code.
func (p *process) wait(ctx context.Context, t *testing.T) int {
	t.Helper()

	select {
	case <-p.ended:
		return p.exit
	case <-ctx.Done():
		t.Fatal("does not end")
		return 0
	}
}

// lineWriter passes on what is written, which slog does a line at a time.
type lineWriter struct{ lines chan<- string }

func (w lineWriter) Write(p []byte) (int, error) {
	w.lines <- string(p)

	return len(p), nil
}

// discard is a stdout that nobody reads.
type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }
func (discard) Close() error                { return nil }
