// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package splice_test

import (
	"context"
	"fmt"
	"log"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/manifold-grpc/manifold/proxy"
	"github.com/manifold-grpc/manifold/proxy/splice"
)

// nodeBackend is a backend of the program's own. It embeds the annotator for the three methods that it has.
type nodeBackend struct {
	*splice.Annotator
	conn *grpc.ClientConn
}

func (b nodeBackend) GetConnection(ctx context.Context, _ string) (context.Context, *grpc.ClientConn, error) {
	return ctx, b.conn, nil
}

// A backend type of one's own embeds the annotator. Here the element, its metadata, and within it the name and the
// error of the source are the fields 1, 15, 1 and 2.
func ExampleAnnotator() {
	annotator, err := splice.New(splice.Layout{Metadata: 15, Hostname: 1, Error: 2}, "node-7")
	if err != nil {
		log.Fatal(err)
	}

	var backend proxy.Backend = nodeBackend{Annotator: annotator}

	answer, err := backend.AppendInfo(false, []byte("\n\x04\x12\x02ok"))
	fmt.Printf("%q %v\n", answer, err)

	failure, err := backend.BuildError(false, status.Error(codes.Unavailable, "down"))
	fmt.Printf("%q %v\n", failure, err)
	// Output:
	// "\n\x0e\x12\x02okz\b\n\x06node-7" <nil>
	// "\n5z3\n\x06node-7\x12)rpc error: code = Unavailable desc = down" <nil>
}
