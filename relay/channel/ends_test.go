// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package channel_test

import (
	"context"
	"errors"
	"io"
	"math"
	"runtime"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/manifold-grpc/manifold/internal/memnet"
	"github.com/manifold-grpc/manifold/internal/rawpeer"
	"github.com/manifold-grpc/manifold/relay"
	"github.com/manifold-grpc/manifold/relay/channel"
)

// What an upstream completed with OK is received in full, though the context ends before, or this side fails to send.
func TestCompleteResponsesAreKept(t *testing.T) {
	one := &grpc.StreamDesc{}
	down := &grpc.StreamDesc{ServerStreams: true}
	for _, tt := range []struct {
		name  string
		desc  *grpc.StreamDesc
		count int
		fail  bool // SendMsg fails; else the context ends
	}{
		{"unary, cancelled", one, 1, false},
		{"down, cancelled", down, 10, false},
		{"bidi, cancelled", bidi, 10, false},
		{"bidi, bad message", bidi, 10, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			all := []answer{headers(false, rawpeer.Response()...)}
			for range tt.count {
				all = append(all, data(false, rawpeer.Message(nil)))
			}
			c := open(t, startRaw(t, steps(append(all, headers(true, "grpc-status", "0", "t", "v"))...)), relay.EndpointConfig{})
			ctx, cancel := context.WithCancel(testContext(t))
			defer cancel()
			finished := make(chan error, 2)
			s, err := c.NewStream(ctx, tt.desc, "/s/m", grpc.OnFinish(func(err error) { finished <- err }))
			if err == nil {
				err = s.SendMsg(new(wrapperspb.StringValue))
			}
			if err != nil && !errors.Is(err, io.EOF) {
				t.Fatal(err)
			}
			for len(s.Trailer()) == 0 && ctx.Err() == nil {
				runtime.Gosched()
			}
			if !tt.fail {
				cancel()
			} else if err := s.SendMsg("no protobuf"); status.Code(err) != codes.Internal {
				t.Errorf("SendMsg returned %v, expected INTERNAL", err)
			}
			if err := <-finished; (err != nil) != tt.fail {
				t.Errorf("OnFinish was told of %v", err)
			}
			for i := range tt.count {
				if err := s.RecvMsg(new(wrapperspb.StringValue)); err != nil {
					t.Fatalf("message %d: %v", i, err)
				}
			}
			if err := s.RecvMsg(new(wrapperspb.StringValue)); err != io.EOF {
				t.Errorf("after %d messages: %v, expected io.EOF", tt.count, err)
			}
		})
	}
}

// refusing is a channel whose backend has no endpoint, for a reason.
func refusing(err error) *channel.Channel {
	return &channel.Channel{Backend: &relay.Backend{Name: "b", Choose: func(*relay.Call) (*relay.Endpoint, error) { return nil, err }}}
}

// NewStream that fails leaves nothing behind: what the options ask for is told once.
func TestFailedNewStreamIsOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		var told []error
		_, err := refusing(errors.New("no endpoint")).NewStream(ctx, bidi, "/s/m", grpc.OnFinish(func(err error) { told = append(told, err) }))
		cancel()
		synctest.Wait()
		if status.Code(err) != codes.Unavailable || len(told) != 1 || told[0] != err {
			t.Errorf("NewStream returned %v, and OnFinish was told %v, expected UNAVAILABLE both", err, told)
		}
	})
}

