// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package proxy_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/manifold-grpc/manifold/proxy"
)

// countedBuffer is a buffer that counts its references.
type countedBuffer struct {
	mem.SliceBuffer
	refs *int
}

func (c countedBuffer) Ref()  { *c.refs++ }
func (c countedBuffer) Free() { *c.refs-- }

// A frame passes through the codec by reference: the same memory, and every reference given back.
func TestCodecPassesByReference(t *testing.T) {
	refs := 1
	data := mem.BufferSlice{countedBuffer{[]byte("message"), &refs}}
	codec, frame := proxy.Codec(), proxy.NewFrame(nil).(*proxy.Frame)

	if err := codec.Unmarshal(data, frame); err != nil {
		t.Fatal(err)
	}

	out, err := codec.Marshal(frame)
	if err != nil {
		t.Fatal(err)
	}

	if &out[0].ReadOnlyData()[0] != &data[0].ReadOnlyData()[0] {
		t.Error("the message was copied")
	}

	if refs != 3 {
		t.Errorf("%d references, want those of the reader, the frame and the writer", refs)
	}

	out.Free()
	data.Free()

	if got := string(frame.Bytes()); refs != 1 || got != "message" {
		t.Errorf("the frame is %q with %d references, want its own one", got, refs)
	}

	// Reading the next message gives the former one back.
	if err := codec.Unmarshal(bufferSlice([]byte("next")), frame); err != nil || refs != 0 || string(frame.Bytes()) != "next" {
		t.Errorf("then it is %q with %d references, %v", frame.Bytes(), refs, err)
	}
}

func TestFrame(t *testing.T) {
	frame := proxy.NewFrame([]byte("abc")).(*proxy.Frame)

	if got := frame.Bytes(); string(got) != "abc" || cap(got) != 3 || &got[0] != &frame.Buffers()[0].ReadOnlyData()[0] {
		t.Errorf("Bytes: %q of capacity %d, want the frame's own without room behind", got, cap(got))
	}

	if frame.Len() != 3 || frame.Buffers().Len() != 3 || fmt.Sprint(frame) != "proxy.Frame" {
		t.Errorf("got length %d, %v", frame.Len(), frame)
	}

	several := proxy.NewFrame(nil).(*proxy.Frame)
	if several.Len() != 0 || several.Bytes() != nil {
		t.Errorf("empty: %d, %q", several.Len(), several.Bytes())
	}

	_ = proxy.Codec().Unmarshal(mem.BufferSlice{mem.SliceBuffer("ab"), mem.SliceBuffer("c")}, several)

	if several.Len() != 3 || string(several.Bytes()) != "abc" {
		t.Errorf("of two buffers: %d, %q", several.Len(), several.Bytes())
	}
}

// All other messages are the parent's.
func TestCodecLeavesOtherMessages(t *testing.T) {
	for name, codec := range map[string]encoding.CodecV2{"proto": proxy.Codec(), "json2": proxy.CodecWithParent(jsonCodec{})} {
		if codec.Name() != name {
			t.Errorf("name %q, want %q", codec.Name(), name)
		}

		in, out := wrapperspb.String(strings.Repeat("text ", 1000)), &wrapperspb.StringValue{}

		data, err := codec.Marshal(in)
		if err != nil {
			t.Fatal(err)
		}

		if err := codec.Unmarshal(data, out); err != nil || !proto.Equal(in, out) {
			t.Errorf("%s: got %v, %v", name, out, err)
		}

		data.Free()
	}

	if _, err := proxy.Codec().Marshal("not protobuf"); err == nil {
		t.Error("a string was marshaled")
	}
}

// A codec that is not there is a mistake of the program, and shows at once.
func TestCodecPanics(t *testing.T) {
	for what, f := range map[string]func(){
		"CodecWithParent(nil)":                 func() { proxy.CodecWithParent(nil) },
		"RegisterCodec of one that is unknown": func() { proxy.RegisterCodec("unheard-of") },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s did not panic", what)
				}
			}()
			f()
		}()
	}
}

// jsonCodec is a codec of the test's own.
type jsonCodec struct{}

