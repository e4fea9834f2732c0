// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

// Package hpack compresses and decompresses header blocks as RFC 7541 says, for
// a proxy that sees few distinct header lists very often and peers that may be
// hostile.
//
// A Decoder belongs to the reader of one connection and an Encoder to its
// writer. Every header block of a connection passes through them, whole and in
// order, also the blocks of streams that are already dead: both tables are
// shared with the peer and drift apart at the first block left out.
//
// The package knows nothing of what a field may contain. That names are in
// lower case, that pseudo-header fields come first and the like is for the
// connection to check (RFC 9113 section 8.2).
package hpack

import (
	"errors"
	"fmt"
)

// Field is one header field. Name and Value are octets, not necessarily UTF-8.
// Fields are compared with Equal: == would also compare what the package keeps
// in them for itself.
type Field struct {
	Name, Value string

	// Sensitive marks a field that came, or shall go, as a never-indexed
	// literal: no hop may put it into a table (RFC 7541 section 6.2.3). The
	// Decoder sets it and the Encoder obeys, so a proxy that hands Fields on
	// keeps the promise without further care.
	Sensitive bool

	// hash is that of name and value if known, else 0. Fields that come out of
	// a decoder's table carry it, which spares encoders most of their work. It
	// is a hint: who changes a Field need not know of it.
	hash uint32
}

// Prepare returns a field that costs encoders less than others; it is for fields
// that a program makes once and sends often.
func Prepare(name, value string) Field {
	return Field{Name: name, Value: value, hash: pairHash(name, value)}
}

// Equal says whether both fields have the same name, value and sensitivity.
func (f Field) Equal(g Field) bool {
	return f.Name == g.Name && f.Value == g.Value && f.Sensitive == g.Sensitive
}

// fieldOverhead is what every entry counts beyond its octets (RFC 7541 section
// 4.1, and again RFC 9113 section 6.5.2 for header lists).
const fieldOverhead = 32

// Size is the field's size in a dynamic table, and its share of a header list.
func (f Field) Size() uint32 { return uint32(len(f.Name) + len(f.Value) + fieldOverhead) }

// String shows the field for logs and tests; a sensitive value stays hidden.
func (f Field) String() string {
	if f.Sensitive {
		return fmt.Sprintf("%s: (sensitive, %d octets)", f.Name, len(f.Value))
	}
	return f.Name + ": " + f.Value
}

// ErrListTooLarge matches, by errors.Is, the *ListError that Decode returns.
var ErrListTooLarge = errors.New("hpack: header list too large")

// ListError says that a header list went over a limit of SetLimits. The decoder
// stays usable, and so does the connection; the stream is to be refused.
type ListError struct {
	Limit string // "header_list_bytes" or "header_list_fields"
	Max   uint64 // its value
}

var _ error = (*ListError)(nil)

// Error names the limit and its value.
func (e *ListError) Error() string {
	return fmt.Sprintf("hpack: header list over the limit %s of %d", e.Limit, e.Max)
}

// Is makes errors.Is(err, ErrListTooLarge) true.
func (e *ListError) Is(target error) bool { return target == ErrListTooLarge }

// The reasons of DecodeError.
const (
	reasonTruncated      = "hpack_truncated"
	reasonInteger        = "hpack_integer_overflow"
	reasonIndex          = "hpack_index"
	reasonHuffmanEOS     = "hpack_huffman_eos"
	reasonHuffmanPadding = "hpack_huffman_padding"
	reasonUpdatePosition = "hpack_size_update_position"
	reasonUpdateCount    = "hpack_size_update_count"
	reasonUpdateSize     = "hpack_size_update_too_large"
	reasonUpdateMissing  = "hpack_size_update_missing"
)

// DecodeError says that a block is not valid HPACK. The tables are then out of
// step for good: a connection error of type COMPRESSION_ERROR (RFC 9113 section
// 4.3).
type DecodeError struct {
	// Reason is a short stable name such as "hpack_index", fit for a metric
	// label. The set of reasons is fixed; see docs/architecture/h2.md.
	Reason string

	// Offset is the octet of the block at or after which decoding stopped.
	Offset int
}

var _ error = (*DecodeError)(nil)

// Error names the reason and the offset.
func (e *DecodeError) Error() string {
	return fmt.Sprintf("hpack: %s at octet %d of the header block", e.Reason, e.Offset)
}
