// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package splice_test

import (
	"context"
	"fmt"
	"log"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/manifold-grpc/manifold/proxy"
	"github.com/manifold-grpc/manifold/proxy/splice"
)

// A server that sends each call to all nodes, for an API in the layout of Talos. An [Annotator] makes a whole backend of
// a proxy.Upstream.
func ExampleNew() {
	var nodes []proxy.Backend

	for _, name := range []string{"10.5.0.2", "10.5.0.3"} {
		conn, err := grpc.NewClient(name+":50000", grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			log.Fatal(err)
		}
		defer conn.Close()

		annotator, err := splice.New(splice.TalosLayout(), name)
		if err != nil {
			log.Fatal(err)
		}

		nodes = append(nodes, &proxy.Upstream{Name: name, Channel: conn, Annotator: annotator})
	}

	director := func(context.Context, string) (proxy.Mode, []proxy.Backend, error) {
		return proxy.One2Many, nodes, nil
	}

	server := grpc.NewServer(
		grpc.ForceServerCodecV2(proxy.Codec()),
		grpc.UnknownServiceHandler(proxy.TransparentHandler(director)),
	)
	server.Stop() // in place of Serve

	fmt.Println(nodes)
	// Output:
	// [10.5.0.2 10.5.0.3]
}

// node is a backend of the program's own. It embeds the annotator for the three methods that it has.
type node struct {
	*splice.Annotator
	conn *grpc.ClientConn
}

func (n node) GetConnection(ctx context.Context, _ string) (context.Context, *grpc.ClientConn, error) {
	return ctx, n.conn, nil
}

// A backend type of one's own embeds the annotator. Here the element, its metadata, and within it the name and the
// error of the source are the fields 1, 15, 1 and 2.
func ExampleAnnotator() {
	annotator, err := splice.New(splice.Layout{Metadata: 15, Hostname: 1, Error: 2}, "node-7")
	if err != nil {
		log.Fatal(err)
	}

	var backend proxy.Backend = node{Annotator: annotator}

	answer, err := backend.AppendInfo(false, []byte("\n\x04\x12\x02ok"))
	fmt.Printf("%q %v\n", answer, err)

	failure, err := backend.BuildError(false, status.Error(codes.Unavailable, "down"))
	fmt.Printf("%q %v\n", failure, err)
	// Output:
	// "\n\x0e\x12\x02okz\b\n\x06node-7" <nil>
	// "\n5z3\n\x06node-7\x12)rpc error: code = Unavailable desc = down" <nil>
}
