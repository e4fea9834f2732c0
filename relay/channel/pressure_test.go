// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package channel_test

import (
	"context"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/manifold-grpc/manifold/internal/rawpeer"
	"github.com/manifold-grpc/manifold/relay"
	"github.com/manifold-grpc/manifold/relay/channel"
)

// A call that a backend refuses, and so did nothing about, is made again with its request, and nobody sees it.
func TestRefusedCallsAreTriedAgain(t *testing.T) {
	var calls atomic.Int32
	addr := startRaw(t, func(p *rawpeer.Peer, id uint32) error {
		if calls.Add(1) == 1 {
			return p.Reset(id, http2.ErrCodeRefusedStream)
		}
		if _, err := p.Until(func(f rawpeer.Frame) bool { return f.Type == http2.FrameData && f.End() }); err != nil {
			return err
		}
		if err := p.Headers(id, false, rawpeer.Response()...); err != nil {
			return err
		}
		if err := p.Data(id, false, rawpeer.Message(nil)); err != nil {
			return err
		}
		return p.Headers(id, true, "grpc-status", "0")
	})
	c := open(t, addr, relay.EndpointConfig{})
	if err := c.Invoke(testContext(t), "/s/m", wrapperspb.String("x"), new(wrapperspb.StringValue)); err != nil || calls.Load() != 2 {
		t.Errorf("%v after %d calls, expected success after 2", err, calls.Load())
	}
}

// SendMsg waits where the upstream takes nothing, and ends with the call.
func TestSendMsgWaits(t *testing.T) {
	c := open(t, startRaw(t, func(*rawpeer.Peer, uint32) error { return nil }), relay.EndpointConfig{})
	ctx, cancel := context.WithCancel(testContext(t))
	defer cancel()
	s, err := c.NewStream(ctx, bidi, "/s/m")
	if err != nil {
		t.Fatal(err)
	}
	var sent atomic.Int32
	done := make(chan error)
	go func() { // ends when the call is cancelled
		for {
			if err := s.SendMsg(payload(8 << 10)); err != nil {
				done <- err
				return
			}
			sent.Add(1)
		}
	}()
	for sent.Load() < 8 && ctx.Err() == nil {
		runtime.Gosched()
	}
	cancel()
	if err := <-done; err == nil || err.Error() != "EOF" {
		t.Errorf("SendMsg of a cancelled call returned %v, expected io.EOF", err)
	}
	// A window of 64 KiB, and as much again that waits.
	if n := sent.Load(); n < 8 || n > 20 {
		t.Errorf("%d messages of 8 KiB were taken, expected about 16", n)
	}
	if err := s.RecvMsg(new(wrapperspb.BytesValue)); status.Code(err) != codes.Canceled {
		t.Errorf("RecvMsg returned %v, expected CANCELLED", err)
	}
}

// A channel without endpoints that can be reached fails calls at once, unless they wait for one.
func TestWaitForReady(t *testing.T) {
	dead := open(t, "127.0.0.1:1", relay.EndpointConfig{})
	call := func(ctx context.Context, opts ...grpc.CallOption) error {
		return dead.Invoke(ctx, "/s/m", wrapperspb.String(""), new(wrapperspb.StringValue), opts...)
	}
	if err := call(testContext(t)); status.Code(err) != codes.Unavailable {
		t.Errorf("ended with %v, expected UNAVAILABLE", err)
	}
	ctx, cancel := context.WithTimeout(testContext(t), 50*time.Millisecond)
	defer cancel()
	if err := call(ctx, grpc.WaitForReady(true)); status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("a call that waits ended with %v, expected DEADLINE_EXCEEDED", err)
	}
	if err := new(channel.Channel).Invoke(testContext(t), "/s/m", nil, nil); status.Code(err) != codes.Unavailable {
		t.Errorf("a channel without a backend: %v, expected UNAVAILABLE", err)
	}
}
