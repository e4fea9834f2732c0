// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"fmt"

	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
)

// Codec returns a codec that passes messages of the proxy on as they are, and leaves all others to
// the protobuf codec. Servers that proxy should have it, by grpc.ForceServerCodecV2(proxy.Codec()): any other copies each
// message. Connections to backends need not, as the proxy brings it along with each call; having it there does no harm.
//
// Its name is that of the protobuf codec, so that it never shows in a content-type.
func Codec() encoding.CodecV2 {
	return CodecWithParent(encoding.GetCodecV2(proto.Name))
}

// CodecWithParent is [Codec] with another codec for the messages that are not the proxy's own. The services that are
// registered on the same server then speak that codec. It panics when parent is nil.
func CodecWithParent(parent encoding.CodecV2) encoding.CodecV2 {
	if parent == nil {
		panic("proxy: CodecWithParent needs a codec, got nil")
	}

	return &codec{parent: parent, name: parent.Name()}
}

// RegisterCodec puts the codec registered under name behind [CodecWithParent], in grpc-go's table of codecs. It is the other way
// to prepare a server, in place of grpc.ForceServerCodecV2: the content-subtype of a call goes on choosing the
// codec of local services, and calls of all content-subtypes can be proxied.
//
// Call it for "proto", which also serves the subtypes that no codec is registered for, and for each other subtype in use. As
// [encoding.RegisterCodecV2] it must be called during initialization only. It panics when there is no such codec.
func RegisterCodec(name string) {
	parent := encoding.GetCodecV2(name)
	if v1 := encoding.GetCodec(name); parent == nil && v1 != nil {
		parent = codecV1{v1}
	}

	if parent == nil {
		panic(fmt.Sprintf("proxy: RegisterCodec needs the name of a registered codec, got %q", name))
	}

	if _, done := parent.(*codec); !done {
		encoding.RegisterCodecV2(CodecWithParent(parent))
	}
}

// codecV1 makes a codec of the older interface one of the newer.
type codecV1 struct {
	encoding.Codec
}

func (c codecV1) Marshal(v any) (mem.BufferSlice, error) {
	b, err := c.Codec.Marshal(v)

	return mem.BufferSlice{mem.SliceBuffer(b)}, err
}

func (c codecV1) Unmarshal(data mem.BufferSlice, v any) error {
	return c.Codec.Unmarshal(data.Materialize(), v)
}

// codec passes a *Frame by reference count and leaves every other message to its parent.
type codec struct {
	parent encoding.CodecV2
	name   string
}

var (
	_ encoding.CodecV2 = (*codec)(nil)
	_ encoding.CodecV2 = codecV1{}
)

// Marshal returns the frame's buffers with a reference of their own, which grpc-go frees once they are written.
func (c *codec) Marshal(v any) (mem.BufferSlice, error) {
	f, ok := v.(*Frame)
	if !ok {
		return c.parent.Marshal(v)
	}

	f.data.Ref()

	return f.data, nil
}

// Unmarshal makes the frame hold data with a reference of its own, because grpc-go frees data afterwards, and
// gives back what the frame held before.
func (c *codec) Unmarshal(data mem.BufferSlice, v any) error {
	f, ok := v.(*Frame)
	if !ok {
		return c.parent.Unmarshal(data, v)
	}

	data.Ref()
	f.free()
	f.data = data

	return nil
}

// Name is the parent's name on a server, and the caller's content-subtype on a call to a backend.
func (c *codec) Name() string {
	return c.name
}
