// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package sample_test

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"slices"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/manifold-grpc/manifold/internal/certtest"
	"github.com/manifold-grpc/manifold/internal/sample"
	"github.com/manifold-grpc/manifold/internal/sample/samplepb"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// start runs a backend named "one" and returns a connection to it.
func start(t *testing.T) (*sample.Backend, *grpc.ClientConn) {
	t.Helper()

	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	backend := sample.Start(lis, sample.Options{Name: "one"})
	t.Cleanup(backend.Stop)

	return backend, dial(t, backend.Addr().String(), insecure.NewCredentials())
}

func dial(t *testing.T, addr string, creds credentials.TransportCredentials) *grpc.ClientConn {
	t.Helper()

	conn, err := grpc.NewClient("passthrough:"+addr, grpc.WithTransportCredentials(creds))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	})

	return conn
}

func callContext(t *testing.T) context.Context {
	t.Helper()

	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	t.Cleanup(cancel)

	return ctx
}

func TestEcho(t *testing.T) {
	_, conn := start(t)
	ctx := metadata.AppendToOutgoingContext(callContext(t),
		"sample-header-a", "1", "sample-header-a", "2",
		"sample-trailer-b-bin", "\x00\xff",
		"other", "x")

	var header, trailer metadata.MD
	resp, err := samplepb.NewEchoServiceClient(conn).Echo(ctx,
		&samplepb.EchoRequest{Text: "hello", Payload: []byte{0}, WantMetadata: true},
		grpc.Header(&header), grpc.Trailer(&trailer))
	if err != nil {
		t.Fatal(err)
	}

	if resp.GetText() != "hello" || string(resp.GetPayload()) != "\x00" || resp.GetBackend() != "one" || resp.GetSequence() != 1 {
		t.Errorf("answer = %v", resp)
	}
	if left := resp.GetTimeLeft().AsDuration(); left <= 0 || left > 10*time.Second {
		t.Errorf("time left = %v, want within the deadline of 10s", left)
	}
	if got := header.Get("sample-header-a"); !slices.Equal(got, []string{"1", "2"}) {
		t.Errorf("echoed header = %q", got)
	}
	if got := header.Get(sample.BackendHeader); !slices.Equal(got, []string{"one"}) {
		t.Errorf("%s = %q", sample.BackendHeader, got)
	}
	if got := trailer.Get("sample-trailer-b-bin"); !slices.Equal(got, []string{"\x00\xff"}) {
		t.Errorf("echoed trailer = %q", got)
	}

	received := map[string]string{}
	for _, entry := range resp.GetMetadata() {
		received[entry.GetKey()] = string(slices.Concat(entry.GetValues()...))
	}
	if received["other"] != "x" || received["sample-header-a"] != "12" || received["sample-trailer-b-bin"] != "\x00\xff" {
		t.Errorf("received metadata = %q", received)
	}
}

func TestFailWithDetails(t *testing.T) {
	_, conn := start(t)
	detail, err := anypb.New(&errdetails.ErrorInfo{Reason: "TEST", Domain: "example.org"})
	if err != nil {
		t.Fatal(err)
	}

	_, err = samplepb.NewEchoServiceClient(conn).Echo(callContext(t), &samplepb.EchoRequest{
		Fail: &samplepb.Status{Code: int32(codes.DataLoss), Message: "löst", Details: []*anypb.Any{detail}},
	})

	got := status.Convert(err)
	if got.Code() != codes.DataLoss || got.Message() != "löst" {
		t.Errorf("status = %v", got)
	}
	if details := got.Details(); len(details) != 1 || details[0].(*errdetails.ErrorInfo).GetReason() != "TEST" {
		t.Errorf("details = %v", details)
	}
}

func TestExpand(t *testing.T) {
	_, conn := start(t)
	stream, err := samplepb.NewEchoServiceClient(conn).Expand(callContext(t), &samplepb.ExpandRequest{
		Text: "x", Count: 3, Interval: durationpb.New(time.Millisecond),
		Fail: &samplepb.Status{Code: int32(codes.Aborted)},
	})
	if err != nil {
		t.Fatal(err)
	}

	for want := int32(1); want <= 3; want++ {
		resp, err := stream.Recv()
		if err != nil || resp.GetSequence() != want || resp.GetText() != "x" {
			t.Fatalf("answer %d = %v, %v", want, resp, err)
		}
	}
	if _, err := stream.Recv(); status.Code(err) != codes.Aborted {
		t.Errorf("end = %v, want Aborted", err)
	}
}

func TestCollect(t *testing.T) {
	_, conn := start(t)
	stream, err := samplepb.NewEchoServiceClient(conn).Collect(callContext(t))
	if err != nil {
		t.Fatal(err)
	}

	for _, text := range []string{"a", "b"} {
		if err := stream.Send(&samplepb.EchoRequest{Text: text, Payload: make([]byte, 10)}); err != nil {
			t.Fatal(err)
		}
	}

	resp, err := stream.CloseAndRecv()
	want := &samplepb.CollectResponse{Texts: []string{"a", "b"}, PayloadBytes: 20, Backend: "one"}
	if err != nil || !proto.Equal(resp, want) {
		t.Errorf("answer = %v, %v; want %v", resp, err, want)
	}
}

