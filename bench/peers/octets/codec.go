// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

// Package octets has grpc-go take messages as octets, whatever is in them.
package octets

import (
	"fmt"

	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
)

// Codec is for clients and servers whose messages are *[]byte. What is received goes into the memory that the message has, if that is enough.
type Codec struct{}

var _ encoding.CodecV2 = Codec{}

// Marshal passes the octets of a *[]byte on; they must stay as they are until the message was sent.
func (Codec) Marshal(v any) (mem.BufferSlice, error) {
	p, ok := v.(*[]byte)
	if !ok {
		return nil, fmt.Errorf("no message: %T", v)
	}
	return mem.BufferSlice{mem.SliceBuffer(*p)}, nil
}

// Unmarshal copies octets into a *[]byte.
func (Codec) Unmarshal(data mem.BufferSlice, v any) error {
	p, ok := v.(*[]byte)
	if !ok {
		return fmt.Errorf("no message: %T", v)
	}
	n := data.Len()
	if cap(*p) < n {
		*p = make([]byte, n)
	}
	*p = (*p)[:n]
	data.CopyTo(*p)
	return nil
}

// Name is that of protobuf, the only one for which no proxy does extra work.
func (Codec) Name() string { return "proto" }
