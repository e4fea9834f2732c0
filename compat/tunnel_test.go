// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package compat

import (
	"context"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/jhump/grpctunnel"
	"github.com/jhump/grpctunnel/tunnelpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/manifold-grpc/manifold/proxy"
)

// speaker is a service with a unary method and one that streams both ways.
var speaker = grpc.ServiceDesc{
	ServiceName: "test.Speaker",
	HandlerType: (*any)(nil),
	Methods: []grpc.MethodDesc{{
		MethodName: "Say",
		Handler: func(_ any, _ context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
			in := &wrapperspb.StringValue{}
			if err := decode(in); err != nil {
				return nil, err
			}

			if in.Value == "fail" {
				return nil, status.Error(codes.FailedPrecondition, "asked to")
			}

			return wrapperspb.String("heard " + in.Value), nil
		},
	}},
	Streams: []grpc.StreamDesc{{StreamName: "Talk", ServerStreams: true, ClientStreams: true, Handler: func(_ any, s grpc.ServerStream) error {
		for {
			in := &wrapperspb.StringValue{}
			if err := s.RecvMsg(in); err != nil {
				return nil
			}

			if in.Value == "enough" {
				return status.Error(codes.Aborted, "enough") // before the caller has half-closed
			}

			if err := s.SendMsg(in); err != nil {
				return err
			}
		}
	}}},
}

// A backend that is reached through a tunnel which the backend itself has opened, and whose channel is no
// *grpc.ClientConn; and a proxy that is itself served inside of a tunnel.
func TestReverseTunnel(t *testing.T) {
	tunnels := grpctunnel.NewTunnelServiceHandler(grpctunnel.TunnelServiceHandlerOptions{})
	upstream := &proxy.Upstream{Name: "tunnel", Channel: tunnels.AsChannel()}

	front := grpc.NewServer(proxy.ServerOptions(upstream.Direct)...)
	tunnelpb.RegisterTunnelServiceServer(front, tunnels.Service()) // a local service beside the proxy

	frontConn := tunnelTo(t, front)

	backend := grpctunnel.NewReverseTunnelServer(tunnelpb.NewTunnelServiceClient(frontConn))
	backend.RegisterService(&speaker, struct{}{})
	serveTunnel(t, backend, tunnels)

	checkSpeaker(t, frontConn)

	// The front once more, as the backend of an outer tunnel server that proxies inside.
	outer := grpctunnel.NewTunnelServiceHandler(grpctunnel.TunnelServiceHandlerOptions{})
	outerServer := grpc.NewServer()
	tunnelpb.RegisterTunnelServiceServer(outerServer, outer.Service())

	inside := grpctunnel.NewReverseTunnelServer(tunnelpb.NewTunnelServiceClient(tunnelTo(t, outerServer)))
	proxy.RegisterService(inside, (&proxy.Upstream{Channel: frontConn}).Direct, "test.Speaker", proxy.WithMethodNames("Say", "Talk"))
	serveTunnel(t, inside, outer)

	checkSpeaker(t, outer.AsChannel())
}

// tunnelTo serves s and returns a connection to it.
func tunnelTo(t *testing.T, s *grpc.Server) *grpc.ClientConn {
	t.Helper()

	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}

	go func() { _ = s.Serve(l) }() // ends with Stop

	conn, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}

	t.Cleanup(func() {
		_ = conn.Close()
		s.Stop()
	})

	return conn
}

// serveTunnel opens the tunnel and waits until it is there.
func serveTunnel(t *testing.T, s *grpctunnel.ReverseTunnelServer, at *grpctunnel.TunnelServiceHandler) {
	t.Helper()

	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	served := make(chan struct{})

	go func() { // ends with s.Stop
		defer close(served)
		_, _ = s.Serve(ctx)
	}()

	t.Cleanup(func() {
		s.Stop()
		cancel()
		<-served
	})

	if err := at.AsChannel().WaitForReady(ctx); err != nil {
		t.Fatal(err)
	}
}

// checkSpeaker makes calls of both kinds through the channel.
func checkSpeaker(t *testing.T, channel grpc.ClientConnInterface) {
	t.Helper()

	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()

	out := &wrapperspb.StringValue{}
	if err := channel.Invoke(ctx, "/test.Speaker/Say", wrapperspb.String("hello"), out); err != nil || out.Value != "heard hello" {
		t.Errorf("got %q, %v", out.Value, err)
	}

	if err := channel.Invoke(ctx, "/test.Speaker/Say", wrapperspb.String("fail"), out); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("got %v, want FailedPrecondition", err)
	}

	s, err := channel.NewStream(ctx, &speaker.Streams[0], "/test.Speaker/Talk")
	if err != nil {
		t.Fatal(err)
	}

	var got []string

	for _, word := range []string{"one", "two"} {
		if err := s.SendMsg(wrapperspb.String(word)); err != nil {
			t.Fatal(err)
		}

		if err := s.RecvMsg(out); err != nil {
			t.Fatal(err)
		}

		got = append(got, out.Value)
	}

	if !slices.Equal(got, []string{"one", "two"}) {
		t.Errorf("got %q", got)
	}

	if err := s.SendMsg(wrapperspb.String("enough")); err != nil {
		t.Fatal(err)
	}

	if err := s.RecvMsg(out); status.Code(err) != codes.Aborted {
		t.Errorf("got %v, want Aborted", err)
	}
}