func TestChat(t *testing.T) {
	_, conn := start(t)
	stream, err := samplepb.NewEchoServiceClient(conn).Chat(callContext(t))
	if err != nil {
		t.Fatal(err)
	}

	if header, err := stream.Header(); err != nil || len(header.Get(sample.BackendHeader)) != 1 {
		t.Errorf("header before any message = %v, %v", header, err)
	}
	for sequence, text := range []string{"a", "b"} {
		if err := stream.Send(&samplepb.EchoRequest{Text: text}); err != nil {
			t.Fatal(err)
		}
		resp, err := stream.Recv()
		if err != nil || resp.GetText() != text || resp.GetSequence() != int32(sequence+1) {
			t.Errorf("answer to %q = %v, %v", text, resp, err)
		}
	}
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("end = %v, want EOF", err)
	}
}

func TestChatFails(t *testing.T) {
	_, conn := start(t)
	stream, err := samplepb.NewEchoServiceClient(conn).Chat(callContext(t))
	if err != nil {
		t.Fatal(err)
	}

	if err := stream.Send(&samplepb.EchoRequest{Fail: &samplepb.Status{Code: int32(codes.OutOfRange)}}); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); status.Code(err) != codes.OutOfRange {
		t.Errorf("end = %v, want OutOfRange", err)
	}
}

// A call that its caller gives up ends at the backend, which counts it.
func TestCancelIsCounted(t *testing.T) {
	backend, conn := start(t)
	ctx, cancel := context.WithCancel(callContext(t))
	stream, err := samplepb.NewEchoServiceClient(conn).Chat(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Header(); err != nil {
		t.Fatal(err)
	}

	if node := describe(t, conn); node.GetInFlight() != 1 || node.GetStarted() != 1 || node.GetCancelled() != 0 {
		t.Errorf("with a call open: %v", node)
	}

	cancel()
	for end := time.Now().Add(10 * time.Second); describe(t, conn).GetCancelled() == 0; {
		if time.Now().After(end) {
			t.Fatal("the backend does not count the cancelled call")
		}
	}
	backend.Stop() // waits for the handler
}

func describe(t *testing.T, conn *grpc.ClientConn) *samplepb.Node {
	t.Helper()

	resp, err := samplepb.NewFleetServiceClient(conn).Describe(callContext(t), &samplepb.DescribeRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if n := len(resp.GetNodes()); n != 1 {
		t.Fatalf("%d nodes, want 1", n)
	}

	return resp.GetNodes()[0]
}

func TestDelayEndsWithTheDeadline(t *testing.T) {
	_, conn := start(t)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()

	_, err := samplepb.NewEchoServiceClient(conn).Echo(ctx, &samplepb.EchoRequest{Delay: durationpb.New(time.Hour)})
	if status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("status = %v, want DeadlineExceeded", err)
	}
}

func TestFleet(t *testing.T) {
	_, conn := start(t)
	client := samplepb.NewFleetServiceClient(conn)

	if _, err := client.Describe(callContext(t), &samplepb.DescribeRequest{FailOn: "one"}); status.Code(err) != codes.Unavailable {
		t.Errorf("told to fail: %v", err)
	}
	if _, err := client.Describe(callContext(t), &samplepb.DescribeRequest{FailOn: "two"}); err != nil {
		t.Errorf("another told to fail: %v", err)
	}

	stream, err := client.Watch(callContext(t), &samplepb.WatchRequest{Count: 2, Interval: durationpb.New(time.Millisecond)})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if node, err := stream.Recv(); err != nil || node.GetBackend() != "one" {
			t.Errorf("report = %v, %v", node, err)
		}
	}
	if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("end = %v, want EOF", err)
	}
}

func TestHealth(t *testing.T) {
	backend, conn := start(t)
	for _, want := range []healthpb.HealthCheckResponse_ServingStatus{healthpb.HealthCheckResponse_SERVING, healthpb.HealthCheckResponse_NOT_SERVING} {
		backend.Health(want)
		resp, err := healthpb.NewHealthClient(conn).Check(callContext(t), &healthpb.HealthCheckRequest{})
		if err != nil || resp.GetStatus() != want {
			t.Errorf("health = %v, %v; want %v", resp, err, want)
		}
	}
}

func TestReflection(t *testing.T) {
	_, conn := start(t)
	stream, err := reflectionpb.NewServerReflectionClient(conn).ServerReflectionInfo(callContext(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&reflectionpb.ServerReflectionRequest{
		MessageRequest: &reflectionpb.ServerReflectionRequest_ListServices{},
	}); err != nil {
		t.Fatal(err)
	}

	resp, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, service := range resp.GetListServicesResponse().GetService() {
		names = append(names, service.GetName())
	}
	for _, want := range []string{"manifold.sample.v1.EchoService", "manifold.sample.v1.FleetService", "grpc.health.v1.Health"} {
		if !slices.Contains(names, want) {
			t.Errorf("reflection lists %q, want %s among them", names, want)
		}
	}
}

func TestNameDefaultsToAddress(t *testing.T) {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	backend := sample.Start(lis, sample.Options{})
	defer backend.Stop()

	if got, want := backend.Name(), lis.Addr().String(); got != want {
		t.Errorf("name = %q, want %q", got, want)
	}
}

func TestTLS(t *testing.T) {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	authority := certtest.New(t)
	backend := sample.Start(lis, sample.Options{TLS: &tls.Config{
		Certificates: []tls.Certificate{authority.Issue(t, "127.0.0.1").Certificate},
	}})
	defer backend.Stop()

	describe(t, dial(t, backend.Addr().String(), credentials.NewTLS(&tls.Config{RootCAs: authority.Pool})))
}
