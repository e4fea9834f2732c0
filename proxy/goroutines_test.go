// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package proxy_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/manifold-grpc/manifold/proxy"
)

// watchedStream counts who is inside of a server stream, and who comes too late.
type watchedStream struct {
	grpc.ServerStream

	inside   atomic.Int32
	returned atomic.Bool
	late     atomic.Int32
}

func (w *watchedStream) enter() func() {
	w.inside.Add(1)

	if w.returned.Load() {
		w.late.Add(1)
	}

	return func() { w.inside.Add(-1) }
}

func (w *watchedStream) RecvMsg(m any) error { defer w.enter()(); return w.ServerStream.RecvMsg(m) }
func (w *watchedStream) SendMsg(m any) error { defer w.enter()(); return w.ServerStream.SendMsg(m) }

func (w *watchedStream) SetHeader(md metadata.MD) error {
	defer w.enter()()

	return w.ServerStream.SetHeader(md)
}

func (w *watchedStream) SendHeader(md metadata.MD) error {
	defer w.enter()()

	return w.ServerStream.SendHeader(md)
}

func (w *watchedStream) SetTrailer(md metadata.MD) {
	defer w.enter()()
	w.ServerStream.SetTrailer(md)
}

// watch reports, for each call, how many goroutines were inside of the stream when the handler returned.
func watch(inside chan<- int32) grpc.ServerOption {
	return grpc.StreamInterceptor(func(srv any, s grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
		w := &watchedStream{ServerStream: s}
		err := handler(srv, w)
		w.returned.Store(true)
		inside <- w.inside.Load() + w.late.Load()

		return err
	})
}

// endings are the ways in which a call may end while the caller still sends, or could.
var endings = []struct {
	name    string
	handler grpc.StreamHandler
	end     func(cancel context.CancelFunc) // what the caller does after its first request
}{
	{"OK from the backend", func(any, grpc.ServerStream) error { return nil }, nil},
	{"status from the backend", func(any, grpc.ServerStream) error { return status.Error(codes.Aborted, "stop") }, nil},
	{"status after a message", first("m"), nil},
	{"cancel", hang, func(cancel context.CancelFunc) { time.AfterFunc(20*time.Millisecond, cancel) }},
	{"no connection", nil, nil},
}

// first returns a handler that sends a message and ends.
func first(m string) grpc.StreamHandler {
	return func(_ any, s grpc.ServerStream) error {
		return s.SendMsg(proxy.NewFrame([]byte(m)))
	}
}

// No goroutine is inside of the caller's stream when the handler has returned, and none comes later: not even when the backend
// ends the call while the proxy waits for the caller's next request.
func TestNoGoroutineAfterHandler(t *testing.T) {
	for _, tt := range endings {
		for _, mode := range []proxy.Mode{proxy.One2One, proxy.One2Many} {
			t.Run(fmt.Sprint(tt.name, ", ", mode), func(t *testing.T) {
				inside := make(chan int32, 1)
				all := plain(nodes(t, tt.handler))
				conn := dialRaw(t, startProxy(t, func(context.Context, string) (proxy.Mode, []proxy.Backend, error) {
					return mode, all, nil
				}, watch(inside)))

				ctx, cancel := context.WithTimeout(context.Background(), testTimeout)
				defer cancel()

				s := openContext(t, ctx, conn, streamMethod)
				send(t, s, "x")

				if tt.end != nil {
					tt.end(cancel)
				}

				_, _ = collect(s)

				if n := <-inside; n != 0 {
					t.Errorf("%d goroutines were inside of the stream when the handler returned", n)
				}
			})
		}
	}
}

// lateStream is slow to say that receiving has failed.
type lateStream struct{ grpc.ServerStream }

func (l lateStream) RecvMsg(m any) error {
	err := l.ServerStream.RecvMsg(m)
	if err != nil {
		<-time.After(100 * time.Millisecond)
	}

	return err
}

// The reason for the end of a call is the one that the request side was told, though it may be the last to hear of it.
func TestRequestSideHasTheReason(t *testing.T) {
	all := nodes(t, hang, hang)

	for mode, targets := range map[proxy.Mode][]proxy.Backend{proxy.One2One: all[:1], proxy.One2Many: all} {
		ended := make(chan error, 1)
		conn := dialRaw(t, startProxy(t, func(context.Context, string) (proxy.Mode, []proxy.Backend, error) {
			return mode, targets, nil
		}, grpc.MaxRecvMsgSize(1000), grpc.ChainStreamInterceptor(
			func(srv any, s grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
				err := handler(srv, lateStream{s})
				ended <- err

				return err
			})))

		_, err := call(t, conn, streamMethod, "small", strings.Repeat("x", 2000))
		wantStatus(t, err, codes.ResourceExhausted, "larger than max")
		wantStatus(t, <-ended, codes.ResourceExhausted, "larger than max")
	}
}

