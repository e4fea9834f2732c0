// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package proxy_test

import (
	"context"
	"fmt"
	"io"
	"log"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/manifold-grpc/manifold/proxy"
)

// A backend for one-to-one forwarding needs a connection and nothing else.
func ExampleSingleBackend() {
	conn, err := grpc.NewClient(
		"api-service.staging.svc.local",
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(proxy.Codec())), // does no harm, and is not needed
	)
	if err != nil {
		log.Fatal(err)
	}
	defer func() { _ = conn.Close() }()

	backend := &proxy.SingleBackend{
		GetConn: func(ctx context.Context) (context.Context, *grpc.ClientConn, error) {
			md, _ := metadata.FromIncomingContext(ctx)

			// Copy the inbound metadata explicitly.
			outCtx := metadata.NewOutgoingContext(ctx, md.Copy())

			return outCtx, conn, nil
		},
	}

	fmt.Println(backend)
	// Output: backend
}

// A director that shields internal services and chooses by the authority that the caller used.
func ExampleStreamDirector() {
	staging, stopStaging := exampleBackend("staging")
	defer stopStaging()

	prod, stopProd := exampleBackend("prod")
	defer stopProd()

	stagingBackend, prodBackend := &proxy.Upstream{Channel: staging}, &proxy.Upstream{Channel: prod}

	director := func(ctx context.Context, fullMethodName string) (proxy.Mode, []proxy.Backend, error) {
		// Make sure we never forward internal services.
		if strings.HasPrefix(fullMethodName, "/com.example.internal.") {
			return proxy.One2One, nil, status.Errorf(codes.Unimplemented, "Unknown method")
		}

		md, ok := metadata.FromIncomingContext(ctx)
		if ok {
			// Decide on which backend to dial.
			if val, exists := md[":authority"]; exists && val[0] == "staging.api.example.com" {
				return proxy.One2One, []proxy.Backend{stagingBackend}, nil
			} else if val, exists := md[":authority"]; exists && val[0] == "api.example.com" {
				return proxy.One2One, []proxy.Backend{prodBackend}, nil
			}
		}

		return proxy.One2One, nil, status.Errorf(codes.Unimplemented, "Unknown method")
	}

	for _, authority := range []string{"staging.api.example.com", "api.example.com", "elsewhere.example.com"} {
		server := grpc.NewServer(
			grpc.ForceServerCodecV2(proxy.Codec()),
			grpc.UnknownServiceHandler(proxy.TransparentHandler(director)),
		)

		client, stop := exampleConn(server, grpc.WithAuthority(authority))
		ask(client, "/com.example.Catalog/List")
		stop()
	}
	// Output:
	// /com.example.Catalog/List -> staging
	// /com.example.Catalog/List -> prod
	// /com.example.Catalog/List -> Unimplemented
}

// The proxy takes the methods that the server does not know. Services of the server itself are served locally.
func ExampleTransparentHandler() {
	conn, stopBackend := exampleBackend("remote")
	defer stopBackend()

	director := (&proxy.Upstream{Channel: conn}).Direct

	server := grpc.NewServer(
		grpc.ForceServerCodecV2(proxy.Codec()),
		grpc.UnknownServiceHandler(
			proxy.TransparentHandler(director, proxy.WithMode(proxy.One2One)),
		),
	)
	server.RegisterService(&greeter, nil)

	client, stop := exampleConn(server)
	defer stop()

	ask(client, "/example.Greeter/Greet")
	ask(client, "/example.Catalog/List")
	// Output:
	// /example.Greeter/Greet -> local
	// /example.Catalog/List -> remote
}

// greeter is a service whose only method answers "local".
var greeter = grpc.ServiceDesc{
	ServiceName: "example.Greeter",
	HandlerType: (*any)(nil),
	Streams: []grpc.StreamDesc{{
		StreamName:    "Greet",
		ServerStreams: true,
		Handler:       func(_ any, s grpc.ServerStream) error { return s.SendMsg(wrapperspb.String("local")) },
	}},
}

// ServerOptions are all that a server needs to do nothing but proxy.
func ExampleServerOptions() {
	conn, stopBackend := exampleBackend("remote")
	defer stopBackend()

	upstream := &proxy.Upstream{Channel: conn}

	client, stop := exampleConn(grpc.NewServer(proxy.ServerOptions(upstream.Direct)...))
	defer stop()

	ask(client, "/example.Catalog/List")
	// Output: /example.Catalog/List -> remote
}

// Both sides of the proxy at less cost: DirectSockets goes around whatever credentials there are.
func ExampleDirectSockets() {
	direct := proxy.DirectSockets(insecure.NewCredentials())

	conn, err := grpc.NewClient("dns:///shop.internal:50051", grpc.WithTransportCredentials(direct))
	if err != nil {
		log.Fatal(err)
	}
	defer func() { _ = conn.Close() }()

	upstream := &proxy.Upstream{Channel: conn}

	server := grpc.NewServer(append(proxy.ServerOptions(upstream.Direct), grpc.Creds(direct))...)
	defer server.Stop() // which would serve

	fmt.Println(direct.Info().SecurityProtocol)
	// Output: insecure
}

