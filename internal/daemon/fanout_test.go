// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/types/descriptorpb"

	"github.com/manifold-grpc/manifold/internal/methodkind"
	"github.com/manifold-grpc/manifold/internal/sample/samplepb"
)

// fanDaemon starts a daemon with a route to two machines, node-a and node-b, with more keys for its fan_out.
func fanDaemon(t *testing.T, keys string) samplepb.FleetServiceClient {
	t.Helper()

	backends := startBackends(t, 2)
	d := startDaemon(t, Config{File: declare(t, `
frontends: [{name: f, listen: "127.0.0.1:0"}]
backends:
  machines: {endpoints: {node-a: "%s", node-b: "%s"}}
  spare: {endpoints: ["%s"]}
routes:
  - match: {service: manifold.sample.v1.FleetService}
    fan_out: {`+keys+`}
`, backends[0].Addr(), backends[1].Addr(), backends[1].Addr())})

	return samplepb.NewFleetServiceClient(connectTo(t, d, "f", insecure.NewCredentials()))
}

// describe returns the backends that answered, in their order, and the trailer.
func describe(t *testing.T, fleet samplepb.FleetServiceClient, failOn string, pairs ...string) ([]string, metadata.MD, error) {
	t.Helper()

	var trailer metadata.MD
	ctx := metadata.AppendToOutgoingContext(callContext(t), pairs...)
	resp, err := fleet.Describe(ctx, &samplepb.DescribeRequest{FailOn: failOn}, grpc.Trailer(&trailer))
	var names []string
	for _, n := range resp.GetNodes() {
		names = append(names, n.GetBackend())
	}

	return names, trailer, err
}

// The route of the design's sample file: callers choose among the endpoints, all of which must be good, and
// the kinds of the methods come from the backend's reflection.
func TestFanOutSample(t *testing.T) {
	fleet := fanDaemon(t, "backend: machines, select: nodes, policy: all, carrier: concat")
	tests := []struct {
		name    string
		nodes   []string
		failOn  string
		want    []string
		code    codes.Code
		message string
	}{
		{"all by default", nil, "", []string{"0", "1"}, codes.OK, ""},
		{"all by a star", []string{"*"}, "", []string{"0", "1"}, codes.OK, ""},
		{"one", []string{"node-b"}, "", []string{"1"}, codes.OK, ""},
		{"the caller's order", []string{"node-b, node-a"}, "", []string{"1", "0"}, codes.OK, ""},
		{"several values", []string{"node-b", "node-a", "node-b"}, "", []string{"1", "0"}, codes.OK, ""},
		{"not a target", []string{"node-c"}, "", nil, codes.PermissionDenied, `fanout: metadata "nodes": target "node-c" is not allowed`},
		{"an address", []string{"127.0.0.1:1"}, "", nil, codes.PermissionDenied, `fanout: metadata "nodes": target "127.0.0.1:1" is not allowed`},
		{"one fails", nil, "1", nil, codes.Unavailable, `fanout: policy all: 1 of 2 targets failed: node-b: Unavailable: backend "1" fails, as asked`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var pairs []string
			for _, n := range tt.nodes {
				pairs = append(pairs, "nodes", n)
			}
			got, _, err := describe(t, fleet, tt.failOn, pairs...)
			if st := status.Convert(err); st.Code() != tt.code || st.Message() != tt.message {
				t.Errorf("status %v %q, want %v %q", st.Code(), st.Message(), tt.code, tt.message)
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("answers of %q, want %q", got, tt.want)
			}
		})
	}
}