// With WithInterceptedStatus an interceptor has the last word on a call that the backend ended early, and without it it sees
// the same status.
func TestInterceptedStatus(t *testing.T) {
	refuse := func(any, grpc.ServerStream) error { return status.Error(codes.Aborted, "of the backend") }

	for _, option := range []proxy.Option{nil, proxy.WithInterceptedStatus()} {
		seen := make(chan error, 1)
		change := grpc.StreamInterceptor(func(srv any, s grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
			seen <- handler(srv, s)

			s.SetTrailer(metadata.Pairs("added", "yes"))

			return status.Error(codes.DataLoss, "of the interceptor")
		})
		opts := []any{change}
		want, added := codes.Aborted, 0

		if option != nil {
			opts, want, added = append(opts, option), codes.DataLoss, 1
		}

		s := open(t, behind(t, refuse, opts...), streamMethod)
		_, err := collect(s)

		wantStatus(t, err, want, "of the")
		wantStatus(t, <-seen, codes.Aborted, "of the backend")

		if got := s.Trailer()["added"]; len(got) != added {
			t.Errorf("the interceptor's trailer arrived %d times, want %d", len(got), added)
		}
	}
}

// An interceptor has the last word on all other calls in any case.
func TestInterceptorsLastWord(t *testing.T) {
	change := grpc.StreamInterceptor(func(srv any, s grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
		_ = handler(srv, s)

		return status.Error(codes.DataLoss, "of the interceptor")
	})

	all := nodes(t, fail(codes.Aborted, ""))

	for _, mode := range []proxy.Mode{proxy.One2One, proxy.One2Many} {
		conn := dialRaw(t, startProxy(t, func(context.Context, string) (proxy.Mode, []proxy.Backend, error) {
			return mode, all, nil
		}, change))

		_, err := call(t, conn, unaryMethod, "x")
		wantStatus(t, err, codes.DataLoss, "of the interceptor")
	}
}

// foreignStream is a server stream of another make: nothing but its end releases RecvMsg, and nobody can write its status.
type foreignStream struct {
	ctx      context.Context
	requests chan string // closed at the end of the requests
	answers  chan string
}

type foreignTransport struct{ method string }

func (f foreignTransport) Method() string             { return f.method }
func (foreignTransport) SetHeader(metadata.MD) error  { return nil }
func (foreignTransport) SendHeader(metadata.MD) error { return nil }
func (foreignTransport) SetTrailer(metadata.MD) error { return nil }

func (f *foreignStream) SetHeader(metadata.MD) error  { return nil }
func (f *foreignStream) SendHeader(metadata.MD) error { return nil }
func (f *foreignStream) SetTrailer(metadata.MD)       {}
func (f *foreignStream) Context() context.Context     { return f.ctx }

func (f *foreignStream) SendMsg(m any) error {
	select {
	case f.answers <- string(m.(*proxy.Frame).Bytes()):
		return nil
	case <-f.ctx.Done():
		return status.FromContextError(f.ctx.Err()).Err()
	}
}

func (f *foreignStream) RecvMsg(m any) error {
	select {
	case r, ok := <-f.requests:
		if !ok {
			return io.EOF
		}

		buf := []byte(r)

		return proxy.Codec().Unmarshal(bufferSlice(buf), m)
	case <-f.ctx.Done():
		return status.FromContextError(f.ctx.Err()).Err()
	}
}

// On the stream of another server than grpc-go's the handler returns as soon as the backend has ended the call, and what it
// leaves behind ends with the stream. TestMain looks for the rest.
func TestForeignServerStream(t *testing.T) {
	for _, mode := range []proxy.Mode{proxy.One2One, proxy.One2Many} {
		all := plain(nodes(t, func(_ any, s grpc.ServerStream) error {
			m, err := tryRecv(s)
			if err == nil {
				err = s.SendMsg(proxy.NewFrame([]byte("got " + m)))
			}

			return errors.Join(err, status.Error(codes.Aborted, "enough"))
		}))
		handler := proxy.TransparentHandler(func(context.Context, string) (proxy.Mode, []proxy.Backend, error) { return mode, all, nil })

		ctx, cancel := context.WithCancel(context.Background())
		s := &foreignStream{
			ctx:      grpc.NewContextWithServerTransportStream(ctx, foreignTransport{streamMethod}),
			requests: make(chan string, 1),
			answers:  make(chan string, 1),
		}
		s.requests <- "x"

		within(t, 5*time.Second, "the handler", func() {
			wantStatus(t, handler(nil, s), codes.Aborted, "enough")
		})

		if got := <-s.answers; !strings.HasSuffix(got, "got x") {
			t.Errorf("%v: got %q", mode, got)
		}

		s.requests <- "late" // whoever is left reads it and throws it away
		cancel()
	}
}

// A stream that does not say what is called is refused.
func TestStreamWithoutMethod(t *testing.T) {
	handler := proxy.TransparentHandler(nil)
	wantStatus(t, handler(nil, &foreignStream{ctx: context.Background()}), codes.Internal, "does not name a method")
}
