// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package relay_test

import (
	"context"
	"fmt"
	"log"
	"net"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/protobuf/proto"

	"github.com/manifold-grpc/manifold/fanout"
	"github.com/manifold-grpc/manifold/relay"
)

// worst makes mergers that answer with the worst of the nodes' health. It is called with locks of the relay held, so it
// only computes.
func worst(*relay.Call, []string) relay.Merger {
	answer := &healthpb.HealthCheckResponse{Status: healthpb.HealthCheckResponse_SERVING}
	return func(e relay.MergeEvent, send func(message []byte)) error {
		switch {
		case e.Message != nil:
			var one healthpb.HealthCheckResponse
			if err := proto.Unmarshal(e.Message, &one); err != nil {
				return err // the failure of this node
			}
			if one.Status != healthpb.HealthCheckResponse_SERVING {
				answer.Status = one.Status
			}
		case e.Last:
			message, err := proto.Marshal(answer)
			if err != nil {
				return err
			}
			send(message)
		}
		return nil
	}
}

// A merger makes one answer of many: here whether all of three nodes are healthy, which none of them knows.
func ExampleNewMerger() {
	var targets []relay.Target
	for i, status := range []healthpb.HealthCheckResponse_ServingStatus{1, 2, 1} { // the second is not serving
		addr, stop := healthServer(status)
		defer stop()
		endpoint := relay.NewEndpoint(addr, relay.EndpointConfig{})
		defer endpoint.Close()
		name := fmt.Sprint("node-", i+1)
		targets = append(targets, relay.Target{Name: name, Backend: &relay.Backend{Name: name, Endpoints: []*relay.Endpoint{endpoint}}})
	}

	fan := &relay.FanOut{Policy: fanout.All(), Merger: worst}
	server := &relay.Server{Route: func(c *relay.Call) { c.FanOut(fan, targets) }}
	listener := loopback()
	go server.Serve(listener) //nolint:errcheck // ends with Close
	defer server.Close()

	conn, err := grpc.NewClient(listener.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close() //nolint:errcheck // nothing is left to lose
	answer, err := healthpb.NewHealthClient(conn).Check(context.Background(), &healthpb.HealthCheckRequest{})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(answer.Status)
	// Output: NOT_SERVING
}

// healthServer starts a server that says status of itself.
func healthServer(status healthpb.HealthCheckResponse_ServingStatus) (addr string, stop func()) {
	service := health.NewServer()
	service.SetServingStatus("", status)
	server := grpc.NewServer()
	healthpb.RegisterHealthServer(server, service)
	listener := loopback()
	go server.Serve(listener) //nolint:errcheck // ends with Stop
	return listener.Addr().String(), server.Stop
}

func loopback() net.Listener {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	return listener
}
