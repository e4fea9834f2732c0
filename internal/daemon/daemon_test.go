// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"errors"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/metadata"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/manifold-grpc/manifold/internal/sample"
	"github.com/manifold-grpc/manifold/internal/sample/samplepb"
	"github.com/manifold-grpc/manifold/proxy/splice"
	"github.com/manifold-grpc/manifold/relay"
)

func TestEachCallToTheNextBackend(t *testing.T) {
	d := startDaemon(t, Config{Endpoints: endpoints(startBackends(t, 3)...)})
	conn := connect(t, d)

	var got []string
	for range 6 {
		backend, err := echo(callContext(t), conn)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, backend)
	}

	if want := []string{"0", "1", "2", "0", "1", "2"}; !slices.Equal(got, want) {
		t.Errorf("backends of calls on one connection = %q, want %q", got, want)
	}
}

// Once Start has returned, each endpoint is known to be up or down.
func TestStartTriesEndpoints(t *testing.T) {
	backends := startBackends(t, 3)
	backends[2].Stop()
	var log logBuffer
	startDaemon(t, Config{Endpoints: endpoints(backends...), Log: log.logger()})

	text := log.String()
	if up, down := strings.Count(text, "backend connected"), strings.Count(text, "backend not reachable"); up != 2 || down != 1 {
		t.Errorf("%d endpoints are up and %d down, want 2 and 1:\n%s", up, down, text)
	}
}

func TestUnary(t *testing.T) {
	d := startDaemon(t, Config{Endpoints: endpoints(startBackends(t, 1)...)})
	ctx := metadata.AppendToOutgoingContext(callContext(t),
		"sample-header-a", "1", "sample-header-a", "2", "sample-trailer-b-bin", "\x00\xff")
	// Above the 4 MiB at which grpc-go stops by default.
	payload := make([]byte, 5<<20)

	var header, trailer metadata.MD
	resp, err := samplepb.NewEchoServiceClient(connect(t, d)).Echo(ctx,
		&samplepb.EchoRequest{Text: "hello", Payload: payload},
		grpc.Header(&header), grpc.Trailer(&trailer), grpc.MaxCallRecvMsgSize(6<<20))
	if err != nil {
		t.Fatal(err)
	}

	if resp.GetText() != "hello" || !slices.Equal(resp.GetPayload(), payload) {
		t.Errorf("answer = %q and %d bytes", resp.GetText(), len(resp.GetPayload()))
	}
	if left := resp.GetTimeLeft().AsDuration(); left <= 0 || left > testTimeout {
		t.Errorf("time left at the backend = %v, want that of the caller", left)
	}
	if got := header.Get("sample-header-a"); !slices.Equal(got, []string{"1", "2"}) {
		t.Errorf("header = %q", got)
	}
	if got := trailer.Get("sample-trailer-b-bin"); !slices.Equal(got, []string{"\x00\xff"}) {
		t.Errorf("trailer = %q", got)
	}
}

func TestStreams(t *testing.T) {
	d := startDaemon(t, Config{Endpoints: endpoints(startBackends(t, 1)...)})
	client := samplepb.NewEchoServiceClient(connect(t, d))

	t.Run("server", func(t *testing.T) {
		stream, err := client.Expand(callContext(t), &samplepb.ExpandRequest{Count: 3})
		if err != nil {
			t.Fatal(err)
		}
		for want := int32(1); want <= 3; want++ {
			if resp, err := stream.Recv(); err != nil || resp.GetSequence() != want {
				t.Errorf("answer %d = %v, %v", want, resp, err)
			}
		}
		if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
			t.Errorf("end = %v", err)
		}
	})
	t.Run("client", func(t *testing.T) {
		stream, err := client.Collect(callContext(t))
		if err != nil {
			t.Fatal(err)
		}
		for _, text := range []string{"a", "b"} {
			if err := stream.Send(&samplepb.EchoRequest{Text: text}); err != nil {
				t.Fatal(err)
			}
		}
		if resp, err := stream.CloseAndRecv(); err != nil || !slices.Equal(resp.GetTexts(), []string{"a", "b"}) {
			t.Errorf("answer = %v, %v", resp, err)
		}
	})
	t.Run("bidi", func(t *testing.T) {
		stream := openChat(t, connect(t, d))
		for _, text := range []string{"a", "b"} {
			if err := stream.Send(&samplepb.EchoRequest{Text: text}); err != nil {
				t.Fatal(err)
			}
			if resp, err := stream.Recv(); err != nil || resp.GetText() != text {
				t.Errorf("answer to %q = %v, %v", text, resp, err)
			}
		}
		if err := stream.CloseSend(); err != nil {
			t.Fatal(err)
		}
		if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
			t.Errorf("end = %v", err)
		}
	})
}