func (jsonCodec) Name() string { return "json2" }

func (jsonCodec) Marshal(v any) (mem.BufferSlice, error) {
	b, err := json.Marshal(v)

	return mem.BufferSlice{mem.SliceBuffer(b)}, err
}

func (jsonCodec) Unmarshal(data mem.BufferSlice, v any) error {
	return json.Unmarshal(data.Materialize(), v)
}

// oldCodec is one of grpc-go's older interface.
type oldCodec struct{}

func (oldCodec) Name() string                       { return "json1" }
func (oldCodec) Marshal(v any) ([]byte, error)      { return json.Marshal(v) }
func (oldCodec) Unmarshal(data []byte, v any) error { return json.Unmarshal(data, v) }

// protoCodec is grpc-go's own, which RegisterCodec puts behind that of the proxy.
var protoCodec = encoding.GetCodecV2("proto")

func init() {
	encoding.RegisterCodecV2(jsonCodec{})
	encoding.RegisterCodec(oldCodec{})
	proxy.RegisterCodec("json2")
	proxy.RegisterCodec("json2") // again changes nothing
	proxy.RegisterCodec("json1")
	proxy.RegisterCodec("proto")
}

// local is a service that is served by the proxy's server itself. It answers with the text it gets.
var local = grpc.ServiceDesc{
	ServiceName: "test.Local",
	HandlerType: (*any)(nil),
	Methods: []grpc.MethodDesc{{
		MethodName: "Say",
		Handler: func(_ any, _ context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
			in := &wrapperspb.StringValue{}
			if err := decode(in); err != nil {
				return nil, err
			}

			return wrapperspb.String("local " + in.Value), nil
		},
	}},
}

// Local services live beside the proxy with codecs of their own. On a server that is made with RegisterCodec the
// content-subtype chooses among them, as it does without the proxy.
func TestLocalServices(t *testing.T) {
	upstream := dial(t, startBackend(t, echo))
	unknown := grpc.UnknownServiceHandler(proxy.TransparentHandler(to(upstream)))

	servers := map[string]struct {
		server *grpc.Server
		codecs []encoding.CodecV2
	}{
		"forced":      {grpc.NewServer(unknown, grpc.ForceServerCodecV2(proxy.Codec())), []encoding.CodecV2{encoding.GetCodecV2("proto")}},
		"forced json": {grpc.NewServer(unknown, grpc.ForceServerCodecV2(proxy.CodecWithParent(jsonCodec{}))), []encoding.CodecV2{jsonCodec{}}},
		"registered":  {grpc.NewServer(unknown), []encoding.CodecV2{encoding.GetCodecV2("proto"), jsonCodec{}, encoding.GetCodecV2("json1")}},
	}

	for name, s := range servers {
		s.server.RegisterService(&local, nil)
		conn := dial(t, serve(t, s.server))

		for _, codec := range s.codecs {
			out := &wrapperspb.StringValue{}

			err := conn.Invoke(t.Context(), "/test.Local/Say", wrapperspb.String("hi"), out, grpc.ForceCodecV2(codec))
			if err != nil || out.Value != "local hi" {
				t.Errorf("%s, %s: got %q, %v", name, codec.Name(), out.Value, err)
			}
		}

		for _, subtype := range []string{"proto", "json2", "thrift"} {
			out := proxy.NewFrame(nil).(*proxy.Frame)

			err := conn.Invoke(t.Context(), "/test.Remote/Say", proxy.NewFrame([]byte("\xff")), out, grpc.ForceCodecV2(proxy.Codec()), grpc.CallContentSubtype(subtype))
			if err != nil || string(out.Bytes()) != "\xff" {
				t.Errorf("%s, proxied %s: got %q, %v", name, subtype, out.Bytes(), err)
			}
		}
	}
}

