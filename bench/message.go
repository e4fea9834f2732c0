// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"bytes"
	"fmt"

	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
)

// message is the one type of message that clients and backends exchange. It
// holds the buffers that grpc-go read it into.
type message struct{ data mem.BufferSlice }

// newMessage returns a message that can be sent any number of times at once.
func newMessage(payload []byte) *message {
	return &message{mem.BufferSlice{mem.SliceBuffer(payload)}}
}

// free gives a received message's buffers back.
func (m *message) free() {
	m.data.Free()
	m.data = nil
}

// check reports whether m is the payload, copies times over.
func (m *message) check(payload []byte, copies int) error {
	if got, want := m.data.Len(), len(payload)*copies; got != want {
		return fmt.Errorf("an answer of %d bytes, expected %d", got, want)
	}
	rest := payload
	for _, buffer := range m.data {
		for b := buffer.ReadOnlyData(); len(b) > 0; {
			if len(rest) == 0 {
				rest = payload
			}
			n := min(len(b), len(rest))
			if !bytes.Equal(b[:n], rest[:n]) {
				return fmt.Errorf("the answer differs from what was sent")
			}
			b, rest = b[n:], rest[n:]
		}
	}
	return nil
}

// codec passes a *message on by reference count.
type codec struct{}

var _ encoding.CodecV2 = codec{}

func (codec) Marshal(v any) (mem.BufferSlice, error) {
	m, ok := v.(*message)
	if !ok {
		return nil, fmt.Errorf("bench: cannot send a %T", v)
	}
	m.data.Ref()
	return m.data, nil
}

func (codec) Unmarshal(data mem.BufferSlice, v any) error {
	m, ok := v.(*message)
	if !ok {
		return fmt.Errorf("bench: cannot receive a %T", v)
	}
	data.Ref()
	m.free()
	m.data = data
	return nil
}

// Name is that of protobuf, the only name for which no proxy does extra work.
func (codec) Name() string { return "proto" }
