// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

//go:build unix

package relay_test

import (
	"bufio"
	"context"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/manifold-grpc/manifold/relay"
)

// backendEnv has the test binary be a backend instead: it serves echo on that address until its standard
// input ends.
const backendEnv = "MANIFOLD_TEST_BACKEND"

func init() {
	if addr := os.Getenv(backendEnv); addr != "" {
		backendProcess(addr)
	}
}

func backendProcess(addr string) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		os.Stdout.WriteString(err.Error() + "\n") //nolint:errcheck // the test fails either way
		os.Exit(1)
	}
	s := grpc.NewServer(grpc.UnknownServiceHandler(named("child")), grpc.ForceServerCodec(octets{"octets"}))
	go s.Serve(l)                                           //nolint:errcheck // ends with the process
	os.Stdout.WriteString("on " + l.Addr().String() + "\n") //nolint:errcheck // likewise
	io.Copy(io.Discard, os.Stdin)                           //nolint:errcheck // its end is what counts
	os.Exit(0)
}

// child runs a backend in a process of its own, which ends with the test at the latest.
func child(t *testing.T, addr string) (p *os.Process, at string) {
	t.Helper()
	cmd := exec.Command(must(os.Executable())(t), "-test.run=^$")
	cmd.Env = append(os.Environ(), backendEnv+"="+addr)
	in, out := must(cmd.StdinPipe())(t), must(cmd.StdoutPipe())(t)
	check(t, cmd.Start())
	t.Cleanup(func() {
		in.Close()
		cmd.Process.Kill()
		cmd.Wait()
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	at, ok := strings.CutPrefix(strings.TrimSpace(line), "on ")
	if !ok {
		t.Fatalf("the child said %q, %v", line, err)
	}
	return cmd.Process, at
}

// A backend process that is stopped (SIGSTOP): its kernel still takes octets, and nobody answers. Calls with a
// deadline end in time, those without when a PING stays without an answer, and when it goes on it is used again.
func TestProcessStopped(t *testing.T) {
	t.Parallel()
	p, addr := child(t, "127.0.0.1:0")
	r := start(t, rigConfig{endpoint: relay.EndpointConfig{KeepaliveTime: time.Second, KeepaliveTimeout: time.Second, ConnectTimeout: time.Second}}, addr)
	cc := dial(t, r.addr)
	must(unary(within(t), cc, "/a.B/C", "before"))(t)

	check(t, p.Signal(syscall.SIGSTOP))
	var ws syscall.WaitStatus
	if _, err := syscall.Wait4(p.Pid, &ws, syscall.WUNTRACED, nil); err != nil || !ws.Stopped() { // the signal takes its time
		t.Fatalf("the process did not stop: %v, %v", ws, err)
	}
	begin := time.Now()
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
			defer cancel()
			if _, err := unary(ctx, cc, "/a.B/C", "m"); status.Code(err) != codes.DeadlineExceeded {
				t.Errorf("a call with a deadline at a stopped process ended with %v", err)
			}
		})
		wg.Go(func() {
			_, err := unary(within(t), cc, "/a.B/C", "m")
			if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), addr) {
				t.Errorf("a call without a deadline at a stopped process ended with %v", err)
			}
		})
	}
	wg.Wait()
	t.Logf("calls without a deadline ended after %v, with PINGs after 1 s", time.Since(begin).Round(time.Millisecond))

	check(t, p.Signal(syscall.SIGCONT))
	begin = time.Now()
	eventually(t, func() bool {
		_, err := unary(within(t), cc, "/a.B/C", "after")
		return err == nil
	}, "a call to be served after the process went on")
	t.Logf("served again %v after it went on", time.Since(begin).Round(time.Millisecond))
	if n := r.backend.Endpoints[0].InFlight(); n != 0 {
		t.Errorf("%d calls are left at the endpoint", n)
	}
}

// A backend process that is killed in the middle of streams (SIGKILL): each caller is told at once, and another
// process at the same address serves the next calls.
func TestProcessKilled(t *testing.T) {
	t.Parallel()
	p, addr := child(t, "127.0.0.1:0")
	r := start(t, rigConfig{endpoint: relay.EndpointConfig{BackoffBase: 20e6, BackoffMax: 50e6}}, addr)
	cc := dial(t, r.addr)
	var streams []grpc.ClientStream
	for range 50 {
		st := must(cc.NewStream(within(t), bidi, "/a.B/C"))(t)
		check(t, send(st, "m"))
		if out := must(recv(st))(t); out != "m" {
			t.Fatalf("got %q", out)
		}
		streams = append(streams, st)
	}
	check(t, p.Kill())
	begin := time.Now()
	for _, st := range streams {
		if _, err := recv(st); status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "endpoint "+addr) {
			t.Errorf("a stream at the killed process ended with %v", err)
		}
	}
	t.Logf("50 streams ended within %v", time.Since(begin).Round(time.Millisecond))
	eventually(t, func() bool { return r.backend.Endpoints[0].State() == relay.Failing }, "the endpoint to fail")
	child(t, addr)
	eventually(t, func() bool {
		_, err := unary(within(t), cc, "/a.B/C", "after")
		return err == nil
	}, "a call to be served by the next process")
}
