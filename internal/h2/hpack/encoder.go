// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package hpack

// maxEncoderTable is the most that an encoder makes of the table that its peer
// offers. A proxy holds one table per connection, and 4 KiB hold all that
// repeats in the headers of a few dozen methods.
const maxEncoderTable = 4096

// Encoder turns fields into the header blocks of one connection. It has no lock;
// the owner of the connection's write side guards it, and appends each block to
// what is written in the order of the calls.
//
// It indexes a field when it sees it for the second time, so that values that
// never come back (timeouts, trace contexts, tokens) push nothing out of the
// table that all streams of the connection share.
type Encoder struct {
	table encTable
	seen  filter

	// The peer allows a table of up to allowed octets, and of lowest octets at
	// some moment since the last block. table.max is what it was told.
	allowed, lowest uint32
}

// NewEncoder returns an encoder with a dynamic table of 4096 octets, the size
// that holds until the peer's SETTINGS say otherwise.
func NewEncoder() *Encoder {
	e := &Encoder{allowed: protocolTableSize, lowest: protocolTableSize}
	e.table.max = protocolTableSize
	return e
}

// SetMaxTableSize obeys the peer's SETTINGS_HEADER_TABLE_SIZE, of which it uses
// at most 4096 octets. It is called between blocks, at the latest before the
// first block that follows our acknowledgement.
func (e *Encoder) SetMaxTableSize(n uint32) {
	e.allowed = min(n, maxEncoderTable)
	e.lowest = min(e.lowest, e.allowed)
}

// Append appends one header block with the fields in their order.
func (e *Encoder) Append(dst []byte, fields []Field) []byte {
	dst = e.Begin(dst)
	for i := range fields {
		dst = e.AppendField(dst, fields[i])
	}
	return dst
}

// Begin starts a header block that AppendField continues. Nothing may come
// between the pieces of a block.
//
// If the allowed size went down and up again since the last block, this block
// announces the lowest size and the next one the final size. RFC 7541 section
// 4.2 lets one block do both, but decoders of that family to which grpc-go's
// belongs (golang.org/x/net/http2/hpack) reject a second update while their
// table holds something. An encoder may use less than it is allowed, so going
// without the rest for one block is within the rule.
func (e *Encoder) Begin(dst []byte) []byte {
	size := e.lowest
	e.lowest = e.allowed
	if size == e.table.max {
		size = e.allowed
	}
	if size == e.table.max {
		return dst
	}
	e.table.setMax(size)
	return appendInt(dst, 0x20, 5, size)
}

// AppendField appends one field to the block begun before.
func (e *Encoder) AppendField(dst []byte, f Field) []byte {
	k := hash(f.Name, f.Value)
	if f.Sensitive || secret(f.Name, f.Value) {
		return appendLiteral(dst, 0x10, 4, e.nameIndex(k, f.Name), f)
	}
	if i := staticPair(k, f.Name, f.Value); i != 0 {
		return appendInt(dst, 0x80, 7, i)
	}
	if i := e.table.pair(k, f.Name, f.Value); i != 0 {
		return appendInt(dst, 0x80, 7, i)
	}
	name := e.nameIndex(k, f.Name)
	if f.Size() > e.table.max/2 || !e.seen.again(k.pair) {
		return appendLiteral(dst, 0, 4, name, f)
	}
	e.table.insert(k, f)
	return appendLiteral(dst, 0x40, 6, name, f)
}

// nameIndex returns the index of an entry with the name, or 0.
func (e *Encoder) nameIndex(k key, name string) uint32 {
	if i := staticName(k, name); i != 0 {
		return i
	}
	return e.table.name(k, name)
}

// appendLiteral appends a literal field whose first octet is high and whose
// name index has an n-bit prefix; index 0 means a literal name.
func appendLiteral(dst []byte, high byte, n uint, index uint32, f Field) []byte {
	dst = appendInt(dst, high, n, index)
	if index == 0 {
		dst = appendString(dst, f.Name)
	}
	return appendString(dst, f.Value)
}

// appendString appends a string literal, in Huffman code if that is shorter.
func appendString(dst []byte, s string) []byte {
	if n := huffmanLen(s); n < len(s) {
		dst = appendInt(dst, 0x80, 7, uint32(n))
		return appendHuffman(dst, s)
	}
	dst = appendInt(dst, 0, 7, uint32(len(s)))
	return append(dst, s...)
}
