// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"

	"github.com/manifold-grpc/manifold/internal/sample"
	"github.com/manifold-grpc/manifold/internal/sample/samplepb"
)

// The soak is long by
//
//	go test ./internal/cli -run TestSoak -v -soak 10m -soak.streams 1000 -soak.rate 1000 -timeout 20m
var (
	soakTime    = flag.Duration("soak", 3*time.Second, "time that TestSoak reloads for")
	soakStreams = flag.Int("soak.streams", 60, "long streams of TestSoak")
	soakReloads = flag.Int("soak.reloads", 100, "reloads a minute of TestSoak; a short one does what it can")
	soakRate    = flag.Int("soak.rate", 200, "calls a second of TestSoak")
)

// asMain in the environment has the test binary be manifold itself.
const asMain = "MANIFOLD_TEST_AS_MAIN"

// mainProcess runs the command line in a process of its own.
func mainProcess() int {
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)

	return Run(os.Args[1:], os.Stdout, os.Stderr, signals)
}

// child is a daemon in a process of its own.
type child struct {
	cmd    *exec.Cmd
	addr   string
	mu     sync.Mutex
	log    []string
	loads  chan bool // of each reload, whether it was one
	exited chan error
}

func startChild(t *testing.T, file string) *child {
	t.Helper()
	c := &child{cmd: exec.Command(os.Args[0], "serve", "--config", file, "--log-format", "json"), loads: make(chan bool, 1000), exited: make(chan error, 1)}
	c.cmd.Env = append(os.Environ(), asMain+"=1", "EXTRA="+filepath.Join(t.TempDir(), "extra.sock"))
	stderr, err := c.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	listening := make(chan string, 100)
	go func() { // ends with the process
		c.read(stderr, listening)
		c.exited <- c.cmd.Wait()
		close(c.exited)
	}()
	t.Cleanup(func() {
		_ = c.cmd.Process.Kill() // if it has not ended
		<-c.exited
	})
	select {
	case c.addr = <-listening:
	case <-time.After(20 * time.Second):
		t.Fatal("the daemon does not listen")
	}

	return c
}

// read follows the log.
func (c *child) read(r io.Reader, listening chan<- string) {
	for lines := bufio.NewScanner(r); lines.Scan(); {
		var entry struct{ Msg, Level, Address string }
		_ = json.Unmarshal(lines.Bytes(), &entry) // a panic is no JSON
		switch {
		case entry.Msg == "listening" && !strings.HasPrefix(entry.Address, "unix:"):
			select {
			case listening <- entry.Address:
			default:
			}
		case entry.Msg == "reloaded":
			c.tell(true)
		case strings.HasPrefix(entry.Msg, "reload failed"):
			c.tell(false)
		}
		if entry.Level != "INFO" {
			c.mu.Lock()
			c.log = append(c.log[:min(len(c.log), 200)], lines.Text())
			c.mu.Unlock()
		}
	}
}

// problems returns what the log has of them.
func (c *child) problems() string {
	c.mu.Lock()
	defer c.mu.Unlock()

	return strings.Join(c.log, "\n")
}

// tell tells of a reload, if somebody listens.
func (c *child) tell(loaded bool) {
	select {
	case c.loads <- loaded:
	default:
	}
}

// memory returns the resident memory in KiB, 0 where nobody tells.
func (c *child) memory() int {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", c.cmd.Process.Pid))
	_, rest, _ := strings.Cut(string(text), "VmRSS:")
	n, _ := strconv.Atoi(strings.Fields(rest + " 0")[0])

	return n
}

// soak is the load and what became of it.
type soak struct {
	calls, failed    atomic.Int64
	messages, cut    atomic.Int64
	reloads, refused int
	memory           []int

	mu     sync.Mutex
	causes map[string]int
}

func (s *soak) blame(what string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.causes) < 20 {
		s.causes[what+": "+err.Error()]++
	}
}

// caller makes calls at a steady rate until ctx ends.
func (s *soak) caller(ctx context.Context, conn *grpc.ClientConn, every time.Duration) {
	client := samplepb.NewEchoServiceClient(conn)
	tick := time.NewTicker(every)
	defer tick.Stop()
	for i := 0; ; i++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		text := strconv.Itoa(i)
		call, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(context.Background(), "to", []string{"stable", "moving", "both"}[i%3]), 20*time.Second)
		resp, err := client.Echo(call, &samplepb.EchoRequest{Text: text})
		cancel()
		s.calls.Add(1)
		if err == nil && resp.GetText() != text {
			err = fmt.Errorf("answer %q to %q", resp.GetText(), text)
		}
		if err != nil {
			s.failed.Add(1)
			s.blame("call", err)
		}
	}
}