func TestCompressed(t *testing.T) {
	d := startDaemon(t, Config{Endpoints: endpoints(startBackends(t, 1)...)})
	payload := make([]byte, 1<<20)

	resp, err := samplepb.NewEchoServiceClient(connect(t, d)).Echo(callContext(t),
		&samplepb.EchoRequest{Payload: payload}, grpc.UseCompressor(gzip.Name))
	if err != nil || !slices.Equal(resp.GetPayload(), payload) {
		t.Errorf("answer of %d bytes, %v", len(resp.GetPayload()), err)
	}
}

func TestErrorWithDetails(t *testing.T) {
	d := startDaemon(t, Config{Endpoints: endpoints(startBackends(t, 1)...)})
	detail, err := anypb.New(&errdetails.ErrorInfo{Reason: "TEST"})
	if err != nil {
		t.Fatal(err)
	}

	_, err = samplepb.NewEchoServiceClient(connect(t, d)).Echo(callContext(t), &samplepb.EchoRequest{
		Fail: &samplepb.Status{Code: int32(codes.DataLoss), Message: "löst\n100%", Details: []*anypb.Any{detail}},
	})

	got := status.Convert(err)
	if got.Code() != codes.DataLoss || got.Message() != "löst\n100%" {
		t.Errorf("status = %v", got)
	}
	if details := got.Details(); len(details) != 1 || details[0].(*errdetails.ErrorInfo).GetReason() != "TEST" {
		t.Errorf("details = %v", details)
	}
}

// A caller's cancel ends the call at the backend.
func TestCancel(t *testing.T) {
	backends := startBackends(t, 1)
	conn := connect(t, startDaemon(t, Config{Endpoints: endpoints(backends...)}))
	ctx, cancel := context.WithCancel(callContext(t))
	stream, err := samplepb.NewEchoServiceClient(conn).Chat(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Header(); err != nil {
		t.Fatal(err)
	}

	cancel()
	if _, err := stream.Recv(); status.Code(err) != codes.Canceled {
		t.Errorf("the caller gets %v, want Canceled", err)
	}

	for end := callContext(t); ; {
		resp, err := samplepb.NewFleetServiceClient(conn).Describe(end, &samplepb.DescribeRequest{})
		if err != nil {
			t.Fatal(err)
		}
		if resp.GetNodes()[0].GetCancelled() == 1 {
			break
		}
	}
}

// Reflection is that of a backend, not of the proxy.
func TestReflectionPassesThrough(t *testing.T) {
	d := startDaemon(t, Config{Endpoints: endpoints(startBackends(t, 2)...)})
	stream, err := reflectionpb.NewServerReflectionClient(connect(t, d)).ServerReflectionInfo(callContext(t))
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

	names := map[string]bool{}
	for _, service := range resp.GetListServicesResponse().GetService() {
		names[service.GetName()] = true
	}
	if !names[samplepb.EchoService_ServiceDesc.ServiceName] {
		t.Errorf("reflection lists %q, want the backend's services", slices.Sorted(maps.Keys(names)))
	}
}

// A backend that is gone loses its turns, and has them again when it is back.
func TestBackendGoneAndBack(t *testing.T) {
	backends := startBackends(t, 2)
	var log logBuffer
	d := startDaemon(t, Config{Endpoints: endpoints(backends...), Log: log.logger()})
	conn := connect(t, d)
	gone := endpointOf(d, 1)
	for range 2 { // then both are connected
		if _, err := echo(callContext(t), conn); err != nil {
			t.Fatal(err)
		}
	}

	backends[1].Stop()
	waitForState(t, gone, relay.Failing)
	for range 4 {
		if backend, err := echo(callContext(t), conn); err != nil || backend != "0" {
			t.Errorf("with backend 1 gone: answer of %q, %v; want one of 0", backend, err)
		}
	}

	startBackend(t, Address{Network: "tcp", Addr: gone.Addr()}, sample.Options{Name: "1"})
	waitForState(t, gone, relay.Ready)
	seen := map[string]int{}
	for range 4 {
		backend, err := echo(callContext(t), conn)
		if err != nil {
			t.Fatal(err)
		}
		seen[backend]++
	}
	if seen["0"] != 2 || seen["1"] != 2 {
		t.Errorf("with backend 1 back: calls per backend = %v, want 2 each", seen)
	}

	shutdown(t, d)
	for _, want := range []string{"backend connected", "backend not reachable"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("no %q in the log:\n%s", want, log.String())
		}
	}
}

