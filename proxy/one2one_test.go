// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package proxy_test

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	epb "google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/manifold-grpc/manifold/proxy"
)

// Payloads need not be protobuf; there may be none, empty ones, and ones far above the 4 MiB that grpc-go accepts by default.
func TestEcho(t *testing.T) {
	conn := behind(t, echo)
	large := strings.Repeat("\xff0123456789abcde", 6<<20/16)

	for _, requests := range [][]string{nil, {""}, {"one"}, {"one", "", "three"}, {large, "\x00", large}} {
		got, err := call(t, conn, "/test.Echo/Any", requests...)
		if err != nil || !slices.Equal(got, requests) {
			t.Errorf("echo of %.20q: got %.20q, %v", requests, got, err)
		}
	}
}

// An upstream status passes through whole.
func TestUpstreamStatus(t *testing.T) {
	detailed, err := status.New(codes.FailedPrecondition, "50% größer — 日本\tx\nsecond line").WithDetails(
		&epb.ErrorInfo{Reason: "BECAUSE", Domain: "example.com"}, &epb.RetryInfo{})
	if err != nil {
		t.Fatal(err)
	}

	tests := []struct {
		name    string
		err     error
		header  metadata.MD // nil: the answer consists of a trailer
		message string
	}{
		{"details", detailed.Err(), nil, ""},
		{"after a header", detailed.Err(), metadata.Pairs("h", "1"), ""},
		{"after a message", detailed.Err(), metadata.Pairs("h", "1"), "answer"},
		{"cancelled by the backend", status.Error(codes.Canceled, "not by the caller"), nil, ""},
		{"deadline of the backend", status.Error(codes.DeadlineExceeded, "not the caller's"), nil, ""},
		{"empty message", status.Error(codes.Aborted, ""), nil, ""},
		{"code without a name", status.Error(codes.Code(99), "odd"), nil, ""},
		{"OK", nil, nil, ""},
		{"OK after a header", nil, metadata.Pairs("h", "1"), ""},
	}

	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			conn := behind(t, func(_ any, s grpc.ServerStream) error {
				s.SetTrailer(metadata.Pairs("t", "1", "t", "2", "t-bin", "\x00\xff"))

				if tt.header != nil {
					if err := s.SendHeader(tt.header); err != nil {
						return err
					}
				}

				if tt.message != "" {
					send(t, s, tt.message)
				}

				return tt.err
			})

			s := open(t, conn, "/test.Status/Get")
			got, err := collect(s)

			if !proto.Equal(status.Convert(err).Proto(), status.Convert(tt.err).Proto()) {
				t.Errorf("status: got %v, want %v", status.Convert(err).Proto(), status.Convert(tt.err).Proto())
			}

			if strings.Join(got, "|") != tt.message {
				t.Errorf("messages: got %q, want %q", got, tt.message)
			}

			header, _ := s.Header()
			if got, want := fmt.Sprint(header["h"]), fmt.Sprint(tt.header["h"]); got != want {
				t.Errorf("header: got %v, want %v", got, want)
			}

			if trailersOnly := header == nil; trailersOnly != (tt.header == nil && tt.message == "") {
				t.Errorf("the answer consists of a trailer: %v, want the same as upstream", trailersOnly)
			}

			want := metadata.Pairs("t", "1", "t", "2", "t-bin", "\x00\xff")
			for key := range want {
				if !slices.Equal(s.Trailer()[key], want[key]) {
					t.Errorf("trailer %s: got %q, want %q", key, s.Trailer()[key], want[key])
				}
			}
		})
	}
}

// The header goes out when it comes, not with the first message.
func TestHeaderBeforeMessage(t *testing.T) {
	conn := behind(t, func(_ any, s grpc.ServerStream) error {
		if err := s.SendHeader(metadata.Pairs("early", "yes")); err != nil {
			return err
		}

		_, err := tryRecv(s) // comes after the caller has seen the header

		return err
	})

	s := open(t, conn, "/test.Header/Get")

	header, err := s.Header()
	if err != nil || !slices.Equal(header["early"], []string{"yes"}) {
		t.Fatalf("header: got %v, %v", header, err)
	}

	send(t, s, "go on")

	if _, err := collect(s); err != nil {
		t.Error(err)
	}
}

