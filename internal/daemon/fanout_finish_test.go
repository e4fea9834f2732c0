// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"errors"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	"github.com/manifold-grpc/manifold/fanout"
	"github.com/manifold-grpc/manifold/internal/sample/samplepb"
)

// lateNode answers when it may, and tells whether its call was still wanted then.
type lateNode struct {
	samplepb.UnimplementedFleetServiceServer
	began, may chan struct{}
	ended      chan error // the context's
}

func (n lateNode) Describe(ctx context.Context, _ *samplepb.DescribeRequest) (*samplepb.DescribeResponse, error) {
	close(n.began)
	select {
	case <-n.may:
	case <-ctx.Done():
	}
	n.ended <- ctx.Err()

	return &samplepb.DescribeResponse{}, ctx.Err()
}

// promptNode answers as soon as the late one has begun, with metadata of its own.
type promptNode struct {
	samplepb.UnimplementedFleetServiceServer
	late <-chan struct{}
}

func (n promptNode) Describe(ctx context.Context, _ *samplepb.DescribeRequest) (*samplepb.DescribeResponse, error) {
	select {
	case <-n.late:
	case <-ctx.Done():
	}
	_ = grpc.SetTrailer(ctx, metadata.Pairs("x-node", "prompt"))

	return &samplepb.DescribeResponse{Nodes: []*samplepb.Node{{Backend: "prompt"}}}, grpc.SetHeader(ctx, metadata.Pairs("x-rack", "7"))
}

// By let_finish a target that the answer did not need goes on; without it, it is cancelled. By summary_metadata the report has what
// a target sent beside its messages.
func TestFanOutLetFinish(t *testing.T) {
	for name, want := range map[string]error{"let_finish: 1m, summary_metadata: true, ": nil, "": context.Canceled} {
		t.Run(name, func(t *testing.T) {
			late := lateNode{began: make(chan struct{}), may: make(chan struct{}), ended: make(chan error, 1)}
			d := startDaemon(t, Config{File: declare(t, `
frontends: [{name: f, listen: "127.0.0.1:0"}]
backends: {machines: {endpoints: {late: "%s", prompt: "%s"}}}
routes: [{fan_out: {backend: machines, policy: any, summary: true, `+name+`unary: [Describe]}}]
`, serveFleet(t, late), serveFleet(t, promptNode{late: late.began}))})
			fleet := samplepb.NewFleetServiceClient(connectTo(t, d, "f", insecure.NewCredentials()))
			got, trailer, err := describe(t, fleet, "")
			if err != nil || len(got) != 1 || got[0] != "prompt" {
				t.Fatalf("answers of %q, %v", got, err)
			}
			if want == nil {
				close(late.may)
			}
			if err := receive(t, late.ended, 1, "the end of the late one")[0]; !errors.Is(err, want) {
				t.Errorf("the late one ended with %v, want %v", err, want)
			}
			report, err := fanout.ReadTrailer(trailer)
			if err != nil || len(report.GetOutcomes()) != 2 {
				t.Fatalf("report %v, %v", report, err)
			}
			o := report.GetOutcomes()[1]
			rack, node := fanout.MetadataOf(o.GetHeader()).Get("x-rack"), fanout.MetadataOf(o.GetTrailer()).Get("x-node")
			if (want == nil) != (len(rack) == 1 && rack[0] == "7" && len(node) == 1 && node[0] == "prompt") {
				t.Errorf("the report has header %v and trailer %v", o.GetHeader(), o.GetTrailer())
			}
		})
	}
}

// By summary_bytes a report drops what does not fit, and counts it.
func TestFanOutSummaryBytes(t *testing.T) {
	for keys, omits := range map[string]bool{"": false, "summary_bytes: 64, ": true} { // one outcome has 40 or more
		fleet := fanDaemon(t, "backend: machines, summary: true, "+keys+"unary: [Describe]")
		_, trailer, err := describe(t, fleet, "")
		if err != nil {
			t.Fatal(err)
		}
		report, err := fanout.ReadTrailer(trailer)
		if err != nil || report.GetOmitted() > 0 != omits || len(report.GetOutcomes())+int(report.GetOmitted()) != 2 {
			t.Errorf("%q: report %v, %v; outcomes omitted, as wanted: %v", keys, report, err, omits)
		}
	}
}

// tellingNode tells of the metadata of its calls.
type tellingNode struct {
	samplepb.UnimplementedFleetServiceServer
	got chan metadata.MD
}

func (n tellingNode) Describe(ctx context.Context, _ *samplepb.DescribeRequest) (*samplepb.DescribeResponse, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	n.got <- md

	return &samplepb.DescribeResponse{Nodes: []*samplepb.Node{{Backend: "a"}}}, nil
}

// What chooses the targets is not for them: one that knows the key itself would fan out once more.
func TestFanOutSelectStays(t *testing.T) {
	node := tellingNode{got: make(chan metadata.MD, 1)}
	d := startDaemon(t, Config{File: declare(t, `
frontends: [{name: f, listen: "127.0.0.1:0"}]
backends: {machines: {endpoints: {a: "%s", b: "127.0.0.1:1"}}}
routes: [{match: {metadata: {nodes: "*"}}, fan_out: {backend: machines, select: nodes, unary: [Describe]}}]
`, serveFleet(t, node))})
	fleet := samplepb.NewFleetServiceClient(connectTo(t, d, "f", insecure.NewCredentials()))
	if got, _, err := describe(t, fleet, "", "nodes", "a", "other", "x"); err != nil || len(got) != 1 {
		t.Fatalf("answers of %q, %v", got, err)
	}
	if md := receive(t, node.got, 1, "metadata")[0]; len(md.Get("nodes")) > 0 || len(md.Get("other")) != 1 {
		t.Errorf("the target got %v", md)
	}
}

// By max_metadata_bytes the headers and trailers of later targets are left out.
func TestFanOutMetadataBytes(t *testing.T) {
	now := make(chan struct{})
	close(now)
	node := serveFleet(t, promptNode{late: now})
	for keys, want := range map[string]int{"": 2, "max_metadata_bytes: 60, ": 1} { // a field of these has 39 and 44
		d := startDaemon(t, Config{File: declare(t, `
frontends: [{name: f, listen: "127.0.0.1:0"}]
backends: {a: {endpoints: ["%[1]s"]}, b: {endpoints: ["%[1]s"]}}
routes: [{fan_out: {backends: [a, b], policy: all, `+keys+`unary: [Describe]}}]
`, node)})
		var header, trailer metadata.MD
		fleet := samplepb.NewFleetServiceClient(connectTo(t, d, "f", insecure.NewCredentials()))
		if _, err := fleet.Describe(callContext(t), &samplepb.DescribeRequest{}, grpc.Header(&header), grpc.Trailer(&trailer)); err != nil {
			t.Fatal(err)
		}
		if h, tr := header.Get("x-rack"), trailer.Get("x-node"); len(h) != want || len(tr) != want {
			t.Errorf("%q: headers %q, trailers %q, want %d each", keys, h, tr, want)
		}
	}
}
