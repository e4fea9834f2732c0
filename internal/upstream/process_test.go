// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

//go:build unix

package upstream

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/manifold-grpc/manifold/internal/address"
	"github.com/manifold-grpc/manifold/internal/config"
	"github.com/manifold-grpc/manifold/relay"
)

// childEnv has the test's binary be a gRPC server: its value is the address to listen on.
const childEnv = "MANIFOLD_UPSTREAM_CHILD"

// child is a server that says its address in trailers. It ends with its input.
func child(addr string) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		fmt.Println("error:", err)
		os.Exit(1)
	}
	s := grpc.NewServer(grpc.UnknownServiceHandler(func(_ any, st grpc.ServerStream) error {
		if err := st.RecvMsg(&emptypb.Empty{}); err != nil {
			return err
		}
		st.SetTrailer(metadata.Pairs("backend", l.Addr().String()))
		return st.SendMsg(&emptypb.Empty{})
	}))
	go s.Serve(l) //nolint:errcheck // until the process ends
	fmt.Println(l.Addr())
	bufio.NewReader(os.Stdin).ReadString('\n') //nolint:errcheck // its end is the sign
	os.Exit(0)
}

// startChild runs a server process on addr until the test ends.
func startChild(t *testing.T, addr string) (*exec.Cmd, string) {
	t.Helper()
	c := exec.Command(os.Args[0])
	c.Env = append(os.Environ(), childEnv+"="+addr)
	if _, err := c.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Process.Kill() //nolint:errcheck // it may have ended
		c.Wait()         //nolint:errcheck // by a signal
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	line = strings.TrimSpace(line)
	if err != nil || strings.HasPrefix(line, "error") {
		t.Fatalf("child: %q, %v", line, err)
	}

	return c, line
}

// TestFaultsOfProcesses is TestFaults with processes and signals, in real time: about 40 s each. MANIFOLD_FAULTS=1 asks for it.
func TestFaultsOfProcesses(t *testing.T) {
	if os.Getenv("MANIFOLD_FAULTS") == "" {
		t.Skip("takes minutes; set MANIFOLD_FAULTS=1")
	}
	t.Run("SIGSTOP", func(t *testing.T) {
		c, addr := startChild(t, "127.0.0.1:0")
		faults(t, addr, addr, 6*time.Second, func() { c.Process.Signal(syscall.SIGSTOP) }, func() { c.Process.Signal(syscall.SIGCONT) })
	})
	t.Run("SIGSTOP, long", func(t *testing.T) {
		c, addr := startChild(t, "127.0.0.1:0")
		faults(t, addr, addr, 40*time.Second, func() { c.Process.Signal(syscall.SIGSTOP) }, func() { c.Process.Signal(syscall.SIGCONT) })
	})
	t.Run("black hole", func(t *testing.T) {
		_, addr := startChild(t, "127.0.0.1:0")
		h := newPath(t, addr)
		faults(t, h.addr(), addr, 40*time.Second, func() { h.block(true) }, func() { h.block(false) })
	})
	t.Run("kill -9", func(t *testing.T) {
		c, addr := startChild(t, "127.0.0.1:0")
		faults(t, addr, addr, 15*time.Second, func() { c.Process.Kill(); c.Wait() }, func() { startChild(t, addr) })
	})
}

// faults puts a relay before three processes of which one, whose name is server and whose way in is addr, dies and comes back, under a load of
// 500 calls a second.
func faults(t *testing.T, addr, server string, dead time.Duration, die, revive func()) {
	var list config.Endpoints
	for _, a := range append([]string{addr}, second(startChild(t, "127.0.0.1:0")), second(startChild(t, "127.0.0.1:0"))) {
		list = append(list, config.NamedEndpoint{Name: a, Endpoint: address.Endpoint{Address: address.Address{Network: "tcp", Addr: a}}})
	}
	var log lockedBuffer
	b, err := Open("b", Config{Backend: config.Backend{Endpoints: list}}, Deps{Log: logTo(&log)})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	b.AwaitTries(ctx)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &relay.Server{Route: func(c *relay.Call) { c.Forward(b.Relay()) }}
	var running, calling sync.WaitGroup
	running.Go(func() { s.Serve(l) }) //nolint:errcheck // ends with Close
	cc, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	calls := load{every: 2 * time.Millisecond}
	stop := make(chan struct{})
	calling.Go(func() { calls.run(cc, stop) }) // ends with stop
	<-time.After(3 * time.Second)
	died := time.Now()
	die()
	<-time.After(dead)
	revived := time.Now()
	revive()
	<-time.After(30 * time.Second)
	close(stop)
	calling.Wait()
	if err := cc.Close(); err != nil {
		t.Error(err)
	}
	s.Close()
	running.Wait()
	judge(t, &calls, server, died, revived)
	t.Log(log.String())
}

func second(_ *exec.Cmd, addr string) string { return addr }

// path is the way to a server through a forwarder that can be blocked: then nothing passes in either direction, connections stay as they are,
// and new ones get no octet, as where packets are dropped. What was on its way passes when it is opened, as TCP sends it again.
type path struct {
	l      net.Listener
	server string

	mu      sync.Mutex
	open    *sync.Cond
	blocked bool
	closed  bool
	conns   []net.Conn
	running sync.WaitGroup
}

func newPath(t *testing.T, server string) *path {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &path{l: l, server: server}
	p.open = sync.NewCond(&p.mu)
	p.running.Go(p.accept) // ends with the listener
	t.Cleanup(p.close)

	return p
}

func (p *path) addr() string { return p.l.Addr().String() }

func (p *path) block(on bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.blocked = on
	p.open.Broadcast()
}

// pass waits while the path is blocked, and is false when it is closed.
func (p *path) pass() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.blocked && !p.closed {
		p.open.Wait()
	}

	return !p.closed
}

func (p *path) accept() {
	for {
		a, err := p.l.Accept()
		if err != nil {
			return
		}
		if !p.pass() {
			a.Close()

			return
		}
		b, err := net.Dial("tcp", p.server)
		if err != nil {
			a.Close()

			continue
		}
		p.mu.Lock()
		p.conns = append(p.conns, a, b)
		p.mu.Unlock()
		p.running.Go(func() { p.copy(a, b) }) // ends with either
		p.running.Go(func() { p.copy(b, a) }) // likewise
	}
}

func (p *path) copy(dst, src net.Conn) {
	defer dst.Close()
	for buf := make([]byte, 32<<10); ; {
		n, err := src.Read(buf)
		if err != nil || !p.pass() {
			return
		}
		if _, err := dst.Write(buf[:n]); err != nil {
			return
		}
	}
}

func (p *path) close() {
	p.l.Close()
	p.mu.Lock()
	p.closed = true
	for _, nc := range p.conns {
		nc.Close()
	}
	p.open.Broadcast()
	p.mu.Unlock()
	p.running.Wait()
}