// stream sends numbers over one stream until ctx ends, each after the one before has come back, and then ends it.
func (s *soak) stream(ctx context.Context, conn *grpc.ClientConn, to string, opened *sync.WaitGroup) {
	err := s.numbers(ctx, conn, to, opened)
	if err != nil {
		s.cut.Add(1)
		s.blame("stream to "+to, err)
	}
}

func (s *soak) numbers(ctx context.Context, conn *grpc.ClientConn, to string, opened *sync.WaitGroup) error {
	once := sync.OnceFunc(opened.Done)
	defer once()
	stream, err := samplepb.NewEchoServiceClient(conn).Chat(metadata.AppendToOutgoingContext(context.Background(), "to", to))
	if err != nil {
		return err
	}
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for n := 0; ; n++ {
		text := strconv.Itoa(n)
		if err := stream.Send(&samplepb.EchoRequest{Text: text}); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		resp, err := stream.Recv()
		if err != nil {
			return err
		}
		if resp.GetText() != text {
			return fmt.Errorf("message %q, expected %q", resp.GetText(), text)
		}
		s.messages.Add(1)
		once()
		select {
		case <-ctx.Done():
			if err := stream.CloseSend(); err != nil {
				return err
			}
			if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
				return fmt.Errorf("end of a stream: %w", err)
			}
			return nil
		case <-tick.C:
		}
	}
}

// soakFile writes the n-th file of the soak: backends come, go and change, and so do frontends, limits and weights. Some are
// bad, which it returns.
type soakFile struct {
	name   string
	stable []string // endpoints
	moving [2]string
}

