// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package proxy_test

import (
	"context"
	"io"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/manifold-grpc/manifold/proxy"
)

// replay is both sides of unary calls, which come one after another and whose messages are always there. It allocates nothing, so that
// what a call allocates is the proxy's.
type replay struct {
	ctx    context.Context
	codec  encoding.CodecV2
	given  bool // the caller's stream has given its request
	header metadata.MD
}

var (
	replayed      = mem.BufferSlice{mem.SliceBuffer("a message")}
	replayedTrail = metadata.MD{}
)

func newReplay() *replay {
	r := &replay{codec: proxy.Codec(), header: metadata.MD{}}
	r.ctx = grpc.NewContextWithServerTransportStream(metadata.NewIncomingContext(context.Background(), metadata.MD{}), replayTransport{})

	return r
}

func (r *replay) SetHeader(metadata.MD) error  { return nil }
func (r *replay) SendHeader(metadata.MD) error { return nil }
func (r *replay) SetTrailer(metadata.MD)       {}
func (r *replay) Context() context.Context     { return r.ctx }
func (r *replay) SendMsg(any) error            { return nil }

func (r *replay) RecvMsg(m any) error {
	if r.given {
		return io.EOF
	}

	r.given = true

	return r.codec.Unmarshal(replayed, m)
}

// replayTransport is a transport stream that can write a status, like grpc-go's.
type replayTransport struct{}

func (replayTransport) Method() string                   { return unaryMethod }
func (replayTransport) SetHeader(metadata.MD) error      { return nil }
func (replayTransport) SendHeader(metadata.MD) error     { return nil }
func (replayTransport) SetTrailer(metadata.MD) error     { return nil }
func (replayTransport) WriteStatus(*status.Status) error { return nil }

// replayChannel is a channel whose stream answers with one message.
type replayChannel struct {
	grpc.ClientConnInterface
	stream replayAnswer
}

func (c *replayChannel) NewStream(context.Context, *grpc.StreamDesc, string, ...grpc.CallOption) (grpc.ClientStream, error) {
	c.stream.given = false

	return &c.stream, nil
}

type replayAnswer struct {
	grpc.ClientStream
	replay
}

func (a *replayAnswer) Header() (metadata.MD, error) { return a.header, nil }
func (a *replayAnswer) Trailer() metadata.MD         { return replayedTrail }
func (a *replayAnswer) CloseSend() error             { return nil }
func (a *replayAnswer) Context() context.Context     { return a.ctx }
func (a *replayAnswer) SendMsg(any) error            { return nil }
func (a *replayAnswer) RecvMsg(m any) error          { return a.replay.RecvMsg(m) }

// Calls without fan-out options cost what they cost before there were any, and not more.
func TestAllocationsPerCall(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}

	for _, tt := range []struct {
		name    string
		mode    proxy.Mode
		targets int
		most    float64
	}{
		{"one to one", proxy.One2One, 1, 9},
		{"one to one of many", proxy.One2Many, 1, 23},
		{"one to five", proxy.One2Many, 5, 55},
	} {
		t.Run(tt.name, func(t *testing.T) {
			backends := make([]proxy.Backend, tt.targets)
			for i := range backends {
				backends[i] = &proxy.Upstream{Channel: &replayChannel{stream: replayAnswer{replay: *newReplay()}}}
			}

			handler := proxy.TransparentHandler(func(context.Context, string) (proxy.Mode, []proxy.Backend, error) {
				return tt.mode, backends, nil
			}, proxy.WithStreamedDetector(byName))
			stream := newReplay()

			once := func() {
				stream.given = false
				if err := handler(nil, stream); err != nil {
					t.Fatal(err)
				}
			}

			// The least of several: now and then a pool is empty, or the machine busy.
			least := testing.AllocsPerRun(100, once)
			for range 9 {
				least = min(least, testing.AllocsPerRun(100, once))
			}

			t.Logf("%v allocations", least)

			if least > tt.most {
				t.Errorf("a call makes %v allocations, want at most %v", least, tt.most)
			}
		})
	}
}
