// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// health answers grpc.health.v1 for the daemon itself: as a whole, for each backend, and for the services that routes
// name; readiness has the names. Nothing is SERVING once the daemon drains.
//
// It is not grpc-go's health.Server because the Watch of that one has no end but
// the caller's, and so would hold up every drain for its whole time.
type health struct {
	healthpb.UnimplementedHealthServer

	readiness func() readiness // of now; it may be called from many goroutines at once

	once     sync.Once
	draining chan struct{} // closed by drain
	watches  atomic.Int64

	mu sync.Mutex
	// Guarded by mu.
	changed chan struct{} // closed by the next change
}

var _ healthpb.HealthServer = (*health)(nil)

// newHealth returns a health that is SERVING.
func newHealth(of func() readiness) *health {
	return &health{readiness: of, draining: make(chan struct{}), changed: make(chan struct{})}
}

// drain turns all answers to NOT_SERVING, for good, and ends all watches with it.
func (h *health) drain() { h.once.Do(func() { close(h.draining) }) }

// drains reports whether drain was called.
func (h *health) drains() bool {
	select {
	case <-h.draining:
		return true
	default:
		return false
	}
}

// change has the watches look again. It does not block and calls nobody, so locks may be held.
func (h *health) change() {
	h.mu.Lock()
	defer h.mu.Unlock()
	close(h.changed)
	h.changed = make(chan struct{})
}

// next returns a channel that is closed by the next change.
func (h *health) next() <-chan struct{} {
	h.mu.Lock()
	defer h.mu.Unlock()

	return h.changed
}

// of returns the status of a name as the sender of ctx may know it.
func (h *health) of(ctx context.Context, name string) healthpb.HealthCheckResponse_ServingStatus {
	r := h.readiness()
	if toStranger(ctx) {
		r = r.forStrangers()
	}

	return r.of(name, h.drains())
}

// Check returns the status of a name, and NOT_FOUND for one that is not known, as the protocol has it.
func (h *health) Check(ctx context.Context, req *healthpb.HealthCheckRequest) (*healthpb.HealthCheckResponse, error) {
	s := h.of(ctx, req.GetService())
	if s == healthpb.HealthCheckResponse_SERVICE_UNKNOWN {
		return nil, status.Errorf(codes.NotFound,
			"manifold: health of %q is not known here: expected \"\" for the proxy itself, backend/NAME, or a service that a route names", req.GetService())
	}

	return &healthpb.HealthCheckResponse{Status: s}, nil
}

// mostListed is the most names that List answers with: they are to fit into a message that any client takes.
const mostListed = 1000

// List returns the status of each name, or RESOURCE_EXHAUSTED if there are too many; strangers get that of "" alone.
func (h *health) List(ctx context.Context, _ *healthpb.HealthListRequest) (*healthpb.HealthListResponse, error) {
	names := []string{""}
	r := h.readiness()
	if !toStranger(ctx) {
		names = r.names()
	}
	if len(names) > mostListed {
		return nil, status.Errorf(codes.ResourceExhausted, "manifold: %d names, at most %d are listed; Check and Watch know all", len(names), mostListed)
	}
	list := &healthpb.HealthListResponse{Statuses: make(map[string]*healthpb.HealthCheckResponse, len(names))}
	for _, name := range names {
		list.Statuses[name] = &healthpb.HealthCheckResponse{Status: r.of(name, h.drains())}
	}

	return list, nil
}

// mostWatches is how many watches there may be at once. Each has a goroutine and looks at each change, and clients of any frontend
// may have as many as they may have calls.
const mostWatches = 10_000

// Watch sends the status of a name at once and whenever it is another one, until the daemon drains: then it sends that and ends
// with UNAVAILABLE. With too many watches it is RESOURCE_EXHAUSTED. A name that is not known is SERVICE_UNKNOWN, which may change with a reload.
func (h *health) Watch(req *healthpb.HealthCheckRequest, stream grpc.ServerStreamingServer[healthpb.HealthCheckResponse]) error {
	defer h.watches.Add(-1)
	if h.watches.Add(1) > mostWatches {
		return status.Errorf(codes.ResourceExhausted, "manifold: %d clients watch health, the most that may; Check answers all", mostWatches)
	}
	ctx := stream.Context()
	last := healthpb.HealthCheckResponse_ServingStatus(-1)
	for {
		next, ends := h.next(), h.drains() // before the status, so that no change is missed
		if s := h.of(ctx, req.GetService()); s != last {
			if err := stream.Send(&healthpb.HealthCheckResponse{Status: s}); err != nil {
				return err
			}
			last = s
		}
		if ends {
			return status.Error(codes.Unavailable, "manifold: draining")
		}
		select {
		case <-ctx.Done():
			return status.FromContextError(ctx.Err()).Err()
		case <-next:
		case <-h.draining:
		}
	}
}

// strangerHeader marks calls of health that come over a frontend that faces strangers; the router sets it.
const strangerHeader = "manifold-health-stranger"

// toStranger reports whether an answer goes to somebody who is not to learn the names of backends.
func toStranger(ctx context.Context) bool {
	return len(metadata.ValueFromIncomingContext(ctx, strangerHeader)) > 0
}