// The requests end with a half-close, and the answer comes after it.
func TestHalfClose(t *testing.T) {
	conn := behind(t, func(_ any, s grpc.ServerStream) error {
		requests, err := collect(s)
		if err != nil {
			return err
		}

		return s.SendMsg(proxy.NewFrame([]byte(strings.Join(requests, "+"))))
	})

	got, err := call(t, conn, "/test.Sum/Sum", "1", "2", "3")
	if err != nil || !slices.Equal(got, []string{"1+2+3"}) {
		t.Errorf("got %q, %v", got, err)
	}
}

// A backend may end the call while the caller still sends. Its status is the status.
func TestBackendEndsFirst(t *testing.T) {
	for _, want := range []error{nil, status.Error(codes.PermissionDenied, "enough")} {
		conn := behind(t, func(_ any, s grpc.ServerStream) error {
			if _, err := tryRecv(s); err != nil {
				return err
			}

			return want
		})

		s := open(t, conn, "/test.Early/End")

		sent := make(chan error)

		go func() { // ends with the call
			f := proxy.NewFrame(make([]byte, 1000))
			for {
				if err := s.SendMsg(f); err != nil {
					sent <- err

					return
				}
			}
		}()

		_, err := collect(s)
		if !proto.Equal(status.Convert(err).Proto(), status.Convert(want).Proto()) {
			t.Errorf("status: got %v, want %v", err, want)
		}

		if err := <-sent; err != io.EOF {
			t.Errorf("sending ended with %v, want io.EOF", err)
		}
	}
}

// A conversation, in which each side waits for the other, is not held up.
func TestConversation(t *testing.T) {
	conn := behind(t, func(_ any, s grpc.ServerStream) error {
		send(t, s, "who is there?")

		return echo(nil, s)
	})

	s := open(t, conn, "/test.Talk/Talk")
	if got := recv(t, s); got != "who is there?" {
		t.Errorf("got %q", got)
	}

	for i := range 100 {
		text := fmt.Sprint("line ", i)
		send(t, s, text)

		if got := recv(t, s); got != text {
			t.Errorf("got %q, want %q", got, text)
		}
	}
}

// intercept returns an interceptor that sends what each call ends with.
func intercept(ended chan<- error) grpc.ServerOption {
	return grpc.StreamInterceptor(func(srv any, s grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
		err := handler(srv, s)
		ended <- err

		return err
	})
}

// What the caller does to the call is never reported as something else: not to the caller, and not to interceptors.
func TestCallerStatus(t *testing.T) {
	tests := []struct {
		name string
		end  func(context.Context) (context.Context, context.CancelFunc) // ends the call
		send int                                                         // bytes of the request
		want codes.Code
	}{
		{"cancel", func(ctx context.Context) (context.Context, context.CancelFunc) {
			ctx, cancel := context.WithCancel(ctx)
			time.AfterFunc(50*time.Millisecond, cancel)

			return ctx, cancel
		}, 10, codes.Canceled},
		{"deadline", func(ctx context.Context) (context.Context, context.CancelFunc) {
			return context.WithTimeout(ctx, 50*time.Millisecond)
		}, 10, codes.DeadlineExceeded},
		{"request too large for the proxy", context.WithCancel, 2 << 20, codes.ResourceExhausted},
	}

	for _, tt := range tests {
		for _, halfClosed := range []bool{false, true} {
			t.Run(fmt.Sprint(tt.name, ", half-closed ", halfClosed), func(t *testing.T) {
				// In real time a busy machine may take longer to bring the request here than a deadline's slack.
				synctest.Test(t, func(t *testing.T) {
					inMemory(t)

					intercepted := make(chan error, 1)
					conn := behind(t, hang, grpc.MaxRecvMsgSize(1<<20), intercept(intercepted))
					connected(t, conn)

					ctx, cancel := tt.end(context.Background())
					defer cancel()

					s := openContext(t, ctx, conn, "/test.Caller/Gone")
					send(t, s, strings.Repeat("x", tt.send))

					if halfClosed {
						_ = s.CloseSend()
					}

					_, err := collect(s)
					wantStatus(t, err, tt.want, "")
					wantStatus(t, <-intercepted, tt.want, "")
				})
			})
		}
	}
}

