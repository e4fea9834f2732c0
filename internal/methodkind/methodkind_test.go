// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package methodkind_test

import (
	"context"
	"maps"
	"net"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/reflection"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/types/descriptorpb"

	"github.com/manifold-grpc/manifold/internal/methodkind"
	"github.com/manifold-grpc/manifold/internal/sample/samplepb"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long a test waits for what must come.
const patience = 30 * time.Second

// file returns a descriptor with a service whose methods are of all four kinds.
func file(pkg, service string) *descriptorpb.FileDescriptorProto {
	method := func(name string, client, server bool) *descriptorpb.MethodDescriptorProto {
		return &descriptorpb.MethodDescriptorProto{Name: new(name), ClientStreaming: new(client), ServerStreaming: new(server)}
	}

	return &descriptorpb.FileDescriptorProto{
		Name: new(pkg + service), Package: new(pkg),
		Service: []*descriptorpb.ServiceDescriptorProto{{Name: new(service), Method: []*descriptorpb.MethodDescriptorProto{
			method("One", false, false), method("Many", false, true), method("Upload", true, false), method("Talk", true, true),
		}}},
	}
}

func marshal(t *testing.T, m proto.Message) []byte {
	t.Helper()
	p, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}

	return p
}

func kinds(prefix string) methodkind.Set {
	return methodkind.Set{prefix + "One": false, prefix + "Many": true, prefix + "Upload": false, prefix + "Talk": true}
}

func TestRead(t *testing.T) {
	both := kinds("/a.b.S/")
	maps.Copy(both, kinds("/Bare/"))
	empty := &descriptorpb.FileDescriptorProto{Name: new("empty"), Service: []*descriptorpb.ServiceDescriptorProto{{Name: new("S")}}}
	tests := []struct {
		name string
		in   []byte
		want methodkind.Set
		err  string
	}{
		{"packages, and none", marshal(t, &descriptorpb.FileDescriptorSet{File: []*descriptorpb.FileDescriptorProto{
			file("a.b", "S"), file("", "Bare"), empty,
		}}), both, ""},
		{"empty", nil, nil, "without methods"},
		{"no methods", marshal(t, &descriptorpb.FileDescriptorSet{File: []*descriptorpb.FileDescriptorProto{empty}}), nil, "without methods"},
		{"text", []byte("syntax = \"proto3\";"), nil, "no FileDescriptorSet"},
		{"cut", marshal(t, &descriptorpb.FileDescriptorSet{File: []*descriptorpb.FileDescriptorProto{file("a", "S")}})[:20], nil, "no FileDescriptorSet"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := methodkind.Read(tt.in)
			if tt.err == "" && err != nil || tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err)) {
				t.Fatalf("error %v, want %q", err, tt.err)
			}
			if !maps.Equal(got, tt.want) {
				t.Errorf("%v, want %v", got, tt.want)
			}
		})
	}
}

func TestStreams(t *testing.T) {
	set := kinds("/S/")
	for method, want := range map[string][2]bool{"/S/One": {false, true}, "/S/Talk": {true, true}, "/S/other": {}, "S/One": {}, "": {}} {
		if streams, known := set.Streams(method); streams != want[0] || known != want[1] {
			t.Errorf("%q: streams %t, known %t", method, streams, known)
		}
	}
	if streams, known := methodkind.Set(nil).Streams("/S/One"); streams || known {
		t.Error("nothing is known, and something was said")
	}
}

// serve runs a server and returns a channel to it.
func serve(t *testing.T, register func(*grpc.Server), opts ...grpc.ServerOption) *grpc.ClientConn {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer(opts...)
	register(s)
	done := make(chan struct{})
	go func() { // ends with Stop
		defer close(done)
		_ = s.Serve(lis)
	}()
	t.Cleanup(func() { s.Stop(); <-done })
	conn, err := grpc.NewClient(lis.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })

	return conn
}

// A reflector answers each question as its function says; nil: by the end of the stream.
type reflector struct {
	reflectionpb.UnimplementedServerReflectionServer
	answer func(*reflectionpb.ServerReflectionRequest) (*reflectionpb.ServerReflectionResponse, error)
}

func (r reflector) ServerReflectionInfo(st reflectionpb.ServerReflection_ServerReflectionInfoServer) error {
	q, err := st.Recv()
	if err != nil {
		return err
	}
	a, err := r.answer(q)
	if err != nil || a == nil {
		return err
	}

	return st.Send(a)
}

// reflecting registers an answer under a name of the reflection service.
func reflecting(service string, answer func(*reflectionpb.ServerReflectionRequest) (*reflectionpb.ServerReflectionResponse, error)) func(*grpc.Server) {
	desc := reflectionpb.ServerReflection_ServiceDesc
	desc.ServiceName = service

	return func(s *grpc.Server) { s.RegisterService(&desc, reflector{answer: answer}) }
}

const (
	v1      = "grpc.reflection.v1.ServerReflection"
	v1alpha = "grpc.reflection.v1alpha.ServerReflection"
)

func files(t *testing.T, list ...*descriptorpb.FileDescriptorProto) *reflectionpb.ServerReflectionResponse {
	t.Helper()
	var raw [][]byte
	for _, f := range list {
		raw = append(raw, marshal(t, f))
	}

	return described(raw...)
}

func described(raw ...[]byte) *reflectionpb.ServerReflectionResponse {
	return &reflectionpb.ServerReflectionResponse{MessageResponse: &reflectionpb.ServerReflectionResponse_FileDescriptorResponse{
		FileDescriptorResponse: &reflectionpb.FileDescriptorResponse{FileDescriptorProto: raw},
	}}
}

