// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package proxy_test

import (
	"context"
	"fmt"
	"log"
	"net"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"github.com/manifold-grpc/manifold/proxy"
)

// fleetNode is a backend of one-to-many calls. In this example messages are lines of text, which can be joined as
// protobuf messages of repeated fields can. For protobuf see package splice.
type fleetNode struct {
	name string
	conn *grpc.ClientConn // nil while the node is not known to be there
}

func (n *fleetNode) String() string { return n.name }

func (n *fleetNode) GetConnection(ctx context.Context, _ string) (context.Context, *grpc.ClientConn, error) {
	if n.conn == nil {
		return nil, nil, status.Error(codes.Unavailable, "not connected")
	}

	md, _ := metadata.FromIncomingContext(ctx)

	return metadata.NewOutgoingContext(ctx, md.Copy()), n.conn, nil
}

// AppendInfo says where an answer comes from.
func (n *fleetNode) AppendInfo(_ bool, resp []byte) ([]byte, error) {
	return fmt.Appendf(nil, "%s: %s\n", n.name, resp), nil
}

// BuildError makes an answer of an error, so that the other nodes' answers are not lost.
func (n *fleetNode) BuildError(_ bool, err error) ([]byte, error) {
	return fmt.Appendf(nil, "%s: error: %v\n", n.name, err), nil
}

// One call goes to all nodes, and the answers come back as one, each with its source. A node that cannot be
// reached costs its own answer only.
func ExampleBackend() {
	version := func(number string) *grpc.Server {
		return grpc.NewServer(grpc.ForceServerCodecV2(proxy.Codec()), grpc.UnknownServiceHandler(
			func(_ any, s grpc.ServerStream) error { return s.SendMsg(proxy.NewFrame([]byte("version " + number))) }))
	}

	nodeA, stopA := inMemoryConn(version("1.2"))
	defer stopA()

	nodeB, stopB := inMemoryConn(version("1.3"))
	defer stopB()

	fleet := []proxy.Backend{&fleetNode{"node-a", nodeA}, &fleetNode{"node-b", nodeB}, &fleetNode{"node-c", nil}}

	director := func(context.Context, string) (proxy.Mode, []proxy.Backend, error) {
		return proxy.One2Many, fleet, nil
	}

	unary := proxy.WithStreamedDetector(func(fullMethodName string) bool { return false })

	client, stop := inMemoryConn(grpc.NewServer(proxy.ServerOptions(director, unary)...))
	defer stop()

	answer := proxy.NewFrame(nil).(*proxy.Frame)
	if err := client.Invoke(context.Background(), "/example.Fleet/Version", proxy.NewFrame(nil), answer); err != nil {
		log.Fatal(err)
	}

	fmt.Printf("%s", answer.Bytes())
	// Output:
	// node-a: version 1.2
	// node-b: version 1.3
	// node-c: error: rpc error: code = Unavailable desc = not connected
}

// inMemoryConn serves s and returns a connection to it for frames, and a function that ends both.
func inMemoryConn(s *grpc.Server) (*grpc.ClientConn, func()) {
	return inMemoryConnOf(s, grpc.WithDefaultCallOptions(grpc.ForceCodecV2(proxy.Codec())))
}

// inMemoryConnOf is the same with other options.
func inMemoryConnOf(s *grpc.Server, opts ...grpc.DialOption) (*grpc.ClientConn, func()) {
	l := bufconn.Listen(1 << 16)
	go func() { _ = s.Serve(l) }() // ends with s.Stop

	conn, err := grpc.NewClient("passthrough:///memory", append(opts,
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }),
		grpc.WithTransportCredentials(insecure.NewCredentials()))...)
	if err != nil {
		log.Fatal(err)
	}

	return conn, func() {
		_ = conn.Close()
		s.Stop()
	}
}
