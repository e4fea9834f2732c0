// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package sample

import (
	"context"
	"errors"
	"io"
	"time"

	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/manifold-grpc/manifold/internal/sample/samplepb"
)

// echoService implements manifold.sample.v1.EchoService; sample.proto says what
// each method does.
type echoService struct {
	samplepb.UnimplementedEchoServiceServer
	backend string
}

var _ samplepb.EchoServiceServer = (*echoService)(nil)

func (s *echoService) Echo(ctx context.Context, req *samplepb.EchoRequest) (*samplepb.EchoResponse, error) {
	return s.answer(ctx, req, 1)
}

// Expand pauses between the answers only, so that without an interval they come as
// fast as they are taken.
func (s *echoService) Expand(req *samplepb.ExpandRequest, stream grpc.ServerStreamingServer[samplepb.EchoResponse]) error {
	ctx := stream.Context()

	for i := range req.GetCount() {
		if i > 0 {
			if err := pause(ctx, req.GetInterval()); err != nil {
				return err
			}
		}

		resp, err := s.answer(ctx, &samplepb.EchoRequest{Text: req.GetText()}, i+1)
		if err != nil {
			return err
		}

		if err := stream.Send(resp); err != nil {
			return err
		}
	}

	return statusError(req.GetFail())
}

// Collect keeps the texts and counts the payloads: an upload may be larger than
// memory.
func (s *echoService) Collect(stream grpc.ClientStreamingServer[samplepb.EchoRequest, samplepb.CollectResponse]) error {
	resp := &samplepb.CollectResponse{Backend: s.backend}

	for {
		req, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return stream.SendAndClose(resp)
		}
		if err != nil {
			return err
		}

		if _, err := s.answer(stream.Context(), req, 0); err != nil {
			return err
		}

		resp.Texts = append(resp.Texts, req.GetText())
		resp.PayloadBytes += int64(len(req.GetPayload()))
	}
}

// Chat reads no request before the one before is answered, so a caller that does
// not read holds itself up, by flow control.
func (s *echoService) Chat(stream grpc.BidiStreamingServer[samplepb.EchoRequest, samplepb.EchoResponse]) error {
	for sequence := int32(1); ; sequence++ {
		req, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}

		resp, err := s.answer(stream.Context(), req, sequence)
		if err != nil {
			return err
		}

		if err := stream.Send(resp); err != nil {
			return err
		}
	}
}

// answer does what req asks for, and returns the answer to it or the status
// that ends the call.
func (s *echoService) answer(ctx context.Context, req *samplepb.EchoRequest, sequence int32) (*samplepb.EchoResponse, error) {
	if err := pause(ctx, req.GetDelay()); err != nil {
		return nil, err
	}

	if err := statusError(req.GetFail()); err != nil {
		return nil, err
	}

	resp := &samplepb.EchoResponse{
		Text:     req.GetText(),
		Payload:  req.GetPayload(),
		Backend:  s.backend,
		Sequence: sequence,
	}
	if deadline, ok := ctx.Deadline(); ok {
		resp.TimeLeft = durationpb.New(time.Until(deadline))
	}
	if req.GetWantMetadata() {
		resp.Metadata = receivedMetadata(ctx)
	}

	return resp, nil
}

// pause returns after d (at once if d is nil), or with the status for the end of
// ctx if that comes first.
func pause(ctx context.Context, d *durationpb.Duration) error {
	if d.AsDuration() <= 0 {
		return nil
	}

	timer := time.NewTimer(d.AsDuration())
	defer timer.Stop()

	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return status.FromContextError(ctx.Err()).Err()
	}
}

// statusError returns s as an error; nil for code 0, which is OK.
func statusError(s *samplepb.Status) error {
	return status.ErrorProto(&rpcstatus.Status{
		Code:    s.GetCode(),
		Message: s.GetMessage(),
		Details: s.GetDetails(),
	})
}
