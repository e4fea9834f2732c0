// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/manifold-grpc/manifold/internal/sample/samplepb"
)

// drain begins to shut d down; the channel gets the result.
func drain(ctx context.Context, d *Daemon) <-chan error {
	result := make(chan error, 1)
	go func() { result <- d.Shutdown(ctx) }() // until the drain ends

	return result
}

func result(t *testing.T, c <-chan error) error {
	t.Helper()

	select {
	case err := <-c:
		return err
	case <-time.After(testTimeout):
		t.Fatalf("not drained within %v", testTimeout)
		return nil
	}
}

// watchHealth opens a watch and returns it with its first status.
func watchHealth(t *testing.T, conn *grpc.ClientConn) (grpc.ServerStreamingClient[healthpb.HealthCheckResponse], healthpb.HealthCheckResponse_ServingStatus) {
	t.Helper()

	watch, err := healthpb.NewHealthClient(conn).Watch(callContext(t), &healthpb.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	resp, err := watch.Recv()
	if err != nil {
		t.Fatal(err)
	}

	return watch, resp.GetStatus()
}

func TestDrainLetsCallsFinish(t *testing.T) {
	d := startDaemon(t, Config{Endpoints: endpoints(startBackends(t, 1)...)})
	conn := connect(t, d)
	stream := openChat(t, conn)
	watch, first := watchHealth(t, connect(t, d))
	if first != healthpb.HealthCheckResponse_SERVING {
		t.Errorf("health before = %v", first)
	}

	drained := drain(callContext(t), d)
	if resp, err := watch.Recv(); err != nil || resp.GetStatus() != healthpb.HealthCheckResponse_NOT_SERVING {
		t.Errorf("watched health = %v, %v; want NOT_SERVING", resp, err)
	}
	if _, err := watch.Recv(); status.Code(err) != codes.Unavailable {
		t.Errorf("end of the watch = %v, want Unavailable", err)
	}
	waitRefused(t, d)

	for _, text := range []string{"still", "here"} {
		if err := stream.Send(&samplepb.EchoRequest{Text: text}); err != nil {
			t.Fatal(err)
		}
		if resp, err := stream.Recv(); err != nil || resp.GetText() != text {
			t.Errorf("answer while draining = %v, %v", resp, err)
		}
	}
	select {
	case err := <-drained:
		t.Errorf("drained (%v) with a call in flight", err)
	default:
	}
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("end = %v, want that of the call itself", err)
	}

	if err := result(t, drained); err != nil {
		t.Errorf("shutdown = %v", err)
	}
}

// waitRefused waits until d takes no connections.
func waitRefused(t *testing.T, d *Daemon) {
	t.Helper()

	for end := time.Now().Add(testTimeout); time.Now().Before(end); {
		conn, err := net.Dial(d.Addr().Network, d.Addr().Addr)
		if err != nil {
			return
		}
		_ = conn.Close()
	}
	t.Fatalf("connections are taken for %v after the drain began", testTimeout)
}

func TestDrainIsBounded(t *testing.T) {
	d := startDaemon(t, Config{Endpoints: endpoints(startBackends(t, 1)...)})
	stream := openChat(t, connect(t, d))
	cause := errors.New("time is up")
	ctx, cancel := context.WithCancelCause(t.Context())

	drained := drain(ctx, d)
	waitRefused(t, d)
	cancel(cause)
	err := result(t, drained)

	cut, ok := errors.AsType[*CutError](err)
	if !ok || cut.Calls != 1 || !errors.Is(err, cause) || !strings.Contains(err.Error(), "1 calls cut off") {
		t.Errorf("shutdown = %v, want a CutError for one call because %v", err, cause)
	}
	if _, err := stream.Recv(); status.Code(err) != codes.Unavailable {
		t.Errorf("the call that was cut ends with %v, want Unavailable", err)
	}
}

// An idle connection is no reason to wait, nor to complain.
func TestDrainWithoutCalls(t *testing.T) {
	d := startDaemon(t, Config{Endpoints: endpoints(startBackends(t, 1)...)})
	if _, err := echo(callContext(t), connect(t, d)); err != nil {
		t.Fatal(err)
	}

	if err := result(t, drain(callContext(t), d)); err != nil {
		t.Errorf("shutdown = %v", err)
	}
}

// With a delay, load balancers see NOT_SERVING while calls still work.
func TestDrainDelay(t *testing.T) {
	d := startDaemon(t, Config{Endpoints: endpoints(startBackends(t, 1)...), DrainDelay: time.Hour})
	ctx, cancel := context.WithCancel(callContext(t))
	watch, _ := watchHealth(t, connect(t, d))

	drained := drain(ctx, d)
	if _, err := watch.Recv(); err != nil { // the change: it drains
		t.Fatal(err)
	}
	conn := connect(t, d)
	if resp, err := healthpb.NewHealthClient(conn).Check(callContext(t), &healthpb.HealthCheckRequest{}); err != nil || resp.GetStatus() != healthpb.HealthCheckResponse_NOT_SERVING {
		t.Errorf("health on a new connection = %v, %v", resp, err)
	}
	if _, err := echo(callContext(t), conn); err != nil {
		t.Errorf("a new call on a new connection: %v", err)
	}

	cancel()
	if err := result(t, drained); err != nil {
		t.Errorf("shutdown = %v", err)
	}
}

func TestHealth(t *testing.T) {
	d := startDaemon(t, Config{Endpoints: endpoints(startBackends(t, 1)...)})
	client := healthpb.NewHealthClient(connect(t, d))

	resp, err := client.Check(callContext(t), &healthpb.HealthCheckRequest{})
	if err != nil || resp.GetStatus() != healthpb.HealthCheckResponse_SERVING {
		t.Errorf("check = %v, %v", resp, err)
	}
	list, err := client.List(callContext(t), &healthpb.HealthListRequest{})
	if statuses := list.GetStatuses(); err != nil || len(statuses) != 2 || statuses[""].GetStatus() != healthpb.HealthCheckResponse_SERVING ||
		statuses["backend/default"].GetStatus() != healthpb.HealthCheckResponse_SERVING {
		t.Errorf("list = %v, %v", list, err)
	}
	if _, err := client.Check(callContext(t), &healthpb.HealthCheckRequest{Service: "x"}); status.Code(err) != codes.NotFound {
		t.Errorf("check of a named service = %v, want NotFound", err)
	}

	watch, err := client.Watch(callContext(t), &healthpb.HealthCheckRequest{Service: "x"})
	if err != nil {
		t.Fatal(err)
	}
	if resp, err := watch.Recv(); err != nil || resp.GetStatus() != healthpb.HealthCheckResponse_SERVICE_UNKNOWN {
		t.Errorf("watch of a named service = %v, %v", resp, err)
	}
	drained := drain(callContext(t), d)
	if _, err := watch.Recv(); status.Code(err) != codes.Unavailable {
		t.Errorf("its end = %v, want Unavailable", err)
	}
	if err := result(t, drained); err != nil {
		t.Errorf("shutdown = %v", err)
	}
}
