// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package readme

import (
	"context"
	"fmt"
	"log"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/manifold-grpc/manifold/internal/sample"
	"github.com/manifold-grpc/manifold/internal/sample/samplepb"
	"github.com/manifold-grpc/manifold/proxy"
	"github.com/manifold-grpc/manifold/relay"
)

func Example_proxy() {
	addrA, addrB, stop := startBackends()
	defer stop()
	connA, connB := dial(addrA), dial(addrB)
	defer connA.Close()
	defer connB.Close()
	listener := listen()

	backends, err := proxy.NewRoundRobin(
		&proxy.Upstream{Channel: connA},
		&proxy.Upstream{Channel: connB},
	)
	if err != nil {
		log.Fatal(err)
	}

	server := grpc.NewServer(
		grpc.ForceServerCodecV2(proxy.Codec()),
		grpc.UnknownServiceHandler(proxy.TransparentHandler(backends.Direct)),
	)

	go server.Serve(listener)
	defer server.Stop()
	callAll(listener.Addr())
	// Unordered output:
	// a answers
	// b answers
}

func Example_relay() {
	addrA, addrB, stop := startBackends()
	defer stop()
	listener := listen()

	backend := &relay.Backend{Name: "catalog", Endpoints: []*relay.Endpoint{
		relay.NewEndpoint(addrA, relay.EndpointConfig{}),
		relay.NewEndpoint(addrB, relay.EndpointConfig{}),
	}}
	server := &relay.Server{Route: func(c *relay.Call) { c.Forward(backend) }}

	go server.Serve(listener)
	defer server.Close()
	for _, endpoint := range backend.Endpoints {
		defer endpoint.Close()
	}
	callAll(listener.Addr())
	// Unordered output:
	// a answers
	// b answers
}

func startBackends() (addrA, addrB string, stop func()) {
	a := sample.Start(listen(), sample.Options{Name: "a"})
	b := sample.Start(listen(), sample.Options{Name: "b"})
	return a.Addr().String(), b.Addr().String(), func() { a.Stop(); b.Stop() }
}

func listen() net.Listener {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	return listener
}

func dial(addr string) *grpc.ClientConn {
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		log.Fatal(err)
	}
	return conn
}

// callAll makes calls over one connection until both backends have answered, and
// prints which have. An engine may pass over a backend that it is still connecting.
func callAll(addr net.Addr) {
	conn := dial(addr.String())
	defer conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	client := samplepb.NewEchoServiceClient(conn)
	for seen := map[string]bool{}; len(seen) < 2; {
		answer, err := client.Echo(ctx, &samplepb.EchoRequest{Text: "hello"})
		if err != nil {
			log.Fatal(err)
		}
		if name := answer.GetBackend(); !seen[name] {
			seen[name] = true
			fmt.Println(name, "answers")
		}
	}
}

// The Go in the README must be in the examples above, line by line.
func TestSnippets(t *testing.T) {
	t.Parallel()
	text := read(t, "../../README.md")
	source := unindent(read(t, "readme_test.go"))
	found := 0
	for _, part := range strings.Split(text, "```go\n")[1:] {
		snippet, _, _ := strings.Cut(part, "```")
		found++
		if !strings.Contains(source, unindent(snippet)) {
			t.Errorf("this part of the README is in no example:\n%s", snippet)
		}
	}
	if found == 0 {
		t.Error("the README has no Go in it: the test reads it wrongly")
	}
}

func read(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func unindent(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		b.WriteString(strings.TrimSpace(line) + "\n")
	}
	return b.String()
}
