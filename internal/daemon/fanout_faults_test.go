// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/manifold-grpc/manifold/fanout"
	"github.com/manifold-grpc/manifold/fanout/fanoutclient"
	"github.com/manifold-grpc/manifold/internal/dnstest"
	"github.com/manifold-grpc/manifold/internal/sample"
	"github.com/manifold-grpc/manifold/internal/sample/samplepb"
)

// waitingNode tells of each call that it has begun, and why it ended; it answers none.
type waitingNode struct {
	samplepb.UnimplementedFleetServiceServer
	began chan struct{}
	ended chan error // the context's
}

func (n waitingNode) wait(ctx context.Context) error {
	n.began <- struct{}{}
	<-ctx.Done()
	n.ended <- ctx.Err()

	return ctx.Err()
}

func (n waitingNode) Describe(ctx context.Context, _ *samplepb.DescribeRequest) (*samplepb.DescribeResponse, error) {
	return nil, n.wait(ctx)
}

func (n waitingNode) Watch(_ *samplepb.WatchRequest, s grpc.ServerStreamingServer[samplepb.Node]) error {
	return n.wait(s.Context())
}

// serveFleet runs a server of a FleetService that answers calls to no other service, not even by an error, and returns its address.
func serveFleet(t *testing.T, service samplepb.FleetServiceServer) string {
	t.Helper()

	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(grpc.WaitForHandlers(true), grpc.UnknownServiceHandler(func(_ any, s grpc.ServerStream) error {
		<-s.Context().Done()
		return s.Context().Err()
	}))
	samplepb.RegisterFleetServiceServer(server, service)
	served := make(chan struct{})
	go func() { // ends with Stop
		defer close(served)
		_ = server.Serve(lis)
	}()
	t.Cleanup(func() { server.Stop(); <-served })

	return lis.Addr().String()
}

// receive takes n values from a channel, or ends the test.
func receive[T any](t *testing.T, c <-chan T, n int, what string) []T {
	t.Helper()

	var all []T
	timeout := time.NewTimer(testTimeout)
	defer timeout.Stop()
	for range n {
		select {
		case v := <-c:
			all = append(all, v)
		case <-timeout.C:
			t.Fatalf("%s: %d of %d within %v", what, len(all), n, testTimeout)
		}
	}

	return all
}

// The caller's cancel reaches every target, over sockets: they hear of it, and that it is a cancel.
func TestFanOutCancel(t *testing.T) {
	const targets = 8
	node := waitingNode{began: make(chan struct{}, targets), ended: make(chan error, targets)}
	var names []string
	for i := range targets {
		names = append(names, fmt.Sprintf("node-%d: %q", i, serveFleet(t, node)))
	}
	d := startDaemon(t, Config{File: declare(t, `
frontends: [{name: f, listen: "127.0.0.1:0"}]
backends: {machines: {endpoints: {%s}}}
routes: [{fan_out: {backend: machines, unary: [Describe]}}]
`, strings.Join(names, ", "))})
	fleet := samplepb.NewFleetServiceClient(connectTo(t, d, "f", insecure.NewCredentials()))
	calls := map[string]func(context.Context) error{
		"unary": func(ctx context.Context) error {
			_, err := fleet.Describe(ctx, &samplepb.DescribeRequest{})
			return err
		},
		"streaming": func(ctx context.Context) error {
			stream, err := fleet.Watch(ctx, &samplepb.WatchRequest{})
			if err == nil {
				_, err = stream.Recv()
			}
			return err
		},
	}
	for name, call := range calls {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context()) // no deadline that could end the targets' part
			defer cancel()
			done := make(chan error, 1)
			go func() { done <- call(ctx) }() // ends with the call
			receive(t, node.began, targets, "targets that have the call")
			cancel()
			for _, err := range receive(t, node.ended, targets, "targets that hear of the cancel") {
				if !errors.Is(err, context.Canceled) {
					t.Errorf("a target's call ended by %v", err)
				}
			}
			if err := receive(t, done, 1, "the call")[0]; status.Code(err) != codes.Canceled {
				t.Errorf("the caller got %v", err)
			}
		})
	}
}