// Some methods of a service, by name. What the server does not know it refuses.
func ExampleRegisterService() {
	conn, stopBackend := exampleBackend("remote")
	defer stopBackend()

	director := (&proxy.Upstream{Channel: conn}).Direct

	server := grpc.NewServer(grpc.ForceServerCodecV2(proxy.Codec()))
	proxy.RegisterService(server, director,
		"talos.testproto.TestService",
		proxy.WithMethodNames("PingEmpty", "Ping", "PingError", "PingList"),
		proxy.WithStreamedMethodNames("PingList"),
	)

	client, stop := exampleConn(server)
	defer stop()

	ask(client, "/talos.testproto.TestService/Ping")
	ask(client, "/talos.testproto.TestService/Pong")
	// Output:
	// /talos.testproto.TestService/Ping -> remote
	// /talos.testproto.TestService/Pong -> Unimplemented
}

// A director that looks into the first request of one method before it chooses.
func ExampleFirstMessage() {
	small, stopSmall := exampleBackend("small")
	defer stopSmall()

	large, stopLarge := exampleBackend("large")
	defer stopLarge()

	director := func(ctx context.Context, method string) (proxy.Mode, []proxy.Backend, error) {
		first, err := proxy.FirstMessage(ctx)
		if err != nil && err != io.EOF {
			return 0, nil, err
		}

		if first != nil && first.Len() > 1000 {
			return proxy.One2One, []proxy.Backend{&proxy.Upstream{Channel: large}}, nil
		}

		return proxy.One2One, []proxy.Backend{&proxy.Upstream{Channel: small}}, nil
	}

	client, stop := exampleConn(grpc.NewServer(proxy.ServerOptions(director)...))
	defer stop()

	for _, size := range []int{10, 10_000} {
		answer := &wrapperspb.StringValue{}
		if err := client.Invoke(context.Background(), "/example.Store/Put", wrapperspb.Bytes(make([]byte, size)), answer); err != nil {
			log.Fatal(err)
		}

		fmt.Println(size, "bytes ->", answer.GetValue())
	}
	// Output:
	// 10 bytes -> small
	// 10000 bytes -> large
}

// logged is an upstream that says how each call went.
type logged struct {
	*proxy.Upstream
}

func (logged) Done(_ context.Context, o proxy.Outcome) {
	fmt.Printf("%s of %s: %v, %d requests of %d bytes, %d answers of %d bytes\n",
		o.FullMethod, o.Backend, o.Status.Code(), o.RequestMessages, o.RequestBytes, o.ResponseMessages, o.ResponseBytes)
}

// A backend learns how each of its calls went.
func ExampleDoneBackend() {
	conn, stopBackend := exampleConn(grpc.NewServer(
		grpc.ForceServerCodecV2(proxy.Codec()), grpc.UnknownServiceHandler(answer("\n\x06remote"))))
	defer stopBackend()

	director := func(context.Context, string) (proxy.Mode, []proxy.Backend, error) {
		return proxy.One2One, []proxy.Backend{logged{&proxy.Upstream{Name: "shop", Channel: conn}}}, nil
	}

	client, stop := exampleConn(grpc.NewServer(proxy.ServerOptions(director)...))
	defer stop()

	ask(client, "/example.Catalog/List")
	// Output:
	// /example.Catalog/List of shop: OK, 1 requests of 0 bytes, 1 answers of 8 bytes
	// /example.Catalog/List -> remote
}

// An interceptor of the server sees the messages that pass through, without a copy.
func ExampleFrame() {
	conn, stopBackend := exampleBackend("remote")
	defer stopBackend()

	server := grpc.NewServer(append(proxy.ServerOptions((&proxy.Upstream{Channel: conn}).Direct),
		grpc.StreamInterceptor(func(srv any, s grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
			return handler(srv, sizedStream{s})
		}))...)

	client, stop := exampleConn(server)
	defer stop()

	ask(client, "/example.Catalog/List")
	// Output:
	// an answer of 8 bytes passes: "\n\x06remote"
	// /example.Catalog/List -> remote
}

type sizedStream struct{ grpc.ServerStream }

func (s sizedStream) SendMsg(m any) error {
	if f, ok := m.(*proxy.Frame); ok {
		fmt.Printf("an answer of %d bytes passes: %q\n", f.Len(), f.Bytes())
	}

	return s.ServerStream.SendMsg(m)
}

// Backends get to know who called.
func ExampleWithForwarded() {
	conn, stopBackend := exampleConn(grpc.NewServer(grpc.UnknownServiceHandler(func(_ any, s grpc.ServerStream) error {
		md, _ := metadata.FromIncomingContext(s.Context())

		return s.SendMsg(wrapperspb.String(fmt.Sprint("called as ", md["x-forwarded-host"])))
	})))
	defer stopBackend()

	upstream := &proxy.Upstream{Channel: conn}
	server := grpc.NewServer(proxy.ServerOptions(upstream.Direct, proxy.WithForwarded(proxy.Forwarded{}))...)

	client, stop := exampleConn(server, grpc.WithAuthority("api.example.com"))
	defer stop()

	ask(client, "/example.Catalog/List")
	// Output: /example.Catalog/List -> called as [api.example.com]
}
