// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package splice

import (
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/types/dynamicpb"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/manifold-grpc/manifold/proxy"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A real proxy in front of real backends: one with two elements, one that
// fails, one with none, one whose answer is not in the layout.
func TestThroughTheProxy(t *testing.T) {
	for _, api := range apis(t) {
		t.Run(api.name, func(t *testing.T) {
			conn := throughProxy(t, api)
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()

			reply := dynamicpb.NewMessage(api.reply)
			if err := conn.Invoke(ctx, "/test.Service/Unary", &emptypb.Empty{}, reply); err != nil {
				t.Fatal(err)
			}
			list := api.elementsOf(reply)
			var unary []string
			for i := range list.Len() {
				unary = append(unary, describe(api, list.Get(i).Message().Interface().(*dynamicpb.Message)))
			}
			compareElements(t, "unary", unary, []string{
				"one first", "one second", "two! rpc error: code = NotFound desc = no such thing", "three ",
				`four! answer of "four" does not fit the layout: field 1 at byte 0 has wire type 0, expected a message of wire type 2`,
			})

			stream := elementsOfStream(t, ctx, conn, api)
			slices.Sort(stream) // messages of different backends come as they come
			compareElements(t, "stream", stream, []string{
				`four! answer of "four" does not fit the layout: the field value at byte 1 is not protobuf`,
				"one first", "one second", "two! rpc error: code = NotFound desc = no such thing",
			})
		})
	}
}

// describe returns the source of an element, and its error or value.
func describe(api api, element *dynamicpb.Message) string {
	md := api.metadataOf(element)
	if text := get(md, api.errText); text != "" {
		// What the proxy puts in front of an annotator's own text is the proxy's.
		if _, own, ok := strings.Cut(text, "splice: "); ok {
			text = own
		}
		return get(md, "hostname") + "! " + text
	}
	return get(md, "hostname") + " " + get(element, "value")
}

func compareElements(t *testing.T, kind string, got, want []string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s:\ngot\n%s\nwant\n%s", kind, strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func elementsOfStream(t *testing.T, ctx context.Context, conn *grpc.ClientConn, api api) (elements []string) {
	t.Helper()
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, "/test.Service/Stream")
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(stream.SendMsg(&emptypb.Empty{}), stream.CloseSend()); err != nil {
		t.Fatal(err)
	}
	for {
		element := dynamicpb.NewMessage(api.element)
		if err := stream.RecvMsg(element); err == io.EOF {
			return elements
		} else if err != nil {
			t.Fatal(err)
		}
		elements = append(elements, describe(api, element))
	}
}

// throughProxy returns a connection to a proxy in front of the four backends.
func throughProxy(t *testing.T, api api) *grpc.ClientConn {
	t.Helper()
	element := func(value string) *dynamicpb.Message {
		m := dynamicpb.NewMessage(api.element)
		set(m, "value", value)
		return m
	}
	reply := dynamicpb.NewMessage(api.reply)
	for _, value := range []string{"first", "second"} {
		set(api.elementsOf(reply).AppendMutable().Message(), "value", value)
	}
	var backends []proxy.Backend
	for _, b := range []struct {
		name          string
		unary, stream func(grpc.ServerStream) error
	}{
		{"one",
			func(s grpc.ServerStream) error { return s.SendMsg(reply) },
			func(s grpc.ServerStream) error {
				return errors.Join(s.SendMsg(element("first")), s.SendMsg(element("second")))
			}},
		{"two", notFound, notFound},
		{"three",
			func(s grpc.ServerStream) error { return s.SendMsg(&emptypb.Empty{}) },
			func(grpc.ServerStream) error { return nil }},
		{"four",
			func(s grpc.ServerStream) error { return s.SendMsg(proxy.NewFrame([]byte(varint(1, 1)))) },
			func(s grpc.ServerStream) error { return s.SendMsg(proxy.NewFrame([]byte("not protobuf"))) }},
	} {
		conn := memoryConn(t, grpc.NewServer(grpc.ForceServerCodecV2(proxy.Codec()),
			grpc.UnknownServiceHandler(func(_ any, s grpc.ServerStream) error {
				if method, _ := grpc.MethodFromServerStream(s); strings.HasSuffix(method, "Stream") {
					return b.stream(s)
				}
				return b.unary(s)
			})))
		backends = append(backends, &proxy.Upstream{Name: b.name, Channel: conn, Annotator: mustNew(t, api.layout, b.name)})
	}
	director := func(context.Context, string) (proxy.Mode, []proxy.Backend, error) {
		return proxy.One2Many, backends, nil
	}
	streamed := func(method string) bool { return strings.HasSuffix(method, "Stream") }
	return memoryConn(t, grpc.NewServer(grpc.ForceServerCodecV2(proxy.Codec()),
		grpc.UnknownServiceHandler(proxy.TransparentHandler(director, proxy.WithStreamedDetector(streamed)))))
}

func notFound(grpc.ServerStream) error { return status.Error(codes.NotFound, "no such thing") }

// memoryConn serves s in memory until the test ends and returns a connection.
func memoryConn(t *testing.T, s *grpc.Server) *grpc.ClientConn {
	t.Helper()
	l := bufconn.Listen(1 << 16)
	served := make(chan struct{})
	go func() { // ends with s.Stop
		defer close(served)
		_ = s.Serve(l)
	}()
	conn, err := grpc.NewClient("passthrough:///memory", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = conn.Close()
		s.Stop()
		<-served
	})
	return conn
}
