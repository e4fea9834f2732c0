// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package sample

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/manifold-grpc/manifold/internal/sample/samplepb"
)

// fleetService implements manifold.sample.v1.FleetService; sample.proto says
// what each method does.
type fleetService struct {
	samplepb.UnimplementedFleetServiceServer
	backend string
	calls   *counters
}

var _ samplepb.FleetServiceServer = (*fleetService)(nil)

func (s *fleetService) Describe(_ context.Context, req *samplepb.DescribeRequest) (*samplepb.DescribeResponse, error) {
	node, err := s.describe(req.GetFailOn())
	if err != nil {
		return nil, err
	}

	return &samplepb.DescribeResponse{Nodes: []*samplepb.Node{node}}, nil
}

func (s *fleetService) Watch(req *samplepb.WatchRequest, stream grpc.ServerStreamingServer[samplepb.Node]) error {
	for i := range req.GetCount() {
		if i > 0 {
			if err := pause(stream.Context(), req.GetInterval()); err != nil {
				return err
			}
		}

		node, err := s.describe(req.GetFailOn())
		if err != nil {
			return err
		}

		if err := stream.Send(node); err != nil {
			return err
		}
	}

	return nil
}

// describe returns the element of both methods' answers, without the metadata,
// which is for a proxy to add.
func (s *fleetService) describe(failOn string) (*samplepb.Node, error) {
	if failOn == s.backend {
		return nil, status.Errorf(codes.Unavailable, "backend %q fails, as asked", s.backend)
	}

	return &samplepb.Node{
		Backend:   s.backend,
		Started:   s.calls.started.Load(),
		InFlight:  s.calls.inFlight.Load(),
		Cancelled: s.calls.cancelled.Load(),
	}, nil
}