// A caller who cancels just before the deadline has seen it pass by another clock; one who cancels earlier has cancelled.
func TestCancelNearDeadline(t *testing.T) {
	for left, want := range map[time.Duration]codes.Code{
		24 * time.Millisecond: codes.DeadlineExceeded,
		25 * time.Millisecond: codes.Canceled,
	} {
		synctest.Test(t, func(t *testing.T) {
			inMemory(t)

			intercepted := make(chan error, 1)
			conn := behind(t, hang, intercept(intercepted))
			connected(t, conn)

			const timeout = 90 * time.Millisecond // of a length that grpc-timeout can say exactly

			ctx, cancel := context.WithTimeout(context.Background(), timeout)
			defer cancel()

			send(t, openContext(t, ctx, conn, streamMethod), "x")
			time.AfterFunc(timeout-left, cancel)
			wantStatus(t, <-intercepted, want, "")
		})
	}
}

// A limit that the backend's connection sets for one call ends it in ResourceExhausted.
func TestResponseTooLarge(t *testing.T) {
	upstream := dial(t, startBackend(t, answer(strings.Repeat("x", 2000))))
	conn := dialRaw(t, startProxy(t, func(context.Context, string) (proxy.Mode, []proxy.Backend, error) {
		return proxy.One2One, []proxy.Backend{&limited{node{"small", upstream}}}, nil
	}))

	_, err := call(t, conn, "/test.Large/Get")
	wantStatus(t, err, codes.ResourceExhausted, "larger than max")
}

// limited is a node with call options of its own.
type limited struct{ node }

func (*limited) CallOptions(context.Context, string) []grpc.CallOption {
	return []grpc.CallOption{grpc.MaxCallRecvMsgSize(1000), grpc.MaxCallSendMsgSize(1000)}
}

var _ proxy.CallOptionsBackend = (*limited)(nil)

// A request that cannot be sent on ends the call with that reason, not with the cancellation that follows.
func TestRequestTooLarge(t *testing.T) {
	upstream := dial(t, startBackend(t, hang))
	backends := []proxy.Backend{&limited{node{"small", upstream}}}

	for _, mode := range []proxy.Mode{proxy.One2One, proxy.One2Many} {
		conn := dialRaw(t, startProxy(t, func(context.Context, string) (proxy.Mode, []proxy.Backend, error) {
			return mode, backends, nil
		}))

		got, err := call(t, conn, "/test.Large/Put", strings.Repeat("x", 2000))
		if mode == proxy.One2One {
			wantStatus(t, err, codes.ResourceExhausted, "larger than max")
		} else if len(got) != 1 || !strings.Contains(got[0], "ResourceExhausted") {
			t.Errorf("%v: got %q, %v", mode, got, err)
		}
	}
}

