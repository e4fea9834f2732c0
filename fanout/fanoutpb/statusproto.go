// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

//go:build ignore

// Command statusproto writes the descriptor set of google/rpc/status.proto, and of
// what it imports, to its standard output: protoc does not come with it.
package main

import (
	"log"
	"os"

	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
)

func main() {
	set, err := proto.Marshal(&descriptorpb.FileDescriptorSet{File: []*descriptorpb.FileDescriptorProto{
		protodesc.ToFileDescriptorProto(anypb.File_google_protobuf_any_proto),
		protodesc.ToFileDescriptorProto(durationpb.File_google_protobuf_duration_proto),
		protodesc.ToFileDescriptorProto(spb.File_google_rpc_status_proto),
	}})
	if err != nil {
		log.Fatal(err)
	}
	if _, err := os.Stdout.Write(set); err != nil {
		log.Fatal(err)
	}
}
