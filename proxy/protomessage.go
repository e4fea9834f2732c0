// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/runtime/protoiface"
	"google.golang.org/protobuf/types/known/emptypb"
)

var _ proto.Message = (*Frame)(nil)

// ProtoReflect makes a frame a protobuf message whose serialized form is the frame's bytes. Channels and servers
// that know of no codecs but call package proto themselves, as tunnels of gRPC in gRPC do, can carry
// frames for this reason, and so can servers without [Codec]. They copy each message.
//
// To reflection it is an empty message.
func (f *Frame) ProtoReflect() protoreflect.Message {
	return frameMessage{(*emptypb.Empty)(nil).ProtoReflect(), f}
}

// Reset makes the frame empty. Package proto calls it before it reads into a message.
func (f *Frame) Reset() {
	f.free()
}

// frameMessage is an empty message but for what package proto does with it.
type frameMessage struct {
	protoreflect.Message
	frame *Frame
}

func (m frameMessage) IsValid() bool                        { return m.frame != nil }
func (m frameMessage) Interface() protoreflect.ProtoMessage { return m.frame }
func (m frameMessage) New() protoreflect.Message            { return (&Frame{}).ProtoReflect() }
func (m frameMessage) ProtoMethods() *protoiface.Methods    { return &frameMethods }

// frameMethods are what package proto calls in place of reflection.
var frameMethods = protoiface.Methods{
	Flags: protoiface.SupportMarshalDeterministic | protoiface.SupportUnmarshalDiscardUnknown,
	Size: func(in protoiface.SizeInput) protoiface.SizeOutput {
		return protoiface.SizeOutput{Size: in.Message.(frameMessage).frame.Len()}
	},
	Marshal: func(in protoiface.MarshalInput) (protoiface.MarshalOutput, error) {
		buf := in.Buf
		for _, b := range in.Message.(frameMessage).frame.data {
			buf = append(buf, b.ReadOnlyData()...)
		}

		return protoiface.MarshalOutput{Buf: buf}, nil
	},
	Unmarshal: func(in protoiface.UnmarshalInput) (protoiface.UnmarshalOutput, error) {
		in.Message.(frameMessage).frame.append(in.Buf)

		return protoiface.UnmarshalOutput{Flags: protoiface.UnmarshalInitialized}, nil
	},
	Merge: func(in protoiface.MergeInput) protoiface.MergeOutput {
		in.Destination.(frameMessage).frame.append(in.Source.(frameMessage).frame.data.Materialize())

		return protoiface.MergeOutput{Flags: protoiface.MergeComplete}
	},
	CheckInitialized: func(protoiface.CheckInitializedInput) (protoiface.CheckInitializedOutput, error) {
		return protoiface.CheckInitializedOutput{}, nil
	},
	Equal: func(in protoiface.EqualInput) protoiface.EqualOutput {
		a, b := in.MessageA.(frameMessage).frame, in.MessageB.(frameMessage).frame

		return protoiface.EqualOutput{Equal: string(a.Bytes()) == string(b.Bytes())}
	},
}

// append adds a copy of b: to put one message behind another is what merging means in protobuf.
func (f *Frame) append(b []byte) {
	if len(b) > 0 {
		f.data = append(f.data[:len(f.data):len(f.data)], mem.Copy(b, mem.DefaultBufferPool()))
	}
}