// A silent node does not void the answers of the others: it answers nothing to the call, or nothing at all, connections to it
// included, and the caller has a second, half of which is kept for the answers.
func TestFanOutSilentNode(t *testing.T) {
	for _, carrier := range []string{"concat, layout: {hostname: 1, error: 2, status: 3}", "envelope"} {
		for _, kinds := range []string{"unary: [Describe]", ""} { // without, the silent ones are asked for reflection first
			t.Run(carrier+" "+kinds, func(t *testing.T) {
				if kinds == "" && carrier == "envelope" {
					t.Skip("all methods stream, nobody is asked")
				}
				mute := waitingNode{began: make(chan struct{}, 100), ended: make(chan error, 100)}
				good := startBackends(t, 2)
				d := startDaemon(t, Config{File: declare(t, `
frontends: [{name: f, listen: "127.0.0.1:0"}]
backends: {machines: {endpoints: {mute: "%s", hole: "%s", a: "%s", b: "%s"}}}
routes: [{fan_out: {backend: machines, carrier: `+carrier+`, reserve: 8s, summary: true, `+kinds+`}}]
`, serveFleet(t, mute), blackHole(t), good[0].Addr(), good[1].Addr())})
				conn := connectTo(t, d, "f", insecure.NewCredentials())
				for range 2 {
					within(t, func(timeout time.Duration) error {
						return othersAnswer(t, conn, carrier == "envelope", timeout)
					})
				}
			})
		}
	}
}

// othersAnswer calls four targets, of which two are silent, and returns what is wrong with what came.
func othersAnswer(t *testing.T, conn *grpc.ClientConn, envelope bool, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	defer cancel()
	var trailer metadata.MD
	answers := answersOf(ctx, conn, envelope, grpc.Trailer(&trailer))
	slices.Sort(answers)
	if want := []string{"a: 0", "b: 1", "hole: DeadlineExceeded", "mute: DeadlineExceeded"}; !slices.Equal(answers, want) {
		return fmt.Errorf("answers within %v: %q, want %q", timeout, answers, want)
	}
	if s := trailer.Get("manifold-fanout"); !slices.Equal(s, []string{"targets=4 ok=2 failed=2 cancelled=0; failures=mute:DEADLINE_EXCEEDED,hole:DEADLINE_EXCEEDED"}) {
		return fmt.Errorf("summary within %v: %q", timeout, s)
	}

	return nil
}

// blackHole returns an address that takes connections and never says anything.
func blackHole(t *testing.T) string {
	t.Helper()

	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { // ends with the listener
		defer close(done)
		for {
			conn, err := lis.Accept()
			if err != nil {
				return
			}
			defer conn.Close() //nolint:errcheck // of no interest
		}
	}()
	t.Cleanup(func() { _ = lis.Close(); <-done })

	return lis.Addr().String()
}

// answersOf calls Describe and returns who said what, "name: backend" or "name: CODE".
func answersOf(ctx context.Context, conn *grpc.ClientConn, envelope bool, opts ...grpc.CallOption) []string {
	if !envelope {
		resp, err := samplepb.NewFleetServiceClient(conn).Describe(ctx, &samplepb.DescribeRequest{}, opts...)
		if err != nil {
			return []string{err.Error()}
		}
		var all []string
		for _, n := range resp.GetNodes() {
			what := n.GetBackend()
			if s := n.GetMetadata(); s.GetError() != "" {
				what = codes.Code(s.GetStatus().GetCode()).String()
			}
			all = append(all, n.GetMetadata().GetHostname()+": "+what)
		}

		return all
	}
	var all []string
	caller := fanoutclient.Caller[*samplepb.DescribeResponse]{Conn: conn, Envelope: true, Options: opts}
	for answer, err := range caller.Call(ctx, samplepb.FleetService_Describe_FullMethodName, &samplepb.DescribeRequest{}) {
		if failed, ok := errors.AsType[*fanoutclient.TargetError](err); ok {
			all = append(all, failed.Target.Name+": "+failed.Status.Code().String())
			continue
		}
		if err != nil {
			return append(all, err.Error())
		}
		all = append(all, answer.Target.Name+": "+answer.Message.GetNodes()[0].GetBackend())
	}

	return all
}

