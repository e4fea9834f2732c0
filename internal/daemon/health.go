// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
)

// health answers grpc.health.v1 for the daemon itself: SERVING, or NOT_SERVING
// once it drains. It knows one service, "", the daemon as a whole; the backends'
// health is theirs to tell.
//
// It is not grpc-go's health.Server because the Watch of that one has no end but
// the caller's, and so would hold up every drain for its whole time.
type health struct {
	healthpb.UnimplementedHealthServer

	once     sync.Once
	draining chan struct{} // closed by drain
}

var _ healthpb.HealthServer = (*health)(nil)

// newHealth returns a health that is SERVING.
func newHealth() *health { return &health{draining: make(chan struct{})} }

// drain turns the answer to NOT_SERVING, for good, and ends all watches with it.
func (h *health) drain() { h.once.Do(func() { close(h.draining) }) }

// drains reports whether drain was called.
func (h *health) drains() bool { return h.status() != healthpb.HealthCheckResponse_SERVING }

// status returns the status of now; it never goes back to SERVING.
func (h *health) status() healthpb.HealthCheckResponse_ServingStatus {
	select {
	case <-h.draining:
		return healthpb.HealthCheckResponse_NOT_SERVING
	default:
		return healthpb.HealthCheckResponse_SERVING
	}
}

// Check returns the daemon's status, and NOT_FOUND for any named service.
func (h *health) Check(_ context.Context, req *healthpb.HealthCheckRequest) (*healthpb.HealthCheckResponse, error) {
	if name := req.GetService(); name != "" {
		return nil, status.Errorf(codes.NotFound, "manifold: health of service %q is not known here, only that of the proxy itself: service \"\"", name)
	}

	return &healthpb.HealthCheckResponse{Status: h.status()}, nil
}

// List returns the daemon's status as that of the one service "".
func (h *health) List(context.Context, *healthpb.HealthListRequest) (*healthpb.HealthListResponse, error) {
	return &healthpb.HealthListResponse{
		Statuses: map[string]*healthpb.HealthCheckResponse{"": {Status: h.status()}},
	}, nil
}

// Watch sends the daemon's status, sends NOT_SERVING when the daemon drains, and
// then ends with UNAVAILABLE. For a named service it sends SERVICE_UNKNOWN, as
// the protocol has it, and stays until then too.
func (h *health) Watch(req *healthpb.HealthCheckRequest, stream grpc.ServerStreamingServer[healthpb.HealthCheckResponse]) error {
	now := h.status
	if req.GetService() != "" {
		now = func() healthpb.HealthCheckResponse_ServingStatus {
			return healthpb.HealthCheckResponse_SERVICE_UNKNOWN
		}
	}

	last := now()
	if err := stream.Send(&healthpb.HealthCheckResponse{Status: last}); err != nil {
		return err
	}

	select {
	case <-stream.Context().Done():
		return status.FromContextError(stream.Context().Err()).Err()
	case <-h.draining:
	}

	if current := now(); current != last {
		if err := stream.Send(&healthpb.HealthCheckResponse{Status: current}); err != nil {
			return err
		}
	}

	return status.Error(codes.Unavailable, "manifold: draining")
}