// The keys of a route do what they say.
func TestFanOutKeys(t *testing.T) {
	tests := []struct {
		name, keys, failOn string
		pairs              []string
		want               []string
		code               codes.Code
		summary            string
	}{
		{"summary", "backend: machines, summary: true, policy: any", "0", nil, []string{"1"}, codes.OK, "targets=2 ok=1 failed=1 cancelled=0; failures=node-a:UNAVAILABLE"},
		{"quorum", "backend: machines, policy: quorum(2), summary: true", "1", nil, nil, codes.Unavailable, "targets=2 ok=1 failed=1 cancelled=0; failures=node-b:UNAVAILABLE"},
		{"best effort without a layout", "backend: machines", "1", nil, nil, codes.Unavailable, ""},
		{"backends", "backends: [spare, machines], select: nodes, summary: true", "", []string{"nodes", "spare"}, []string{"1"}, codes.OK, "targets=1 ok=1 failed=0 cancelled=0"},
		{"required", "backend: machines, select: nodes, select_required: true", "", nil, nil, codes.InvalidArgument, ""},
		{"repeating", "backend: machines, select: nodes, select_repeating: true", "", []string{"nodes", "node-b,node-b"}, []string{"1", "1"}, codes.OK, ""},
		{"too many", "backend: machines, select: nodes, max_targets: 1", "", nil, nil, codes.ResourceExhausted, ""},
		{"a loop", "backend: machines", "", []string{"manifold-fanout-via", "a,b,c,d"}, nil, codes.FailedPrecondition, ""},
		{"hedge", "backend: machines, hedge: 1, policy: any, summary: true", "", nil, []string{"0"}, codes.OK, "targets=2 ok=1 failed=0 cancelled=1"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			fleet := fanDaemon(t, tt.keys+", unary: [Describe]")
			got, trailer, err := describe(t, fleet, tt.failOn, tt.pairs...)
			if tt.name == "summary" && len(got) == 1 && !slices.Equal(trailer.Get("manifold-fanout"), []string{tt.summary}) {
				tt.summary = "targets=2 ok=1 failed=0 cancelled=1" // the good one came first
			}
			if status.Code(err) != tt.code || !slices.Equal(got, tt.want) {
				t.Errorf("answers of %q and %v, want %q and %v", got, err, tt.want, tt.code)
			}
			if s := strings.Join(trailer.Get("manifold-fanout"), ""); s != tt.summary {
				t.Errorf("summary %q, want %q", s, tt.summary)
			}
		})
	}
}

// Callers choose addresses within a pattern, besides the endpoints.
func TestFanOutPatterns(t *testing.T) {
	backends := startBackends(t, 2)
	d := startDaemon(t, Config{File: declare(t, `
frontends: [{name: f, listen: "127.0.0.1:0"}]
backends: {machines: {endpoints: {node-a: "%s"}}}
routes:
  - match: {service: manifold.sample.v1.FleetService}
    fan_out: {backend: machines, select: nodes, select_patterns: ["127.0.0.1:*"], unary: [Describe], summary: true}
`, backends[0].Addr())})
	fleet := samplepb.NewFleetServiceClient(connectTo(t, d, "f", insecure.NewCredentials()))
	tests := []struct {
		nodes string
		want  []string
		code  codes.Code
	}{
		{"*", []string{"0"}, codes.OK},
		{backends[1].Addr().String(), []string{"1"}, codes.OK},
		{backends[1].Addr().String() + ",node-a", []string{"1", "0"}, codes.OK},
		{"node-b", nil, codes.PermissionDenied},
		{"127.0.0.2:1", nil, codes.PermissionDenied},
		{"127.0.0.1:99999", nil, codes.InvalidArgument},
	}
	for _, tt := range tests {
		got, _, err := describe(t, fleet, "", "nodes", tt.nodes)
		if !slices.Equal(got, tt.want) || status.Code(err) != tt.code {
			t.Errorf("nodes %q: answers of %q, %v, want %q, %v", tt.nodes, got, err, tt.want, tt.code)
		}
	}
}

// Reports of a stream come in the order of a field, here the backend's name, not in that of their arrival.
func TestFanOutOrderBy(t *testing.T) {
	fleet := fanDaemon(t, `backend: machines, order_by: ["1"], streaming: [Watch]`)
	for range 20 {
		st, err := fleet.Watch(callContext(t), &samplepb.WatchRequest{Count: 3})
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for {
			n, err := st.Recv()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, n.GetBackend())
		}
		if want := []string{"0", "0", "0", "1", "1", "1"}; !slices.Equal(got, want) {
			t.Errorf("reports of %q, want %q", got, want)
		}
	}
}

