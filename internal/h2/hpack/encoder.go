// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package hpack

// maxEncoderTable is the most that an encoder makes of the table that its peer
// offers. A proxy holds one table per connection, and 4 KiB hold all that
// repeats in the headers of a few dozen methods.
const maxEncoderTable = 4096

// maxShare bounds the part of the table that one entry may take: a field that
// large would push out all that the other streams repeat.
const maxShare = 4

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
	known knownLists

	fickle bool // the next block with the same fields may be another one

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
		dst = e.appendField(dst, &fields[i])
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
func (e *Encoder) AppendField(dst []byte, f Field) []byte { return e.appendField(dst, &f) }

func (e *Encoder) appendField(dst []byte, f *Field) []byte {
	if f.Sensitive {
		return e.appendLiteral(dst, neverIndexed, f)
	}
	if f.hash != 0 {
		if index := e.index(f.hash, f); index != 0 {
			return appendInt(dst, 0x80, 7, index)
		}
	}
	// The hash may be one that the field had before its owner changed it.
	hash := pairHash(f.Name, f.Value)
	if hash != f.hash {
		if index := e.index(hash, f); index != 0 {
			return appendInt(dst, 0x80, 7, index)
		}
	}
	switch {
	case secret(f.Name, f.Value):
		return e.appendLiteral(dst, neverIndexed, f)
	case f.Size() > e.table.max/maxShare:
		return e.appendLiteral(dst, notIndexed, f)
	case !e.seen.again(hash):
		e.fickle = true
		return e.appendLiteral(dst, notIndexed, f)
	}
	return e.appendIndexed(dst, hash, f)
}

// index returns the index of an entry equal to the field with its hash, or 0.
func (e *Encoder) index(hash uint32, f *Field) uint32 {
	if i := e.table.pair(hash, f); i != 0 {
		return i
	}
	return staticPair(hash, f)
}

// The first bits of literals that enter no table (RFC 7541 sections 6.2.2 and
// 6.2.3).
const (
	notIndexed   = 0x00
	neverIndexed = 0x10
)

// appendLiteral appends a field that enters no table. The octets go as they
// are: such fields come with every call, and Huffman code would save a fifth of
// their octets for many times the work, here and at the peer.
func (e *Encoder) appendLiteral(dst []byte, kind byte, f *Field) []byte {
	name := e.nameIndex(nameHash(f.Name), f.Name)
	dst = appendInt(dst, kind, 4, name)
	if name == 0 {
		dst = appendString(dst, f.Name)
	}
	return appendString(dst, f.Value)
}

// appendIndexed appends a field that enters the table. That happens once for
// many blocks, so the shorter form is worth its while.
func (e *Encoder) appendIndexed(dst []byte, hash uint32, f *Field) []byte {
	h := nameHash(f.Name)
	name := e.nameIndex(h, f.Name)
	e.table.insert(hash, h, f)
	dst = appendInt(dst, 0x40, 6, name)
	if name == 0 {
		dst = appendShortest(dst, f.Name)
	}
	return appendShortest(dst, f.Value)
}

// nameIndex returns the index of an entry with the name, or 0.
func (e *Encoder) nameIndex(hash uint32, name string) uint32 {
	if i := staticName(hash, name); i != 0 {
		return i
	}
	return e.table.name(hash, name)
}

// appendString appends a string literal (RFC 7541 section 5.2).
func appendString(dst []byte, s string) []byte {
	dst = appendInt(dst, 0, 7, uint32(len(s)))
	return append(dst, s...)
}

// appendShortest appends a string literal, in Huffman code if that is shorter.
func appendShortest(dst []byte, s string) []byte {
	n := huffmanLen(s)
	if n >= len(s) {
		return appendString(dst, s)
	}
	return appendHuffman(appendInt(dst, 0x80, 7, uint32(n)), s, n)
}
