// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package channel_test

import (
	"context"
	"fmt"
	"log"
	"net"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/manifold-grpc/manifold/relay"
	"github.com/manifold-grpc/manifold/relay/channel"
)

// A generated stub over a channel.
func Example() {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	server := grpc.NewServer()
	healthpb.RegisterHealthServer(server, health.NewServer())
	go server.Serve(l) //nolint:errcheck // ends with Stop
	defer server.Stop()

	endpoint := relay.NewEndpoint(l.Addr().String(), relay.EndpointConfig{})
	defer endpoint.Close()
	client := healthpb.NewHealthClient(channel.New(endpoint))

	answer, err := client.Check(context.Background(), &healthpb.HealthCheckRequest{})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(answer.Status)
	// Output: SERVING
}