// Header may wait beside RecvMsg.
func TestHeaderBesideRecvMsg(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := memnet.Listen("back")
		next := make(chan struct{})
		b := rawpeer.Serve(l, func(p *rawpeer.Peer) {
			if p.Greet() != nil {
				return
			}
			f, err := p.Until(func(f rawpeer.Frame) bool { return f.Type == http2.FrameHeaders })
			if err != nil {
				return
			}
			<-next
			err = p.Headers(f.StreamID, false, rawpeer.Response()...)
			<-next
			if err == nil {
				err = p.Data(f.StreamID, false, rawpeer.Message(nil))
			}
			if err == nil {
				_, _ = p.Until(func(rawpeer.Frame) bool { return false })
			}
		})
		defer b.Close()
		e := relay.NewEndpoint("back", relay.EndpointConfig{Dial: l.DialContext})
		defer e.Close()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		s, err := channel.New(e).NewStream(ctx, bidi, "/s/m")
		if err != nil {
			t.Fatal(err)
		}
		var headers, messages atomic.Int32
		wait := func() {
			if _, err := s.Header(); err == nil && ctx.Err() == nil {
				headers.Add(1)
			}
		}
		go wait() // ends with the header, or the call
		go wait() // likewise
		synctest.Wait()
		go func() { // ends with the message, or the call
			if s.RecvMsg(new(wrapperspb.StringValue)) == nil {
				messages.Add(1)
			}
		}()
		for i := range int32(2) {
			synctest.Wait()
			next <- struct{}{}
			synctest.Wait()
			if h, m := headers.Load(), messages.Load(); h != 2 || m != i {
				t.Errorf("%d headers and %d messages were received, expected 2 and %d", h, m, i)
			}
		}
		cancel()
		synctest.Wait()
	})
}

// The one response of a call is received once.
func TestResponseIsReceivedOnce(t *testing.T) {
	addr := startServer(t, echo)
	for _, cc := range []grpc.ClientConnInterface{dial(t, addr), open(t, addr, relay.EndpointConfig{})} {
		s, err := cc.NewStream(testContext(t), &grpc.StreamDesc{ClientStreams: true}, "/s/m")
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(s.SendMsg(payload(1)), s.CloseSend()); err != nil {
			t.Fatal(err)
		}
		first, second := s.RecvMsg(payload(1)), s.RecvMsg(payload(1))
		if first != nil || second != io.EOF {
			t.Errorf("%T: %v, then %v, expected nil, then io.EOF", cc, first, second)
		}
	}
}

// The longest timeout there is can be sent.
func TestLongestTimeout(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), math.MaxInt64)
	defer cancel()
	if err := open(t, startServer(t, echo), relay.EndpointConfig{}).Invoke(ctx, "/s/m", payload(1), payload(1)); err != nil {
		t.Error(err)
	}
}

// A call that waits for an endpoint waits for none where the refusal is final, and ends with its context's status.
func TestEndsOfWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		call := func(err error) error {
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Millisecond) // as long as the first pause
			defer cancel()
			_, err = refusing(err).NewStream(ctx, bidi, "/s/m", grpc.WaitForReady(true))
			return err
		}
		if err := call(&relay.Refusal{Code: codes.PermissionDenied}); status.Code(err) != codes.PermissionDenied {
			t.Errorf("ended with %v, expected PERMISSION_DENIED", err)
		}
		for range 100 {
			if err := call(errors.New("no endpoint")); status.Code(err) != codes.DeadlineExceeded {
				t.Fatalf("ended with %v, expected DEADLINE_EXCEEDED", err)
			}
		}
	})
}

// A backend that has answered, be it not with gRPC, is not asked again.
func TestForeignAnswersAreNotTriedAgain(t *testing.T) {
	var calls atomic.Int32
	c := open(t, startRaw(t, func(p *rawpeer.Peer, id uint32) error {
		if calls.Add(1) > 1 {
			return steps(headers(false, rawpeer.Response()...), data(false, rawpeer.Message(nil)), headers(true, "grpc-status", "0"))(p, id)
		}
		return steps(headers(false, ":status", "502", "content-type", "text/html"), reset(http2.ErrCodeRefusedStream))(p, id)
	}), relay.EndpointConfig{})
	err := c.Invoke(testContext(t), "/s/m", payload(1), payload(1))
	if status.Code(err) != codes.Unavailable || calls.Load() != 1 {
		t.Errorf("%v after %d calls, expected UNAVAILABLE after 1", err, calls.Load())
	}
}