func refused(code codes.Code) *reflectionpb.ServerReflectionResponse {
	return &reflectionpb.ServerReflectionResponse{MessageResponse: &reflectionpb.ServerReflectionResponse_ErrorResponse{
		ErrorResponse: &reflectionpb.ErrorResponse{ErrorCode: int32(code), ErrorMessage: "so it is"},
	}}
}

// What servers may answer, and what comes of it.
func TestAsk(t *testing.T) {
	tests := []struct {
		name, version string
		answer        *reflectionpb.ServerReflectionResponse
		err           error
		want          methodkind.Set
		code          codes.Code
	}{
		{name: "v1", version: v1, answer: files(t, file("a", "S")), want: kinds("/a.S/")},
		{name: "v1alpha alone", version: v1alpha, answer: files(t, file("a", "S")), want: kinds("/a.S/")},
		{name: "with what it depends on", version: v1, answer: files(t, file("", "S"), &descriptorpb.FileDescriptorProto{Name: new("x")}), want: kinds("/S/")},
		{name: "unknown service", version: v1, answer: refused(codes.NotFound), want: methodkind.Set{}},
		{name: "refused", version: v1, answer: refused(codes.PermissionDenied), code: codes.PermissionDenied},
		{name: "no descriptor", version: v1, answer: described([]byte("\xff")), code: codes.Internal},
		{name: "another answer", version: v1, answer: &reflectionpb.ServerReflectionResponse{}, want: methodkind.Set{}},
		{name: "status", version: v1, err: status.Error(codes.Unauthenticated, "who"), code: codes.Unauthenticated},
		{name: "no reflection", version: "other.Service", code: codes.Unimplemented},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			asked := make(chan string, 1)
			conn := serve(t, reflecting(tt.version, func(q *reflectionpb.ServerReflectionRequest) (*reflectionpb.ServerReflectionResponse, error) {
				asked <- q.GetFileContainingSymbol()
				return tt.answer, tt.err
			}))
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			got, err := methodkind.Ask(ctx, conn, "a.S")
			if status.Code(err) != tt.code || !maps.Equal(got, tt.want) || (got == nil) != (tt.want == nil) {
				t.Errorf("%v, %v; want %v, %v", got, err, tt.want, tt.code)
			}
			if tt.code != codes.Unimplemented {
				if symbol := <-asked; symbol != "a.S" {
					t.Errorf("asked for %q", symbol)
				}
			}
		})
	}
}

// A stream that ends well without an answer is an error, not an empty set: that would mean that nothing streams.
func TestAskWithoutAnswer(t *testing.T) {
	conn := serve(t, reflecting(v1, func(*reflectionpb.ServerReflectionRequest) (*reflectionpb.ServerReflectionResponse, error) {
		return nil, nil
	}))
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	set, err := methodkind.Ask(ctx, conn, "a.S")
	if set != nil || status.Code(err) != codes.Internal {
		t.Errorf("%v, %v, want a status of Internal", set, err)
	}
}

// A server that takes the question and is silent is asked no longer than the context lasts, and no stream stays.
func TestAskSilence(t *testing.T) {
	began, ended := make(chan struct{}), make(chan struct{})
	conn := serve(t, func(*grpc.Server) {}, grpc.UnknownServiceHandler(func(_ any, st grpc.ServerStream) error {
		close(began)
		<-st.Context().Done()
		close(ended)
		return nil
	}))
	ctx, cancel := context.WithCancel(t.Context())
	go func() { // ends with the call's beginning
		<-began
		cancel()
	}()
	if set, err := methodkind.Ask(ctx, conn, "a.S"); set != nil || status.Code(err) != codes.Canceled {
		t.Errorf("%v, %v, want the context's end", set, err)
	}
	select {
	case <-ended:
	case <-time.After(patience):
		t.Error("the stream goes on")
	}
}

// What grpc-go's own reflection says of a real service is what its descriptor says.
func TestAskGRPCGo(t *testing.T) {
	conn := serve(t, func(s *grpc.Server) {
		samplepb.RegisterEchoServiceServer(s, samplepb.UnimplementedEchoServiceServer{})
		reflection.Register(s)
	})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	got, err := methodkind.Ask(ctx, conn, samplepb.EchoService_ServiceDesc.ServiceName)
	if err != nil {
		t.Fatal(err)
	}
	service := samplepb.EchoService_ServiceDesc
	for _, m := range service.Methods {
		if streams, known := got.Streams("/" + service.ServiceName + "/" + m.MethodName); streams || !known {
			t.Errorf("%s: streams %t, known %t", m.MethodName, streams, known)
		}
	}
	for _, m := range service.Streams {
		if streams, known := got.Streams("/" + service.ServiceName + "/" + m.StreamName); streams != m.ServerStreams || !known {
			t.Errorf("%s: streams %t, known %t, want %t", m.StreamName, streams, known, m.ServerStreams)
		}
	}
	set, err := methodkind.Read(marshal(t, &descriptorpb.FileDescriptorSet{File: []*descriptorpb.FileDescriptorProto{
		protodesc.ToFileDescriptorProto(samplepb.File_internal_sample_samplepb_sample_proto),
	}}))
	if err != nil {
		t.Fatal(err)
	}
	for method, streams := range got {
		if want, known := set.Streams(method); known && want != streams {
			t.Errorf("%s: reflection says %t, the descriptor %t", method, streams, want)
		}
	}
}
