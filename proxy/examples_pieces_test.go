// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package proxy_test

import (
	"context"
	"fmt"
	"log"
	"net"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/manifold-grpc/manifold/proxy"
)

// exampleConn serves s in memory and returns a connection to it, and a function that ends both.
func exampleConn(s *grpc.Server, opts ...grpc.DialOption) (*grpc.ClientConn, func()) {
	l := bufconn.Listen(1 << 16)
	go func() { _ = s.Serve(l) }() // ends with s.Stop

	conn, err := grpc.NewClient("passthrough:///memory", append(opts,
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }),
		grpc.WithTransportCredentials(insecure.NewCredentials()))...)
	if err != nil {
		log.Fatal(err)
	}

	return conn, func() {
		_ = conn.Close()
		s.Stop()
	}
}

// exampleBackend is a backend that answers each call with its name.
func exampleBackend(name string) (*grpc.ClientConn, func()) {
	return exampleConn(grpc.NewServer(grpc.UnknownServiceHandler(func(_ any, s grpc.ServerStream) error {
		return s.SendMsg(wrapperspb.String(name))
	})))
}

// exampleProxy is a server that proxies by the director and serves nothing else.
func exampleProxy(director proxy.StreamDirector) (*grpc.ClientConn, func()) {
	return exampleConn(grpc.NewServer(
		grpc.ForceServerCodecV2(proxy.Codec()),
		grpc.UnknownServiceHandler(proxy.TransparentHandler(director)),
	))
}

// ask makes a call and prints the answer.
func ask(client *grpc.ClientConn, method string) {
	var answer wrapperspb.StringValue
	if err := client.Invoke(context.Background(), method, &emptypb.Empty{}, &answer); err != nil {
		fmt.Println(method, "->", status.Code(err))

		return
	}

	fmt.Println(method, "->", answer.GetValue())
}

// One backend behind the proxy gets every call, with the caller's metadata.
func ExampleUpstream() {
	conn, stopBackend := exampleBackend("a")
	defer stopBackend()

	upstream := &proxy.Upstream{Name: "a", Channel: conn}

	client, stopProxy := exampleProxy(upstream.Direct)
	defer stopProxy()

	ask(client, "/shop.Cart/Get")
	// Output:
	// /shop.Cart/Get -> a
}

// The calls of one client connection go round over three backends.
func ExampleRoundRobin() {
	var backends []proxy.Backend

	for _, name := range []string{"a", "b", "c"} {
		conn, stop := exampleBackend(name)
		defer stop()

		backends = append(backends, &proxy.Upstream{Name: name, Channel: conn})
	}

	set, err := proxy.NewRoundRobin(backends...)
	if err != nil {
		log.Fatal(err)
	}

	client, stopProxy := exampleProxy(set.Direct)
	defer stopProxy()

	for range 4 {
		ask(client, "/shop.Cart/Get")
	}
	// Output:
	// /shop.Cart/Get -> a
	// /shop.Cart/Get -> b
	// /shop.Cart/Get -> c
	// /shop.Cart/Get -> a
}

// Services have backends of their own, and one method goes elsewhere. What no route takes, a caller sees
// as a service that does not exist.
func ExampleRouter() {
	carts, stopCarts := exampleBackend("carts")
	defer stopCarts()

	search, stopSearch := exampleBackend("search")
	defer stopSearch()

	cartSet, err := proxy.NewRoundRobin(&proxy.Upstream{Name: "carts", Channel: carts})
	if err != nil {
		log.Fatal(err)
	}

	searchUpstream := &proxy.Upstream{Name: "search", Channel: search}

	router, err := proxy.NewRouter(
		proxy.Route{Pattern: "shop.*", Director: cartSet.Direct},
		proxy.Route{Pattern: "shop.Cart/Find*", Director: searchUpstream.Direct},
	)
	if err != nil {
		log.Fatal(err)
	}

	client, stopProxy := exampleProxy(router.Direct)
	defer stopProxy()

	ask(client, "/shop.Cart/Get")
	ask(client, "/shop.Cart/FindByName")
	ask(client, "/bank.Account/Open")
	// Output:
	// /shop.Cart/Get -> carts
	// /shop.Cart/FindByName -> search
	// /bank.Account/Open -> Unimplemented
}
