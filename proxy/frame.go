// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"google.golang.org/grpc/mem"
)

// Frame is one message as the proxy handles it: bytes that nobody has parsed. The messages that an interceptor of the server or of
// a connection sees for a proxied call are of type *Frame.
//
// The bytes are not copied on their way: a frame holds references to the buffers that grpc-go read them into. They
// are valid until the SendMsg or RecvMsg that carries the frame returns; whoever needs them longer copies them.
// A frame is not safe for concurrent use.
type Frame struct {
	// data is owned: each buffer holds one reference for this frame.
	data mem.BufferSlice
}

// NewFrame returns a message that carries payload, for a stream or call that uses [Codec]. The payload is not
// copied: do not change it afterwards. As the destination of RecvMsg use NewFrame(nil).
func NewFrame(payload []byte) any {
	return &Frame{data: buffersOf(payload)}
}

// buffersOf wraps b, which needs no references.
func buffersOf(b []byte) mem.BufferSlice {
	if len(b) == 0 {
		return nil
	}

	return mem.BufferSlice{mem.SliceBuffer(b)}
}

// Len returns the number of bytes.
func (f *Frame) Len() int {
	return f.data.Len()
}

// Buffers returns the bytes as grpc-go's buffers, without a copy and without a reference of their own: do not free them.
func (f *Frame) Buffers() mem.BufferSlice {
	return f.data
}

// Bytes returns the bytes in one piece. A message that came in one buffer, as those up to the size of an HTTP/2 frame
// mostly do, is not copied. Do not change what it returns.
func (f *Frame) Bytes() []byte {
	if len(f.data) == 1 {
		b := f.data[0].ReadOnlyData()

		return b[:len(b):len(b)] // an append must not run into the bytes that follow in a shared buffer
	}

	return f.data.Materialize()
}

// String returns a constant. It says nothing about the content because grpc-go's tracing formats messages
// long after their buffers are gone.
func (f *Frame) String() string {
	return "proxy.Frame"
}

// free gives the frame's references back and leaves it empty.
func (f *Frame) free() {
	f.data.Free()
	f.data = nil
}
