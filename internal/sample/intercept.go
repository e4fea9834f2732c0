// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package sample

import (
	"context"
	"maps"
	"slices"
	"strings"
	"sync/atomic"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/manifold-grpc/manifold/internal/sample/samplepb"
)

// Keys of the metadata by which a caller and a backend talk about metadata.
const (
	// BackendHeader is the response header that names the backend.
	BackendHeader = "sample-backend"
	// HeaderPrefix begins the keys that come back as response headers.
	HeaderPrefix = "sample-header-"
	// TrailerPrefix begins the keys that come back as trailers.
	TrailerPrefix = "sample-trailer-"
)

// counters are the EchoService calls of one backend, as FleetService reports
// them.
type counters struct {
	started, inFlight, cancelled atomic.Int64
}

// begin counts a call; the function it returns, called once with the call's
// result, counts its end.
func (c *counters) begin(ctx context.Context) (end func(error)) {
	c.started.Add(1)
	c.inFlight.Add(1)

	return func(err error) {
		// A call that has its answer is not given up, even if its caller has
		// gone meanwhile.
		if err != nil && ctx.Err() != nil {
			c.cancelled.Add(1)
		}
		c.inFlight.Add(-1)
	}
}

// counted reports whether a method's calls are counted: those of FleetService are
// not, or asking for the counters would change them.
func counted(fullMethod string) bool {
	return strings.HasPrefix(fullMethod, "/"+samplepb.EchoService_ServiceDesc.ServiceName+"/")
}

// interceptUnary counts a call and gives its answer, good or bad, the headers and
// trailers that belong to it.
func (b *Backend) interceptUnary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (resp any, err error) {
	if counted(info.FullMethod) {
		end := b.calls.begin(ctx)
		defer func() { end(err) }()
	}

	header, trailer := b.echoedMetadata(ctx)
	if err := grpc.SetHeader(ctx, header); err != nil {
		return nil, err
	}
	if err := grpc.SetTrailer(ctx, trailer); err != nil {
		return nil, err
	}

	return handler(ctx, req)
}

// interceptStream is interceptUnary for the other kinds.
func (b *Backend) interceptStream(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) (err error) {
	ctx := stream.Context()
	if counted(info.FullMethod) {
		end := b.calls.begin(ctx)
		defer func() { end(err) }()
	}

	header, trailer := b.echoedMetadata(ctx)
	stream.SetTrailer(trailer)
	// At once, not with the first message: a proxy has to pass them on as early.
	if err := stream.SendHeader(header); err != nil {
		return err
	}

	return handler(srv, stream)
}

// echoedMetadata returns the headers and trailers of the answer to a call.
func (b *Backend) echoedMetadata(ctx context.Context) (header, trailer metadata.MD) {
	header, trailer = metadata.Pairs(BackendHeader, b.name), metadata.MD{}

	received, _ := metadata.FromIncomingContext(ctx)
	for key, values := range received {
		switch {
		case strings.HasPrefix(key, HeaderPrefix):
			header[key] = values
		case strings.HasPrefix(key, TrailerPrefix):
			trailer[key] = values
		}
	}

	return header, trailer
}

// receivedMetadata returns the request metadata of a call, sorted by key.
func receivedMetadata(ctx context.Context) []*samplepb.MetadataEntry {
	received, _ := metadata.FromIncomingContext(ctx)

	entries := make([]*samplepb.MetadataEntry, 0, len(received))
	for _, key := range slices.Sorted(maps.Keys(received)) {
		entry := &samplepb.MetadataEntry{Key: key}
		for _, value := range received[key] {
			entry.Values = append(entry.Values, []byte(value))
		}
		entries = append(entries, entry)
	}

	return entries
}