// A target is a name that leads to addresses: each is one of the call's targets, and callers choose among them.
func TestFanOutTarget(t *testing.T) {
	first := startBackend(t, loopback, sample.Options{Name: "first"})
	_, port, err := net.SplitHostPort(first.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	lis, err := net.Listen("tcp", "127.0.0.2:"+port)
	if err != nil {
		t.Skipf("a second loopback address: %v", err) // not all systems have one
	}
	second := sample.Start(lis, sample.Options{Name: "second"})
	t.Cleanup(second.Stop)
	server := dnstest.Serve(t, "machines.test.", func() [][4]byte { return [][4]byte{{127, 0, 0, 2}, {127, 0, 0, 1}} })
	d := startDaemon(t, Config{File: declare(t, `
frontends: [{name: f, listen: "127.0.0.1:0"}]
backends:
  machines: {target: "dns://%[1]s/machines.test.:%[2]s"}
  nowhere: {target: "dns://%[1]s/nowhere.test.:%[2]s"}
routes:
  - match: {metadata: {to: nowhere}}
    fan_out: {backend: nowhere, select: nodes, policy: quorum(2), unary: [Describe]}
  - match: {metadata: {to: both}}
    fan_out: {backends: [nowhere, machines], policy: any, summary: true, unary: [Describe]}
  - fan_out: {backend: machines, select: nodes, policy: quorum(2), order: target, unary: [Describe]}
`, server, port)})
	fleet := samplepb.NewFleetServiceClient(connectTo(t, d, "f", insecure.NewCredentials()))
	one, two := "127.0.0.1:"+port, "127.0.0.2:"+port
	tests := []struct {
		name    string
		pairs   []string
		want    []string
		code    codes.Code
		message string
	}{
		{"all, in the order of their names", nil, []string{"first", "second"}, codes.OK, ""},
		{"chosen", []string{"nodes", two + "," + one}, []string{"second", "first"}, codes.OK, ""},
		{"too few for the policy", []string{"nodes", two}, nil, codes.FailedPrecondition, "fanout: policy quorum(2) cannot be met: the call has 1 targets"},
		{"none of them", []string{"nodes", "127.0.0.3:" + port}, nil, codes.PermissionDenied, `target "127.0.0.3:` + port + `" is not allowed`},
		{"nowhere", []string{"to", "nowhere"}, nil, codes.Unavailable, "backend nowhere has no endpoint: "},
		{"chosen, nowhere", []string{"to", "nowhere", "nodes", one}, nil, codes.Unavailable, "backend nowhere has no endpoint: "},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, _, err := describe(t, fleet, "", tt.pairs...)
			if st := status.Convert(err); st.Code() != tt.code || !strings.Contains(st.Message(), tt.message) {
				t.Errorf("status %v %q, want %v %q", st.Code(), st.Message(), tt.code, tt.message)
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("answers of %q, want %q", got, tt.want)
			}
		})
	}
	_, trailer, err := describe(t, fleet, "", "to", "both")
	report, _ := fanout.ReadTrailer(trailer)
	if o := report.GetOutcomes(); err != nil || len(o) != 2 || o[0].GetPhase().String() != "FANOUT_PHASE_RESOLVE" {
		t.Errorf("%v, outcomes %v, want that of nowhere in phase resolve", err, o)
	}
}
