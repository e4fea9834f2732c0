// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package hpack

import (
	"hash/maphash"
	"slices"
	"sync/atomic"
)

// A List is a header list that comes or goes often: decoders give the same List for
// identical blocks, and encoders remember its encoded form.
type List struct {
	// Fields must not change.
	Fields []Field

	// Note is what the reader of the connection made of a List of a decoder. Only the decoder's goroutine may use it.
	Note any

	id uint64
}

// lists counts all lists, so that each has an identifier of its own; 0 is none.
var lists atomic.Uint64

// NewList returns a list of fields, which it keeps.
func NewList(fields []Field) *List { return &List{Fields: fields, id: lists.Add(1)} }

const (
	// maxKnown is the length of the longest block that is remembered: fields that are all in a table take an octet or
	// two each.
	maxKnown = 48
	// decoderSlots and maxEncoderSlots are how many blocks are remembered at most.
	decoderSlots    = 8
	maxEncoderSlots = 64
	minEncoderSlots = 4
)

// knownBlocks is the blocks that a decoder knows. What a block means depends on the table, so they are
// forgotten as soon as that changes.
type knownBlocks struct {
	version uint64 // of the table
	once    [decoderSlots]uint32
	blocks  *[decoderSlots]knownBlock // nil: none
}

type knownBlock struct {
	list *List
	n    uint8
	p    [maxKnown]byte
}

// DecodeList is Decode, and where an identical block came before and the table has not changed since, it
// returns the list of both too. fields is then the list's.
func (d *Decoder) DecodeList(dst []Field, block []byte) (fields []Field, list *List, err error) {
	if len(block) > maxKnown || len(block) == 0 || d.shrink || d.err != nil {
		fields, err = d.Decode(dst, block)
		return fields, nil, err
	}
	k := &d.known
	if k.version != d.table.version {
		k.version, k.once = d.table.version, [decoderSlots]uint32{}
		if k.blocks != nil {
			k.blocks = nil
		}
	}
	h := uint32(maphash.Bytes(seed, block) >> 32)
	i := h % decoderSlots
	if k.blocks != nil {
		if b := &k.blocks[i]; string(b.p[:b.n]) == string(block) {
			return b.list.Fields, b.list, nil
		}
	}
	fields, err = d.Decode(dst, block)
	if err != nil || k.version != d.table.version || block[0]&0xe0 == 0x20 {
		return fields, nil, err
	}
	if k.once[i] != h {
		k.once[i] = h // it is remembered when it comes again
		return fields, nil, nil
	}
	list = NewList(slices.Clone(fields[len(dst):]))
	clear(fields[len(dst):]) // the caller need not
	if k.blocks == nil {
		k.blocks = new([decoderSlots]knownBlock)
	}
	b := &k.blocks[i]
	b.list, b.n = list, uint8(copy(b.p[:], block))
	return list.Fields, list, nil
}

// knownLists is the lists of which an encoder remembers the encoded form, while its table does not change.
type knownLists struct {
	slots     []knownList // a power of two of them, or none
	collision int
}

type knownList struct {
	id      uint64
	version uint64 // of the table
	n       uint8
	p       [maxKnown]byte
}

// AppendList appends one header block with the list's fields, as Append does.
func (e *Encoder) AppendList(dst []byte, l *List) []byte {
	if e.lowest != e.table.max || e.allowed != e.table.max {
		return e.Append(dst, l.Fields) // begins with a size update
	}
	k := &e.known
	if len(k.slots) > 0 {
		s := &k.slots[l.id&uint64(len(k.slots)-1)]
		if s.id == l.id && s.version == e.table.version {
			return append(dst, s.p[:s.n]...)
		}
	}
	before, version := len(dst), e.table.version
	e.fickle = false
	dst = e.Append(dst, l.Fields)
	if p := dst[before:]; !e.fickle && version == e.table.version && len(p) <= maxKnown {
		s := k.slot(l.id, version)
		s.id, s.version, s.n = l.id, version, uint8(copy(s.p[:], p))
	}
	return dst
}

// slot returns the place for a list. There are more of them as more lists come that are in each other's way.
func (k *knownLists) slot(id, version uint64) *knownList {
	if len(k.slots) == 0 {
		k.slots = make([]knownList, minEncoderSlots)
	}
	s := &k.slots[id&uint64(len(k.slots)-1)]
	if s.id != 0 && s.version == version {
		if k.collision++; k.collision > 2*len(k.slots) && len(k.slots) < maxEncoderSlots {
			k.slots, k.collision = make([]knownList, 2*len(k.slots)), 0
			s = &k.slots[id&uint64(len(k.slots)-1)]
		}
	}
	return s
}
