// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

// Package methodkind finds out which methods stream their responses: from a descriptor set, as protoc
// writes it, or from a server's reflection service.
package methodkind

import (
	"context"
	"errors"
	"fmt"
	"io"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	reflection "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/descriptorpb"
)

// A Set holds methods, as "/service/method", and whether each streams its responses. It is safe for
// concurrent use as long as it does not change.
type Set map[string]bool

// Streams reports what is known of a method.
func (s Set) Streams(fullMethod string) (streams, known bool) {
	streams, known = s[fullMethod]

	return streams, known
}

// Read returns the methods of an encoded FileDescriptorSet. One without any is an error: it is of no use here.
func Read(p []byte) (Set, error) {
	var files descriptorpb.FileDescriptorSet
	if err := proto.Unmarshal(p, &files); err != nil {
		return nil, fmt.Errorf("no FileDescriptorSet: %w", err)
	}
	s := Set{}
	for _, f := range files.GetFile() {
		s.add(f)
	}
	if len(s) == 0 {
		return nil, errors.New("a FileDescriptorSet without methods, expected one with those of the route")
	}

	return s, nil
}

func (s Set) add(f *descriptorpb.FileDescriptorProto) {
	prefix := "/"
	if f.GetPackage() != "" {
		prefix += f.GetPackage() + "."
	}
	for _, service := range f.GetService() {
		for _, m := range service.GetMethod() {
			s[prefix+service.GetName()+"/"+m.GetName()] = m.GetServerStreaming()
		}
	}
}

// The names of the reflection service, the newer first. Their messages are the same on the wire.
var reflectionMethods = [...]string{
	reflection.ServerReflection_ServerReflectionInfo_FullMethodName,
	"/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
}

// Ask asks a server for the methods of a service, by reflection. A server that does not know the service makes an
// empty set. The error is a status: codes.Unimplemented from a server without reflection.
func Ask(ctx context.Context, conn grpc.ClientConnInterface, service string) (Set, error) {
	var err error
	for _, method := range reflectionMethods {
		var s Set
		if s, err = ask(ctx, conn, method, service); status.Code(err) != codes.Unimplemented {
			return s, err
		}
	}

	return nil, err
}

func ask(ctx context.Context, conn grpc.ClientConnInterface, method, service string) (Set, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // ends the stream
	stream, err := conn.NewStream(ctx, &reflection.ServerReflection_ServiceDesc.Streams[0], method)
	if err != nil {
		return nil, err
	}
	request := &reflection.ServerReflectionRequest{
		MessageRequest: &reflection.ServerReflectionRequest_FileContainingSymbol{FileContainingSymbol: service},
	}
	if err := stream.SendMsg(request); err != nil && !errors.Is(err, io.EOF) { // of io.EOF the status follows
		return nil, err
	}
	var response reflection.ServerReflectionResponse
	if err := stream.RecvMsg(&response); errors.Is(err, io.EOF) {
		return nil, status.Errorf(codes.Internal, "%s ended without an answer, expected one for %s", method, service)
	} else if err != nil {
		return nil, err
	}

	return read(&response)
}

// read returns the methods in a response.
func read(response *reflection.ServerReflectionResponse) (Set, error) {
	s := Set{}
	if e := response.GetErrorResponse(); e != nil {
		if code := codes.Code(e.GetErrorCode()); code != codes.NotFound { //nolint:gosec // a code, or nonsense either way
			return nil, status.Error(code, e.GetErrorMessage())
		}

		return s, nil
	}
	for _, raw := range response.GetFileDescriptorResponse().GetFileDescriptorProto() {
		var f descriptorpb.FileDescriptorProto
		if err := proto.Unmarshal(raw, &f); err != nil {
			return nil, status.Errorf(codes.Internal, "no FileDescriptorProto: %v", err)
		}
		s.add(&f)
	}

	return s, nil
}