func waitForState(t *testing.T, e *relay.Endpoint, want relay.State) {
	t.Helper()

	ctx := callContext(t)
	for state := e.State(); state != want; state = e.State() {
		if !e.WaitForStateChange(ctx, state) {
			t.Fatalf("endpoint is %v, want %v within %v", state, want, testTimeout)
		}
	}
}

// With nobody to forward to, the error says where nobody is.
func TestAllBackendsGone(t *testing.T) {
	backend := startBackends(t, 1)[0]
	backend.Stop()
	d := startDaemon(t, Config{Endpoints: endpoints(backend)})

	_, err := echo(callContext(t), connect(t, d))
	if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), backend.Addr().String()) {
		t.Errorf("error = %v, want Unavailable that names %s", err, backend.Addr())
	}
}

func TestFanOut(t *testing.T) {
	backends := startBackends(t, 3)
	fleet := samplepb.FleetService_ServiceDesc.ServiceName
	d := startDaemon(t, Config{
		Endpoints: endpoints(backends...),
		FanOut: FanOut{
			Services:  []string{fleet},
			Layout:    splice.Layout{Hostname: 1, Error: 2, Status: 3},
			Streaming: func(method string) bool { return method == "/"+fleet+"/Watch" },
		},
	})
	conn := connect(t, d)

	resp, err := samplepb.NewFleetServiceClient(conn).Describe(callContext(t), &samplepb.DescribeRequest{FailOn: "1"})
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, node := range resp.GetNodes() {
		got[node.GetMetadata().GetHostname()] = node.GetBackend() + node.GetMetadata().GetStatus().GetMessage()
	}
	want := map[string]string{
		backends[0].Addr().String(): "0",
		backends[1].Addr().String(): `backend "1" fails, as asked`,
		backends[2].Addr().String(): "2",
	}
	if !maps.Equal(got, want) {
		t.Errorf("answers by hostname = %q, want %q", got, want)
	}

	if _, err := echo(callContext(t), conn); err != nil {
		t.Errorf("a service that is not fanned out: %v", err)
	}
}

// The listener's failure is for whoever runs the daemon to see.
func TestListenerFails(t *testing.T) {
	d := startDaemon(t, Config{Endpoints: endpoints(startBackends(t, 1)...)})
	if err := d.running()[0].lis[0].Close(); err != nil {
		t.Fatal(err)
	}

	wait(t, d.Done(), "serving ends")
	if err := d.Shutdown(t.Context()); err == nil || !strings.Contains(err.Error(), "closed") {
		t.Errorf("shutdown = %v, want the listener's error", err)
	}
}

func TestStartFails(t *testing.T) {
	backends := startBackends(t, 1)
	other := startDaemon(t, Config{Endpoints: endpoints(backends...)})
	free := backends[0].Addr().String()
	shutdown(t, other)

	tests := []struct {
		name, want string
		cfg        Config
	}{
		{"address in use", "address already in use", Config{
			Listen:    Address{Network: "tcp", Addr: free},
			Endpoints: endpoints(backends...),
		}},
		{"forwards to itself", "listens on", Config{
			Listen:    other.Addr(),
			Endpoints: []Endpoint{{Address: other.Addr()}},
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d, err := New(tt.cfg)
			if err != nil {
				t.Fatal(err)
			}
			if err := d.Start(); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error = %v, want %q", err, tt.want)
			}
		})
	}
}
