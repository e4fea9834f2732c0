// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package proxy_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"slices"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/manifold-grpc/manifold/fanout"
	"github.com/manifold-grpc/manifold/fanout/fanoutclient"
	"github.com/manifold-grpc/manifold/proxy"
)

// exampleNodes starts backends that answer with a version, or fail if it is empty. The function ends them.
func exampleNodes(versions ...string) ([]proxy.Backend, func()) {
	var (
		backends []proxy.Backend
		stops    []func()
	)

	for i, v := range versions {
		server := grpc.NewServer(grpc.UnknownServiceHandler(func(_ any, s grpc.ServerStream) error {
			if v == "" {
				return status.Error(codes.Internal, "disk failure")
			}

			return s.SendMsg(wrapperspb.String(v))
		}))
		conn, stop := inMemoryConn(server)
		stops = append(stops, stop)
		backends = append(backends, &proxy.Upstream{Name: fmt.Sprint("node-", i+1), Channel: conn})
	}

	return backends, func() {
		for _, stop := range stops {
			stop()
		}
	}
}

// A call that asks three nodes and is content with two. What became of each is in the trailer, so that a
// failure among good answers is not overlooked.
func ExampleWithFanout() {
	nodes, stop := exampleNodes("1.2", "", "1.3")
	defer stop()

	director := func(context.Context, string) (proxy.Mode, []proxy.Backend, error) { return proxy.One2Many, nodes, nil }
	unary := proxy.WithStreamedDetector(func(string) bool { return false })
	client, stopProxy := inMemoryConn(grpc.NewServer(proxy.ServerOptions(director, unary, proxy.WithFanout(proxy.Fanout{
		Policy:  fanout.BestEffort(), // fanout.Quorum(2) would not wait for the third
		Summary: true,
	}))...))

	defer stopProxy()

	var trailer metadata.MD

	answer := proxy.NewFrame(nil)
	err := client.Invoke(context.Background(), "/example.Fleet/Version", proxy.NewFrame(nil), answer, grpc.Trailer(&trailer))

	fmt.Println(status.Code(err), trailer[fanout.SummaryKey][0])
	// Output:
	// OK targets=3 ok=2 failed=1 cancelled=0; failures=node-2:INTERNAL
}

// Callers that know the envelope get each node's answer and each node's failure apart.
func ExampleFanout_envelope() {
	nodes, stop := exampleNodes("1.2", "", "1.3")
	defer stop()

	director := func(context.Context, string) (proxy.Mode, []proxy.Backend, error) { return proxy.One2Many, nodes, nil }
	conn, stopProxy := inMemoryConnOf(grpc.NewServer(proxy.ServerOptions(director, proxy.WithFanout(proxy.Fanout{
		Policy: fanout.BestEffort(), Envelope: true,
	}))...))

	defer stopProxy()

	var lines []string

	caller := fanoutclient.Caller[*wrapperspb.StringValue]{Conn: conn, Envelope: true}
	for answer, err := range caller.Call(context.Background(), "/example.Fleet/Version", wrapperspb.String("")) {
		var failed *fanoutclient.TargetError

		switch {
		case errors.As(err, &failed):
			lines = append(lines, fmt.Sprintf("%s failed: %s", failed.Target.Name, failed.Status.Message()))
		case err != nil:
			log.Fatal(err) // of the call itself
		default:
			lines = append(lines, fmt.Sprintf("%s runs %s", answer.Target.Name, answer.Message.GetValue()))
		}
	}

	slices.Sort(lines) // they come in the order in which the nodes answer
	fmt.Println(strings.Join(lines, "\n"))
	// Output:
	// node-1 runs 1.2
	// node-2 failed: disk failure
	// node-3 runs 1.3
}

// A merger makes of many answers one that no node could have given.
func ExampleMerger() {
	nodes, stop := exampleNodes("1.2", "1.4", "1.3")
	defer stop()

	newest := func(context.Context, string, []string) proxy.Merger {
		best := ""

		return func(e proxy.MergeEvent, send func([]byte) error) error {
			switch {
			case e.Message != nil:
				best = max(best, string(e.Message)) // encoded, but of one length and so in order
			case e.Last:
				return send([]byte(best))
			}

			return nil
		}
	}

	director := func(context.Context, string) (proxy.Mode, []proxy.Backend, error) { return proxy.One2Many, nodes, nil }
	client, stopProxy := inMemoryConnOf(grpc.NewServer(proxy.ServerOptions(director, proxy.WithFanout(proxy.Fanout{Merger: newest}))...))

	defer stopProxy()

	answer := &wrapperspb.StringValue{}
	if err := client.Invoke(context.Background(), "/example.Fleet/Version", wrapperspb.String(""), answer); err != nil {
		log.Fatal(err)
	}

	fmt.Println(answer.GetValue())
	// Output:
	// 1.4
}

// Callers name the nodes that they want, in metadata, and can name no others.
func ExampleChoice() {
	nodes, stop := exampleNodes("1.2", "1.4", "1.3")
	defer stop()

	choice := &proxy.Choice{
		Selection: fanout.Selection{Key: "nodes", Known: []string{"node-1", "node-2", "node-3"}},
		Backends:  map[string]proxy.Backend{"node-1": nodes[0], "node-2": nodes[1], "node-3": nodes[2]},
		Fanout:    &proxy.Fanout{Policy: fanout.BestEffort(), Summary: true, Guard: &fanout.Guard{ID: "example"}},
	}
	unary := proxy.WithStreamedDetector(func(string) bool { return false })
	client, stopProxy := inMemoryConn(grpc.NewServer(proxy.ServerOptions(choice.Direct, unary)...))

	defer stopProxy()

	for _, wanted := range []string{"node-1,node-3", "*", "node-9"} {
		var trailer metadata.MD

		ctx := metadata.AppendToOutgoingContext(context.Background(), "nodes", wanted)
		err := client.Invoke(ctx, "/example.Fleet/Version", proxy.NewFrame(nil), proxy.NewFrame(nil), grpc.Trailer(&trailer))

		fmt.Println(wanted, status.Code(err), trailer[fanout.SummaryKey])
	}
	// Output:
	// node-1,node-3 OK [targets=2 ok=2 failed=0 cancelled=0]
	// * OK [targets=3 ok=3 failed=0 cancelled=0]
	// node-9 PermissionDenied []
}
