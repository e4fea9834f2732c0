// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

//go:build !race

package bench

import (
	"context"
	"slices"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// A message that passes through costs no allocation of its size: a 1 MiB echo
// between a client and a backend that decode protobuf allocates, client, proxy
// and backend together, at most 10 % more than the same call without a proxy. The
// promise is weaker: 5 % more than two such calls.
//
// The race detector is left out: it makes pools drop what they are given.
func TestMebibyteEchoAllocatesNoPayload(t *testing.T) {
	handler := func(_ any, s grpc.ServerStream) error {
		var m wrapperspb.BytesValue
		if err := s.RecvMsg(&m); err != nil {
			return err
		}
		return s.SendMsg(&m)
	}
	addr, stop, err := serve(grpc.NewServer(grpc.UnknownServiceHandler(handler)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
	through, stop, err := Manifold.Start([]string{addr})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)

	direct, proxied := bytesPerCall(t, connect(t, addr)), bytesPerCall(t, connect(t, through))
	t.Logf("bytes per 1 MiB echo: %.0f direct, %.0f proxied: %.3f of one direct call, %.3f of two", direct, proxied, proxied/direct, proxied/(2*direct))
	if proxied > 1.1*direct {
		t.Errorf("a proxied call allocates %.0f bytes, a direct one %.0f, expected at most 10 %% more", proxied, direct)
	}
}

// bytesPerCall returns what the process allocates per echo of 1 MiB: the median
// of some batches, since the collector empties pools when it likes.
func bytesPerCall(t *testing.T, conn *grpc.ClientConn) float64 {
	t.Helper()
	const batches, calls = 9, 20
	request := wrapperspb.Bytes(pattern(1 << 20))
	decoding := grpc.ForceCodecV2(encoding.GetCodecV2("proto")) // in place of this package's
	var samples []float64
	for range batches {
		before, err := CurrentUsage()
		if err != nil {
			t.Fatal(err)
		}
		for range calls {
			var answer wrapperspb.BytesValue
			if err := conn.Invoke(context.Background(), serviceOne+"Echo", request, &answer, decoding); err != nil {
				t.Fatal(err)
			}
			if !proto.Equal(request, &answer) {
				t.Fatal("the answer differs from what was sent")
			}
		}
		after, err := CurrentUsage()
		if err != nil {
			t.Fatal(err)
		}
		samples = append(samples, float64(after.Sub(before).Bytes)/calls)
	}
	slices.Sort(samples)
	return samples[len(samples)/2]
}
