// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package fanout

import (
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"
)

// FieldKey returns a function that makes a key for [Merge] out of fields of a protobuf message, without its type. Each
// path names one field by numbers, from the outside in: "2.1" is field 1 of the message in field 2. The key
// sorts by the first path, and where that is equal by the next.
//
// Numbers sort as such if they are int32, int64, uint32, uint64 below 2^63, enums, fixed32 or fixed64, or floats that are not negative; strings
// and bytes sort by their first 256 octets. A field that is not there, or not readable, comes first (so does a number that is 0 and left out, also before
// negative ones), and of one that is there more than once the last counts. The function is safe for concurrent use. The error says which path cannot be read.
func FieldKey(paths ...string) (func(message []byte) string, error) {
	if len(paths) == 0 {
		return nil, fmt.Errorf("fanout: a key of no field, expected paths of field numbers such as 2.1")
	}
	parsed := make([][]protowire.Number, len(paths))
	for i, p := range paths {
		for part := range strings.SplitSeq(p, ".") {
			n, err := strconv.ParseUint(part, 10, 32)
			if err != nil || !protowire.Number(n).IsValid() || part[0] == '+' {
				return nil, fmt.Errorf("fanout: key %q: %q is no field number, expected a path such as 2.1", p, part)
			}
			parsed[i] = append(parsed[i], protowire.Number(n))
		}
	}
	return func(message []byte) string {
		key := make([]byte, 0, 16)
		for _, path := range parsed {
			key = appendField(key, message, path)
		}
		return string(key)
	}, nil
}

// The first octet of each field's part of a key.
const (
	keyAbsent = iota
	keyNumber
	keyBytes
)

// maxKeyBytes is how much of a field counts.
const maxKeyBytes = 256

// appendField appends the field at the path: such that parts compare as the values do, and none is the beginning of another.
func appendField(key, message []byte, path []protowire.Number) []byte {
	kind, number, octets := lastField(message, path[0])
	for _, n := range path[1:] {
		if kind != keyBytes {
			return append(key, keyAbsent)
		}
		kind, number, octets = lastField(octets, n)
	}
	switch kind {
	case keyNumber:
		return binary.BigEndian.AppendUint64(append(key, keyNumber), number)
	case keyBytes:
		key = append(key, keyBytes)
		for _, c := range octets[:min(len(octets), maxKeyBytes)] {
			if key = append(key, c); c == 0 {
				key = append(key, 0xff)
			}
		}
		return append(key, 0, 0)
	}
	return append(key, keyAbsent)
}

// lastField finds the last field of the number, as far as the message can be read.
func lastField(message []byte, want protowire.Number) (kind byte, number uint64, octets []byte) {
	for len(message) > 0 {
		n, typ, length := protowire.ConsumeField(message)
		if length < 0 {
			return kind, number, octets
		}
		if n == want {
			_, _, tag := protowire.ConsumeTag(message)
			kind, number, octets = value(message[tag:length], typ)
		}
		message = message[length:]
	}
	return kind, number, octets
}

// value reads a field's value; p is all of it.
func value(p []byte, typ protowire.Type) (kind byte, number uint64, octets []byte) {
	switch typ {
	case protowire.VarintType:
		v, _ := protowire.ConsumeVarint(p)
		return keyNumber, v ^ 1<<63, nil // negative ones first
	case protowire.Fixed64Type:
		v, _ := protowire.ConsumeFixed64(p)
		return keyNumber, v, nil
	case protowire.Fixed32Type:
		v, _ := protowire.ConsumeFixed32(p)
		return keyNumber, uint64(v), nil
	case protowire.BytesType:
		v, _ := protowire.ConsumeBytes(p)
		return keyBytes, 0, v
	}
	return keyAbsent, 0, nil // groups
}
