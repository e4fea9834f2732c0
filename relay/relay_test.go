// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package relay_test

import (
	"bytes"
	"context"
	"net"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/manifold-grpc/manifold/relay"
)

// echo is a backend that answers any method: it sends back each message, a header and a trailer.
func echo(t testing.TB, name string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer(grpc.MaxRecvMsgSize(64<<20), grpc.UnknownServiceHandler(func(_ any, st grpc.ServerStream) error {
		method, _ := grpc.MethodFromServerStream(st)
		md, _ := metadata.FromIncomingContext(st.Context())
		st.SetHeader(metadata.Pairs("x-backend", name, "x-echo", first(md["x-in"])))
		st.SetTrailer(metadata.Pairs("x-trailer", "t", "x-bin-bin", string([]byte{0, 1, 255})))
		for {
			m := new(wrapperspb.BytesValue)
			if err := st.RecvMsg(m); err != nil {
				break
			}
			if err := st.SendMsg(m); err != nil {
				return err
			}
		}
		if method == "/test.Echo/Fail" {
			return status.Error(codes.FailedPrecondition, "nein, 世界 100%")
		}
		return nil
	}))
	go s.Serve(l)
	t.Cleanup(s.Stop)
	return l.Addr().String()
}

func first(v []string) string {
	if len(v) == 0 {
		return ""
	}
	return v[0]
}

func start(t testing.TB, addrs ...string) (*relay.Server, *grpc.ClientConn) {
	t.Helper()
	b := &relay.Backend{Name: "b"}
	for _, a := range addrs {
		e := relay.NewEndpoint(a, relay.EndpointConfig{})
		t.Cleanup(e.Close)
		b.Endpoints = append(b.Endpoints, e)
	}
	srv := &relay.Server{Route: func(c *relay.Call) { c.Forward(b) }}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(l) }()
	cc, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64<<20)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cc.Close()
		srv.Close()
		if err := <-done; err != relay.ErrServerClosed {
			t.Errorf("Serve returned %v", err)
		}
	})
	return srv, cc
}

func TestUnary(t *testing.T) {
	_, cc := start(t, echo(t, "a"), echo(t, "b"))
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	for _, n := range []int{0, 1, 100, 1 << 16, 1 << 20, 10 << 20} {
		in := &wrapperspb.BytesValue{Value: bytes.Repeat([]byte("x"), n)}
		out := new(wrapperspb.BytesValue)
		var h, tr metadata.MD
		err := cc.Invoke(metadata.AppendToOutgoingContext(ctx, "x-in", "hello"), "/test.Echo/Call", in, out, grpc.Header(&h), grpc.Trailer(&tr))
		if err != nil {
			t.Fatal(n, err)
		}
		if !bytes.Equal(in.Value, out.Value) {
			t.Fatalf("%d octets: wrong answer", n)
		}
		t.Log(n, h, tr)
	}
	err := cc.Invoke(ctx, "/test.Echo/Fail", &wrapperspb.BytesValue{}, &wrapperspb.BytesValue{})
	if st := status.Convert(err); st.Code() != codes.FailedPrecondition || st.Message() != "nein, 世界 100%" {
		t.Fatal(err)
	}
}

func TestBidi(t *testing.T) {
	_, cc := start(t, echo(t, "a"))
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	st, err := cc.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, "/test.Echo/Bidi")
	if err != nil {
		t.Fatal(err)
	}
	for i := range 1000 {
		in := &wrapperspb.BytesValue{Value: bytes.Repeat([]byte{byte(i)}, i)}
		if err := st.SendMsg(in); err != nil {
			t.Fatal(err)
		}
		out := new(wrapperspb.BytesValue)
		if err := st.RecvMsg(out); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(in.Value, out.Value) {
			t.Fatal("wrong")
		}
	}
	st.CloseSend()
	if err := st.RecvMsg(new(wrapperspb.BytesValue)); err == nil {
		t.Fatal("no end")
	}
}
