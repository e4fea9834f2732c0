// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package proxy_test

import (
	"context"
	"fmt"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/manifold-grpc/manifold/proxy"
)

// refusing is a director of one-to-one calls whose GetConnection fails after a time.
func refusing(d time.Duration) proxy.StreamDirector {
	return func(context.Context, string) (proxy.Mode, []proxy.Backend, error) {
		return proxy.One2One, []proxy.Backend{&proxy.SingleBackend{
			GetConn: func(ctx context.Context) (context.Context, *grpc.ClientConn, error) {
				<-time.After(d)

				return ctx, nil, status.Error(codes.NotFound, "no such node")
			},
		}}, nil
	}
}

// A caller who goes on sending, or waits, learns at once that there is no connection for its call.
func TestRefusedBeforeHalfClose(t *testing.T) {
	for _, option := range []proxy.Option{proxy.WithMode(proxy.One2One), proxy.WithInterceptedStatus()} {
		for requests := range 4 {
			for _, d := range []time.Duration{0, time.Second} {
				synctest.Test(t, func(t *testing.T) {
					inMemory(t)

					conn := dialRaw(t, startProxy(t, refusing(d), option))
					connected(t, conn)

					begin := time.Now()
					s := open(t, conn, streamMethod)

					for i := range requests {
						send(t, s, fmt.Sprint(i))
					}

					_, err := collect(s)
					wantStatus(t, err, codes.NotFound, "no such node")

					if took := time.Since(begin); took != d {
						t.Errorf("after %d requests, of a hook that takes %v: took %v", requests, d, took)
					}
				})
			}
		}
	}
}

// unhurried is a stream that takes its time to tell its context.
type unhurried struct{ grpc.ServerStream }

func (u unhurried) Context() context.Context {
	<-time.After(time.Millisecond)

	return u.ServerStream.Context()
}

// The requests' end does not become the call's when there is no connection.
func TestRefusedAfterHalfClose(t *testing.T) {
	for requests := range 3 {
		synctest.Test(t, func(t *testing.T) {
			inMemory(t)

			ended := make(chan error, 1)
			conn := dialRaw(t, startProxy(t, refusing(time.Second), grpc.ChainStreamInterceptor(
				func(srv any, s grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
					err := handler(srv, unhurried{s})
					ended <- err

					return err
				})))
			connected(t, conn)

			s := open(t, conn, streamMethod)
			for i := range requests {
				send(t, s, fmt.Sprint(i))
				<-time.After(10 * time.Millisecond)
			}

			<-time.After(100 * time.Millisecond)
			_ = s.CloseSend()

			_, err := collect(s)
			wantStatus(t, err, codes.NotFound, "no such node")
			wantStatus(t, <-ended, codes.NotFound, "no such node")
		})
	}
}

// contextKey is the key of a value that an interceptor of the server puts into the context.
type contextKey struct{}

type valueStream struct {
	grpc.ServerStream
	ctx context.Context
}

func (v valueStream) Context() context.Context { return v.ctx }

// The backend's hooks get the values and the end of the caller's context whichever goroutine calls them: that of the
// handler, or the one that leads because the caller is slow.
func TestContextOfHooks(t *testing.T) {
	for _, quiet := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			inMemory(t)

			values := make(chan any, 1)
			conn := dialRaw(t, startProxy(t, func(context.Context, string) (proxy.Mode, []proxy.Backend, error) {
				return proxy.One2One, []proxy.Backend{&proxy.SingleBackend{
					GetConn: func(ctx context.Context) (context.Context, *grpc.ClientConn, error) {
						values <- ctx.Value(contextKey{})
						<-ctx.Done()

						return nil, nil, status.FromContextError(ctx.Err()).Err()
					},
				}}, nil
			}, grpc.StreamInterceptor(func(srv any, s grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
				return handler(srv, valueStream{s, context.WithValue(s.Context(), contextKey{}, "mine")})
			})))

			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()

			s := openContext(t, ctx, conn, streamMethod)
			if !quiet {
				send(t, s, "x")
				_ = s.CloseSend()
			}

			if got := <-values; got != "mine" {
				t.Errorf("quiet %v: the value is %v", quiet, got)
			}

			_, err := collect(s)
			wantStatus(t, err, codes.DeadlineExceeded, "")
		})
	}
}

// crashing is a channel, or the stream of a caller, that panics, or ends the goroutine that uses it.
type crashing struct {
	grpc.ServerStream
	grpc.ClientConnInterface
	crash func()
}

func (c crashing) NewStream(context.Context, *grpc.StreamDesc, string, ...grpc.CallOption) (grpc.ClientStream, error) {
	c.crash()

	return nil, status.Error(codes.DataLoss, "not crashed")
}

func (c crashing) SendMsg(any) error { c.crash(); return nil }

// A panic of what the program put around a call reaches the server's interceptors, which may recover from it, and the call
// ends: when the caller has sent its request, and when it has not, and another goroutine than the handler's leads.
func TestPanicReachesInterceptors(t *testing.T) {
	greet := func(_ any, s grpc.ServerStream) error { return s.SendMsg(proxy.NewFrame([]byte("hello"))) }

	for _, inChannel := range []bool{true, false} {
		for _, quiet := range []bool{false, true} {
			upstream := &proxy.Upstream{Channel: dial(t, startBackend(t, greet))}
			if inChannel {
				upstream.Channel = crashing{crash: func() { panic("of the channel") }}
			}

			recovered := make(chan any, 1)
			conn := dialRaw(t, startProxy(t, upstream.Direct, grpc.StreamInterceptor(
				func(srv any, s grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) (err error) {
					defer func() {
						r := recover()
						recovered <- r

						if r != nil {
							err = status.Error(codes.Internal, "recovered")
						}
					}()

					if !inChannel {
						s = crashing{ServerStream: s, crash: func() { panic("of the stream") }}
					}

					return handler(srv, s)
				})))

			s := open(t, conn, streamMethod)
			if !quiet {
				send(t, s, "x")
				_ = s.CloseSend()
			}

			_, err := collect(s)
			wantStatus(t, err, codes.Internal, "")

			if got := <-recovered; got == nil {
				t.Errorf("in the channel %v, quiet %v: nothing to recover from", inChannel, quiet)
			}
		}
	}
}

// A channel that ends the goroutine, as testing.T's FailNow does, ends the call of a caller who is silent.
func TestGoexitInChannel(t *testing.T) {
	upstream := &proxy.Upstream{Channel: crashing{crash: runtime.Goexit}}
	_, err := collect(open(t, dialRaw(t, startProxy(t, upstream.Direct)), streamMethod))
	wantStatus(t, err, codes.Internal, "panicked")
}