// The kinds of methods come from a descriptor set, whatever the backend has of reflection.
func TestFanOutDescriptors(t *testing.T) {
	raw, err := proto.Marshal(&descriptorpb.FileDescriptorSet{File: []*descriptorpb.FileDescriptorProto{protodesc.ToFileDescriptorProto(samplepb.File_internal_sample_samplepb_sample_proto)}})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "sample.pb")
	if err := os.WriteFile(file, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	fleet := fanDaemon(t, "backend: machines, descriptors: "+file)
	if got, _, err := describe(t, fleet, ""); err != nil || !slices.Equal(got, []string{"0", "1"}) {
		t.Errorf("unary: %q, %v", got, err)
	}
	watchBoth(t, fleet)

	bad := filepath.Join(t.TempDir(), "bad.pb")
	if err := os.WriteFile(bad, []byte("\xff"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = New(Config{File: declare(t, `
frontends: [{name: f, listen: "127.0.0.1:0"}]
backends: {a: {endpoints: ["127.0.0.1:1"]}}
routes: [{fan_out: {backend: a, descriptors: %q}}]
`, bad)})
	if want := "routes[0].fan_out.descriptors: " + bad + ": no FileDescriptorSet"; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("error %v, want %q", err, want)
	}
}

func watchBoth(t *testing.T, fleet samplepb.FleetServiceClient) {
	t.Helper()

	stream, err := fleet.Watch(callContext(t), &samplepb.WatchRequest{Count: 2})
	if err != nil {
		t.Fatal(err)
	}
	nodes := map[string]int{}
	for {
		n, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		nodes[n.GetBackend()]++
	}
	if nodes["0"] != 2 || nodes["1"] != 2 {
		t.Errorf("messages by source = %v", nodes)
	}
}

// Calls wait for the first answer of reflection, all of them, and each goes as its method's kind.
func TestFanOutReflection(t *testing.T) {
	fleet := fanDaemon(t, "backend: machines, policy: all")
	errs := make(chan error)
	for i := range 20 {
		go func() { // ends with the call
			resp, err := fleet.Describe(callContext(t), &samplepb.DescribeRequest{})
			if err == nil && len(resp.GetNodes()) != 2 {
				err = fmt.Errorf("call %d: %d nodes", i, len(resp.GetNodes()))
			}
			errs <- err
		}()
	}
	for range 20 {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	watchBoth(t, fleet)
}

// A backend without reflection has all methods stream: a unary call then gets two messages, which its client refuses, but
// nothing hangs.
func TestFanOutNoReflection(t *testing.T) {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	samplepb.RegisterFleetServiceServer(server, oneNode{})
	served := make(chan struct{})
	go func() { // ends with Stop
		defer close(served)
		_ = server.Serve(lis)
	}()
	t.Cleanup(func() { server.Stop(); <-served })
	d := startDaemon(t, Config{File: declare(t, `
frontends: [{name: f, listen: "127.0.0.1:0"}]
backends: {b: {endpoints: ["%[1]s"]}, c: {endpoints: ["%[1]s"]}}
routes: [{fan_out: {backends: [b, c]}}]
`, lis.Addr())})
	fleet := samplepb.NewFleetServiceClient(connectTo(t, d, "f", insecure.NewCredentials()))
	_, _, err = describe(t, fleet, "")
	if status.Code(err) != codes.Internal && status.Code(err) != codes.Unknown {
		t.Errorf("two messages for a unary call: %v", err)
	}
	watch, err := fleet.Watch(callContext(t), &samplepb.WatchRequest{})
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, err = watch.Recv(); err == nil; _, err = watch.Recv() {
		n++
	}
	if !errors.Is(err, io.EOF) || n != 2 {
		t.Errorf("%d messages, %v", n, err)
	}
}

// Callers who name services that no backend has do not keep those that are there from being known.
func TestFanOutReflectionFlooded(t *testing.T) {
	node := startBackends(t, 1)[0]
	d := startDaemon(t, Config{File: declare(t, `
frontends: [{name: f, listen: "127.0.0.1:0"}]
backends: {machines: {endpoints: {a: "%s"}}}
routes: [{fan_out: {backend: machines}}]
`, node.Addr())})
	r := d.world.Load().reflectors["machines"]
	r.mu.Lock()
	for i := range maxReflected {
		r.services[fmt.Sprintf("no.Service%d", i)] = &reflected{set: methodkind.Set{}, until: time.Now().Add(reflectAgain)}
	}
	r.mu.Unlock()
	decided := make(chan bool, 1)
	r.ask("manifold.sample.v1.FleetService", "/manifold.sample.v1.FleetService/Describe", func(streams bool) { decided <- streams })
	if receive(t, decided, 1, "a decision")[0] {
		t.Error("a unary method is taken for streaming")
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if n := len(r.services); n != maxReflected {
		t.Errorf("%d services are remembered, want %d", n, maxReflected)
	}
}

// oneNode answers with one node.
type oneNode struct {
	samplepb.UnimplementedFleetServiceServer
}

func (oneNode) Describe(context.Context, *samplepb.DescribeRequest) (*samplepb.DescribeResponse, error) {
	return &samplepb.DescribeResponse{Nodes: []*samplepb.Node{{}}}, nil
}

func (oneNode) Watch(_ *samplepb.WatchRequest, s grpc.ServerStreamingServer[samplepb.Node]) error {
	return s.Send(&samplepb.Node{})
}