func (f *soakFile) write(t *testing.T, n int) (good bool) {
	t.Helper()
	extra := ""
	if n%4 >= 2 {
		extra = "\n  - {name: extra, listen: \"unix:${EXTRA}\"}"
	}
	stable := f.stable[:1+n/2%2]
	text := fmt.Sprintf(`
frontends:
  - {name: main, listen: "127.0.0.1:0", forwarded_for: %v, limits: {max_concurrent_streams: %d}}%s
backends:
  stable: {endpoints: ["%s"], balance: %s}
  moving-%[6]d: {endpoints: ["%[7]s"]}
routes:
  - {match: {metadata: {to: stable}}, backend: stable}
  - {match: {metadata: {to: moving}}, backend: moving-%[6]d}
  - {match: {metadata: {to: both}}, backend: [{name: stable, weight: %[8]d}, {name: moving-%[6]d, weight: 1}]}
`, n%3 == 0, 100+n%2, extra, strings.Join(stable, `", "`), []string{"round_robin", "least_request"}[n/3%2], n%2, f.moving[n%2], 1+n%3)
	good = n%10 != 7
	if !good {
		text += "nothing: such\n"
	}
	if err := os.WriteFile(f.name+".new", []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(f.name+".new", f.name); err != nil {
		t.Fatal(err)
	}

	return good
}

// reload has the daemon reload n-th files until the time is over, by a change of the file or by SIGHUP.
func (s *soak) reload(t *testing.T, c *child, f *soakFile, end time.Time) {
	t.Helper()
	tick := time.NewTicker(max(time.Minute/time.Duration(*soakReloads), time.Millisecond))
	if *soakTime < time.Minute {
		tick.Reset(50 * time.Millisecond)
	}
	defer tick.Stop()
	for n := 1; time.Now().Before(end); n++ {
		good := f.write(t, n)
		select {
		case loaded := <-c.loads:
			if loaded != good {
				t.Errorf("file %d: reloaded = %v, want %v:\n%s", n, loaded, good, c.problems())
			}
		case err := <-c.exited:
			t.Fatalf("the daemon has ended: %v", err)
		case <-time.After(20 * time.Second):
			t.Fatal("no reload")
		}
		if s.reloads++; !good {
			s.refused++
		}
		if n%10 == 0 {
			s.memory = append(s.memory, c.memory())
		}
		<-tick.C
	}
}

// slope returns by how much the memory of the last quarter is above that of the second.
func slope(memory []int) float64 {
	q := len(memory) / 4
	if q == 0 {
		return 0
	}
	median := func(part []int) float64 {
		part = slices.Sorted(slices.Values(part))
		return float64(part[len(part)/2])
	}
	before := median(memory[q : 2*q])

	return (median(memory[len(memory)-q:]) - before) / before
}

// Reloads under load, with long streams, some of them on backends that are removed, and at the end a SIGTERM: no call fails, no
// stream is cut, no message is lost, and the memory does not grow.
func TestSoak(t *testing.T) {
	if _, err := os.Stat("/proc/self/status"); err != nil {
		t.Skip("no /proc")
	}
	backends := make([]string, 4)
	for i := range backends {
		lis, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		b := sample.Start(lis, sample.Options{Name: fmt.Sprint(i)})
		t.Cleanup(b.Stop)
		backends[i] = lis.Addr().String()
	}
	f := &soakFile{name: filepath.Join(t.TempDir(), "manifold.yaml"), stable: backends[:2], moving: [2]string(backends[2:])}
	f.write(t, 0)
	c, other := startChild(t, f.name), startChild(t, f.name)
	s := &soak{causes: map[string]int{}}

	streaming, endStreams := context.WithCancel(context.Background())
	calling, endCalls := context.WithCancel(context.Background())
	defer endStreams()
	defer endCalls()
	var streams, callers, opened sync.WaitGroup
	const perConn = 100
	for i := 0; i < *soakStreams; i += perConn {
		conn := soakConn(t, c.addr)
		for j := i; j < min(i+perConn, *soakStreams); j++ {
			opened.Add(1)
			streams.Go(func() { s.stream(streaming, conn, []string{"stable", "moving"}[j%2], &opened) }) // until endStreams
		}
	}
	opened.Wait()
	const conns = 4
	for range conns {
		conn := soakConn(t, c.addr, other.addr)
		for range 5 {
			callers.Go(func() { s.caller(calling, conn, 5*conns*time.Second/time.Duration(*soakRate)) }) // until endCalls
		}
	}
	began := time.Now()
	s.reload(t, c, f, began.Add(*soakTime))

	before := s.calls.Load()
	for deadline := time.Now().Add(20 * time.Second); s.calls.Load() < before+int64(*soakRate)/4 && time.Now().Before(deadline); {
		<-time.After(10 * time.Millisecond)
	}
	if err := c.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	endStreams() // each has a last message to come after the signal
	streams.Wait()
	select {
	case err := <-c.exited:
		if err != nil {
			t.Errorf("the daemon ends with %v:\n%s", err, c.problems())
		}
	case <-time.After(30 * time.Second):
		t.Error("the daemon does not end")
	}
	atEnd := s.calls.Load()
	for deadline := time.Now().Add(20 * time.Second); s.calls.Load() < atEnd+int64(*soakRate)/4 && time.Now().Before(deadline); {
		<-time.After(10 * time.Millisecond)
	}
	endCalls()
	callers.Wait()

	t.Logf("%v: %d reloads (%d of bad files), %d calls, %d failed, %d after the SIGTERM; %d streams, %d cut, %d messages; memory in KiB %v, slope %.1f %%",
		time.Since(began).Round(time.Second), s.reloads, s.refused, s.calls.Load(), s.failed.Load(), s.calls.Load()-before,
		*soakStreams, s.cut.Load(), s.messages.Load(), s.memory, 100*slope(s.memory))
	if s.failed.Load() > 0 || s.cut.Load() > 0 {
		t.Errorf("%d calls failed, %d streams cut: %v\nlog of the daemon:\n%s", s.failed.Load(), s.cut.Load(), s.causes, c.problems())
	}
	if got := slope(s.memory); *soakTime >= time.Minute && got >= 0.05 {
		t.Errorf("memory grew by %.1f %%", 100*got)
	}
}

// soakConn returns a channel to the first of the addresses that takes connections.
func soakConn(t *testing.T, addrs ...string) *grpc.ClientConn {
	t.Helper()
	r := manual.NewBuilderWithScheme("soak")
	var state resolver.State
	for _, a := range addrs {
		state.Endpoints = append(state.Endpoints, resolver.Endpoint{Addresses: []resolver.Address{{Addr: a}}})
	}
	r.InitialState(state)
	conn, err := grpc.NewClient("soak:///", grpc.WithResolvers(r), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })

	return conn
}
