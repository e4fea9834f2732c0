// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package connect

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"

	"google.golang.org/protobuf/encoding/protowire"
)

// The suite's runner speaks with the programs under test in messages of the
// proto files below, each after its length in four bytes, big-endian. Their
// generated code is internal to the suite; of its messages only these fields
// matter here, and all others are passed on as they are.
//
// Source: connectrpc/conformance/v1/server_compat.proto and client_compat.proto.
const (
	serverRequestTLS      protowire.Number = 4
	serverRequestClientCA protowire.Number = 5
	serverRequestCreds    protowire.Number = 7

	serverResponseHost protowire.Number = 1
	serverResponsePort protowire.Number = 2
	serverResponseCert protowire.Number = 3

	clientRequestHost  protowire.Number = 6
	clientRequestPort  protowire.Number = 7
	clientRequestCert  protowire.Number = 8
	clientRequestCreds protowire.Number = 9

	credsCert protowire.Number = 1
	credsKey  protowire.Number = 2
)

// maxMessage bounds what is read at once. The largest messages carry requests of
// a few hundred KiB.
const maxMessage = 64 << 20

// readMessage reads one message. The error is io.EOF when the stream ends before
// it begins.
func readMessage(r io.Reader) (message, error) {
	var length [4]byte
	if _, err := io.ReadFull(r, length[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(length[:])
	if n > maxMessage {
		return nil, fmt.Errorf("message of %d bytes, at most %d", n, maxMessage)
	}
	m := make(message, n)
	if _, err := io.ReadFull(r, m); err != nil {
		return nil, errors.Join(io.ErrUnexpectedEOF, err)
	}
	return m, nil
}

func writeMessage(w io.Writer, m message) error {
	_, err := w.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(m))), m...))
	return err
}

// A message is an encoded protobuf message. A malformed one reads as if it ended
// before the field that is malformed.
type message []byte

// fields calls yield with each field's number, its value where it is a varint,
// its content where it is bytes, and its whole encoding.
func (m message) fields(yield func(num protowire.Number, varint uint64, content, whole []byte)) {
	for rest := []byte(m); len(rest) > 0; {
		num, kind, tag := protowire.ConsumeTag(rest)
		if tag < 0 {
			return
		}
		size := protowire.ConsumeFieldValue(num, kind, rest[tag:])
		if size < 0 {
			return
		}
		var varint uint64
		var content []byte
		switch kind {
		case protowire.VarintType:
			varint, _ = protowire.ConsumeVarint(rest[tag:])
		case protowire.BytesType:
			content, _ = protowire.ConsumeBytes(rest[tag:])
		}
		yield(num, varint, content, rest[:tag+size])
		rest = rest[tag+size:]
	}
}

// varint returns a field's value, 0 if it is not there.
func (m message) varint(num protowire.Number) (value uint64) {
	m.fields(func(n protowire.Number, varint uint64, _, _ []byte) {
		if n == num {
			value = varint
		}
	})
	return value
}

// bytes returns a field's content, nil if it is not there.
func (m message) bytes(num protowire.Number) (value []byte) {
	m.fields(func(n protowire.Number, _ uint64, content, _ []byte) {
		if n == num {
			value = content
		}
	})
	return value
}

// without returns a copy of the message that lacks the fields.
func (m message) without(nums ...protowire.Number) message {
	kept := make(message, 0, len(m))
	m.fields(func(n protowire.Number, _ uint64, _, whole []byte) {
		if !slices.Contains(nums, n) {
			kept = append(kept, whole...)
		}
	})
	return kept
}

// withVarint returns the message with the field set.
func (m message) withVarint(num protowire.Number, value uint64) message {
	return protowire.AppendVarint(protowire.AppendTag(m.without(num), num, protowire.VarintType), value)
}

// withBytes returns the message with the field set.
func (m message) withBytes(num protowire.Number, value []byte) message {
	return protowire.AppendBytes(protowire.AppendTag(m.without(num), num, protowire.BytesType), value)
}