// What the director and GetConnection say is the answer.
func TestRefusals(t *testing.T) {
	refuse := func(err error) proxy.StreamDirector {
		return func(context.Context, string) (proxy.Mode, []proxy.Backend, error) { return proxy.One2One, nil, err }
	}
	backend := func(ctx context.Context, conn *grpc.ClientConn, err error) proxy.StreamDirector {
		return func(context.Context, string) (proxy.Mode, []proxy.Backend, error) {
			return proxy.One2One, []proxy.Backend{&proxy.SingleBackend{
				GetConn: func(context.Context) (context.Context, *grpc.ClientConn, error) { return ctx, conn, err },
			}}, nil
		}
	}
	named := func(mode proxy.Mode, n int) proxy.StreamDirector {
		return func(context.Context, string) (proxy.Mode, []proxy.Backend, error) {
			return mode, make([]proxy.Backend, n), nil
		}
	}
	closed := dial(t, "127.0.0.1:1")
	_ = closed.Close()

	tests := []struct {
		name     string
		director proxy.StreamDirector
		options  []any
		code     codes.Code
		text     string
	}{
		{"status of the director", refuse(status.Error(codes.Unimplemented, "not here")), nil, codes.Unimplemented, "not here"},
		{"error of the director", refuse(io.ErrNoProgress), nil, codes.Unknown, "no data or error"},
		{"no director", nil, nil, codes.Unimplemented, "no director"},
		{"status of GetConnection", backend(nil, nil, status.Error(codes.NotFound, "no node")), nil, codes.NotFound, "no node"},
		{"error of GetConnection", backend(nil, nil, io.ErrNoProgress), nil, codes.Unavailable, "no data or error"},
		{"no connection", backend(context.Background(), nil, nil), nil, codes.Internal, "neither a connection nor an error"},
		{"no context", backend(nil, closed, nil), nil, codes.Internal, "nil context"},
		{"closed connection", backend(context.Background(), closed, nil), nil, codes.Canceled, "closing"},
		{"no backend", named(proxy.One2One, 0), nil, codes.Internal, "exactly one backend, the director named 0"},
		{"two backends", named(proxy.One2One, 2), nil, codes.Internal, "exactly one backend, the director named 2"},
		{"none of many", named(proxy.One2Many, 0), nil, codes.Unavailable, "named none"},
		{"unknown mode", named(7, 1), nil, codes.Internal, "unknown mode 7"},
		{"other mode", named(proxy.One2Many, 1), []any{proxy.WithMode(proxy.One2One)}, codes.Internal, "answered with mode One2Many, this handler serves One2One only"},
		{"other mode too", named(proxy.One2One, 1), []any{proxy.WithMode(proxy.One2Many)}, codes.Internal, "this handler serves One2Many only"},
		{"nil backend", named(proxy.One2One, 1), nil, codes.Internal, "GetConnection"},
	}

	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := call(t, dialRaw(t, startProxy(t, tt.director, tt.options...)), "/test.Refused/Call", "x")
			wantStatus(t, err, tt.code, tt.text)
		})
	}
}

// WithMode lets its own mode pass.
func TestWithMode(t *testing.T) {
	got, err := call(t, behind(t, echo, proxy.WithMode(proxy.One2One)), "/test.Echo/Any", "x")
	if err != nil || !slices.Equal(got, []string{"x"}) {
		t.Errorf("got %q, %v", got, err)
	}
}

// A backend that is known to be down is reported at once.
func TestBackendDown(t *testing.T) {
	conn := dialRaw(t, startProxy(t, to(dial(t, "127.0.0.1:1"))))

	_, err := call(t, conn, "/test.Down/Call", "x")
	wantStatus(t, err, codes.Unavailable, "refused")

	within(t, 2*time.Second, "a call to a backend known to be down", func() {
		_, err = call(t, conn, "/test.Down/Call", "x")
	})
	wantStatus(t, err, codes.Unavailable, "refused")
}

// A context that the backend makes of nothing does not let its call outlive the caller's.
func TestForeignContext(t *testing.T) {
	began := make(chan struct{})
	ended := make(chan error, 1)
	upstream := dial(t, startBackend(t, func(_ any, s grpc.ServerStream) error {
		close(began)

		ended <- hang(nil, s)

		return nil
	}))
	conn := dialRaw(t, startProxy(t, func(context.Context, string) (proxy.Mode, []proxy.Backend, error) {
		return proxy.One2One, []proxy.Backend{&proxy.SingleBackend{
			GetConn: func(context.Context) (context.Context, *grpc.ClientConn, error) {
				return context.Background(), upstream, nil
			},
		}}, nil
	}))

	ctx, cancel := context.WithTimeout(context.Background(), testTimeout)
	s := openContext(t, ctx, conn, "/test.Foreign/Call")
	send(t, s, "x")
	_ = s.CloseSend()

	go func() { // ends when the call is at the backend, or with the test
		<-began
		cancel()
	}()

	_, err := collect(s)
	wantStatus(t, err, codes.Canceled, "")

	select {
	case <-ended:
	case <-time.After(testTimeout):
		t.Error("the backend's call goes on without its caller")
	}
}

// The caller's deadline reaches the backend.
func TestDeadlinePassedOn(t *testing.T) {
	deadlines := make(chan time.Duration, 1)
	conn := behind(t, func(_ any, s grpc.ServerStream) error {
		d, _ := s.Context().Deadline()
		deadlines <- time.Until(d)

		return nil
	})

	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()

	if _, err := collect(openContext(t, ctx, conn, "/test.Deadline/Call")); err != nil {
		t.Fatal(err)
	}

	if d := <-deadlines; d < 30*time.Second || d > time.Minute {
		t.Errorf("the backend has %v left of a minute", d)
	}
}