// RegisterService registers the methods it is told, with the kinds it is told, and no others.
func TestRegisterService(t *testing.T) {
	server := grpc.NewServer(grpc.ForceServerCodecV2(proxy.Codec()))
	proxy.RegisterService(server, toAll(nodes(t, echo, echo)...), "test.Named",
		proxy.WithMethodNames("Unary", "Streamed"), proxy.WithStreamedMethodNames("Streamed"))

	conn := dialRaw(t, serve(t, server))

	if got, err := call(t, conn, "/test.Named/Unary", "x"); err != nil || !slices.Equal(got, []string{"a=x;b=x;"}) {
		t.Errorf("unary: %q, %v", got, err)
	}

	if got, err := call(t, conn, "/test.Named/Streamed", "x"); err != nil || len(got) != 2 {
		t.Errorf("streamed: %q, %v", got, err)
	}

	for _, method := range []string{"/test.Named/Other", "/test.Other/Unary"} {
		_, err := call(t, conn, method, "x")
		wantStatus(t, err, codes.Unimplemented, "unknown")
	}

	if _, found := server.GetServiceInfo()["test.Named"]; !found {
		t.Error("the service is not listed")
	}
}

// An interceptor may look at the frames that pass, and put others in their place.
func TestInterceptFrames(t *testing.T) {
	var sizes []int

	shout := grpc.StreamInterceptor(func(srv any, s grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
		return handler(srv, &shouting{s, &sizes})
	})

	got, err := call(t, behind(t, echo, shout), unaryMethod, "hello", "you")
	if err != nil || !slices.Equal(got, []string{"HELLO", "YOU"}) || !slices.Equal(sizes, []int{5, 3}) {
		t.Errorf("got %q, %v, saw %v", got, err, sizes)
	}
}

type shouting struct {
	grpc.ServerStream
	sizes *[]int
}

func (s *shouting) RecvMsg(m any) error {
	err := s.ServerStream.RecvMsg(m)
	if f, ok := m.(*proxy.Frame); ok && err == nil {
		*s.sizes = append(*s.sizes, f.Len())
	}

	return err
}

func (s *shouting) SendMsg(m any) error {
	f, ok := m.(*proxy.Frame)
	if !ok {
		return status.Errorf(codes.Internal, "message of type %T", m)
	}

	return s.ServerStream.SendMsg(proxy.NewFrame(bytes.ToUpper(f.Bytes())))
}

// For those who know of no codecs a frame is a protobuf message that reads and writes itself.
func TestFrameIsProtoMessage(t *testing.T) {
	text := "\xff not protobuf " + strings.Repeat("x", 2000)

	wire, err := proto.Marshal(proxy.NewFrame([]byte(text)).(proto.Message))
	if err != nil || string(wire) != text {
		t.Fatalf("marshaled: %.20q, %v", wire, err)
	}

	f := proxy.NewFrame([]byte("old")).(*proxy.Frame)
	if err := proto.Unmarshal(wire, f); err != nil {
		t.Fatal(err)
	}

	wire[0] = 0 // must not matter

	if string(f.Bytes()) != text || proto.Size(f) != len(text) {
		t.Errorf("unmarshaled: %.20q of %d bytes", f.Bytes(), proto.Size(f))
	}

	clone := proto.Clone(f).(*proxy.Frame)
	if string(clone.Bytes()) != text || !proto.Equal(clone, f) {
		t.Errorf("cloned: %.20q", clone.Bytes())
	}

	proto.Merge(clone, proxy.NewFrame([]byte("more")).(proto.Message))

	if string(clone.Bytes()) != text+"more" || proto.Equal(clone, f) {
		t.Errorf("merged: %.20q", clone.Bytes())
	}

	if proto.Reset(clone); clone.Len() != 0 {
		t.Errorf("reset: %.20q", clone.Bytes())
	}
}

// A server that has the protobuf codec only can proxy, too.
func TestServerWithoutCodec(t *testing.T) {
	server := grpc.NewServer(grpc.ForceServerCodecV2(protoCodec),
		grpc.UnknownServiceHandler(proxy.TransparentHandler(to(dial(t, startBackend(t, echo))))))

	got, err := call(t, dialRaw(t, serve(t, server)), unaryMethod, "\xff", "", strings.Repeat("x", 5000))
	if err != nil || !slices.Equal(got, []string{"\xff", "", strings.Repeat("x", 5000)}) {
		t.Errorf("got %.20q, %v", got, err)
	}
}
