// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package backend

import (
	"net"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/manifold-grpc/manifold/bench/peers/octets"
	"github.com/manifold-grpc/manifold/bench/peers/wire"
)

// The backend on grpc-go finds what a proxy may do to a request too, and tells of it once.
func TestStockFaults(t *testing.T) {
	good := wire.AppendPayload(nil, wire.Head{Call: 3}, 100)
	second := wire.AppendPayload(nil, wire.Head{Call: 3, Seq: 1}, 100)
	damaged := wire.AppendPayload(nil, wire.Head{Call: 3}, 100)
	damaged[50] ^= 1
	for _, tt := range []struct {
		name, path, want string
		message          []byte
	}{
		{"nothing", PathEcho, "", good},
		{"no such method", "/a/b", `no method "/a/b"`, good},
		{"deadline lost", PathTimed, "deadline", good},
		{"damaged", PathEcho, "differs", damaged},
		{"short", PathEcho, "message of 3 octets", good[:3]},
		{"first message lost", PathEcho, "number 1", second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			lis, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			s := ServeStock(lis)
			defer s.Close()
			conn, err := grpc.NewClient("passthrough:///"+lis.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()),
				grpc.WithDefaultCallOptions(grpc.ForceCodecV2(octets.Codec{})))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close() //nolint:errcheck // over either way
			var response []byte
			err = conn.Invoke(t.Context(), tt.path, &tt.message, &response)
			fault := s.Fault()
			if (err == nil) != (tt.want == "") || !strings.Contains(fault, tt.want) || (fault == "") != (tt.want == "") {
				t.Errorf("%v, fault %q, expected one with %q", err, fault, tt.want)
			}
			if err == nil && string(response) != string(good) {
				t.Error("the echo differs")
			}
			if again := s.Fault(); again != "" {
				t.Errorf("told again: %q", again)
			}
		})
	}
}
