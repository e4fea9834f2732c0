// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package hpack

import (
	"encoding/binary"
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
	decoderSlots    = 16
	maxEncoderSlots = 64
	minEncoderSlots = 4
	// evictAfter is how many blocks that came again have to be unknown before one of them takes another's place: where
	// more blocks take turns than are remembered, most of those that are stay, and replacing them costs next to nothing.
	evictAfter = 64
)

// knownBlocks is the blocks that a decoder knows. What a block means depends on the table, so they are
// forgotten as soon as that changes.
type knownBlocks struct {
	version uint64 // of the table
	once    [decoderSlots]uint32
	turn    uint32    // of the place in once for the next
	set     *blockSet // nil: none
}

// again reports whether a block with the hash h came before, and remembers it if not. Whatever its hash says, it can be in any place:
// two blocks that come in turn, as those of a response do, would else displace each other for ever, where they have one.
func (k *knownBlocks) again(h uint32) bool {
	if slices.Contains(k.once[:], h) {
		return true
	}
	k.turn++
	k.once[(h+k.turn)%decoderSlots] = h // at random: of many that come once, some that come again stay
	return false
}

// blockSet is some blocks. It is searched from the start: most connections have few of them.
type blockSet struct {
	tags   [decoderSlots]uint32
	used   [decoderSlots]bool // since hand came by
	hand   int
	missed int          // blocks that came again and were not in the set, while it was full
	blocks []knownBlock // at most decoderSlots
}

type knownBlock struct {
	list *List
	n    uint8
	p    [maxKnown]byte
}

// tagOf returns a number that tells most blocks apart. It needs no more: what has the same tag is compared.
func tagOf(block []byte) uint32 {
	n := len(block)
	var first, last uint64
	if n >= 8 {
		first, last = binary.LittleEndian.Uint64(block), binary.LittleEndian.Uint64(block[n-8:])
	} else {
		for _, c := range block {
			first = first<<8 | uint64(c)
		}
	}
	return uint32(((first+uint64(n))*0x9e3779b97f4a7c15 ^ last) * 0xff51afd7ed558ccd >> 32)
}

// find returns the list of a block, or nil.
func (s *blockSet) find(tag uint32, block []byte) *List {
	for i, t := range s.tags[:len(s.blocks)] {
		if t != tag {
			continue
		}
		if b := &s.blocks[i]; string(b.p[:b.n]) == string(block) {
			s.used[i] = true
			return b.list
		}
	}
	return nil
}

// place returns the place for another block, or -1.
func (s *blockSet) place() int {
	if n := len(s.blocks); n < decoderSlots {
		s.blocks = append(s.blocks, knownBlock{})
		return n
	}
	if s.missed++; s.missed < evictAfter {
		return -1
	}
	s.missed = 0
	for s.used[s.hand] {
		s.used[s.hand] = false
		s.hand = (s.hand + 1) % decoderSlots
	}
	i := s.hand
	s.hand = (i + 1) % decoderSlots
	return i
}

// Known returns the list of a block that came before, where the table has not changed since; else nil.
func (d *Decoder) Known(block []byte) *List {
	k := &d.known
	if k.set == nil || k.version != d.table.version || len(block) > maxKnown || len(block) == 0 || d.shrink || d.err != nil {
		return nil
	}
	return k.set.find(tagOf(block), block)
}

// DecodeList is Decode, and where a block is [Decoder.Known], or becomes so by coming for the second time, it returns the list of
// both too. fields is then the list's.
func (d *Decoder) DecodeList(dst []Field, block []byte) (fields []Field, list *List, err error) {
	if l := d.Known(block); l != nil {
		return l.Fields, l, nil
	}
	if len(block) > maxKnown || len(block) == 0 || d.shrink || d.err != nil {
		fields, err = d.Decode(dst, block)
		return fields, nil, err
	}
	k := &d.known
	if k.version != d.table.version {
		*k = knownBlocks{version: d.table.version}
	}
	fields, err = d.Decode(dst, block)
	if err != nil || k.version != d.table.version || block[0]&0xe0 == 0x20 {
		return fields, nil, err
	}
	if !k.again(uint32(maphash.Bytes(seed, block) >> 32)) {
		return fields, nil, nil // it is remembered when it comes again
	}
	if k.set == nil {
		k.set = new(blockSet)
	}
	i := k.set.place()
	if i < 0 {
		return fields, nil, nil
	}
	list = NewList(slices.Clone(fields[len(dst):]))
	clear(fields[len(dst):]) // the caller need not
	k.set.tags[i] = tagOf(block)
	b := &k.set.blocks[i]
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

// Remembered returns the header block with the list's fields that AppendList would append, or nil if it has to be made. It is valid until
// the next call of another method.
func (e *Encoder) Remembered(l *List) []byte {
	k := &e.known
	if len(k.slots) == 0 || e.lowest != e.table.max || e.allowed != e.table.max {
		return nil // or it begins with a size update
	}
	s := &k.slots[l.id&uint64(len(k.slots)-1)]
	if s.id != l.id || s.version != e.table.version {
		return nil
	}
	return s.p[:s.n]
}

// AppendList appends one header block with the list's fields, as Append does.
func (e *Encoder) AppendList(dst []byte, l *List) []byte {
	if p := e.Remembered(l); p != nil {
		return append(dst, p...)
	}
	if e.lowest != e.table.max || e.allowed != e.table.max {
		return e.Append(dst, l.Fields) // begins with a size update
	}
	k, before, version := &e.known, len(dst), e.table.version
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
