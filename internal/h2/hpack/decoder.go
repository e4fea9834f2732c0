// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package hpack

import (
	"encoding/binary"
	"math"
	"sync"
)

// protocolTableSize is the size of both tables before SETTINGS and size updates
// change it (RFC 9113 section 6.5.2).
const protocolTableSize = 4096

// maxScratch is how much of a scratch buffer is kept between blocks.
const maxScratch = 4096

// Decoder turns the header blocks of one connection into fields. Only one
// goroutine may use it, the one that reads the connection.
//
// What it keeps is bounded: the dynamic table holds at most the allowed size,
// whose strings pin at most pinFactor times as much. Memory that it needs only
// while it decodes is shared by all decoders.
type Decoder struct {
	table   table
	allowed uint32       // our SETTINGS_HEADER_TABLE_SIZE
	shrink  bool         // the next block must begin with a size update
	limits  [2]uint32    // on octets and fields; 0 is none
	err     *DecodeError // once set, the connection is lost
	known   knownBlocks

	// Of the block being decoded.
	block     []byte
	i         int        // offset of the next octet
	dst       []Field    // the caller's fields and those decoded so far
	list      uint64     // size of the header list so far
	maxList   uint64     // list may be that much
	maxFields int        // len(dst) may be that much
	over      *ListError // set as soon as the list is over a limit

	staged  *staging // nil: the block has had no literal that is kept
	settled uint64   // entries of the table below this number have their strings
}

// staging is where the literals of a block wait until settle makes them strings,
// all of them with one allocation.
type staging struct {
	scratch []byte // their octets
	pending []literal
}

var stagings = sync.Pool{New: func() any { return new(staging) }}

// stagedLiterals returns where literals wait.
func (d *Decoder) stagedLiterals() *staging {
	if d.staged == nil {
		d.staged = stagings.Get().(*staging)
	}
	return d.staged
}

// unstage gives back where literals waited.
func (d *Decoder) unstage() {
	w := d.staged
	if w == nil {
		return
	}
	d.staged = nil
	if cap(w.scratch) > maxScratch {
		w.scratch = nil
	}
	stagings.Put(w)
}

// literal is a field whose octets are in scratch: its name, unless that came by
// index, from name to value, and its value from value to end.
type literal struct {
	name, value, end int
	field            int    // its place in dst, or -1
	entry            uint64 // its number in the table, if inserted
	inserted         bool
	named            bool // the name came by index
}

// maxPending bounds the literals that wait, and so what is kept for them between
// blocks.
const maxPending = 64

// pinFactor bounds how much larger than its entry a string may be that an entry
// of the dynamic table shares with the rest of its block.
const pinFactor = 4

// NewDecoder returns a decoder whose peer may use a dynamic table of up to
// maxTable octets. That is 4096 before the peer has acknowledged our SETTINGS;
// use SetMaxTableSize then if we announced something else.
func NewDecoder(maxTable uint32) *Decoder {
	return &Decoder{
		allowed: maxTable,
		table:   table{max: min(maxTable, protocolTableSize)},
	}
}

// SetMaxTableSize sets the allowed size of the dynamic table. It is called when
// the peer acknowledges a SETTINGS frame with a new SETTINGS_HEADER_TABLE_SIZE,
// between blocks. If the table must shrink, the next block has to begin with a
// size update (RFC 9113 section 4.3.1).
func (d *Decoder) SetMaxTableSize(n uint32) {
	d.allowed = n
	d.shrink = d.table.max > n
}

// SetLimits bounds the header list of a block: its size as RFC 9113 section
// 6.5.2 counts it (name, value and 32 for each field), and the number of
// fields. 0 means no limit. It is called between blocks.
func (d *Decoder) SetLimits(maxListBytes uint32, maxFields int) {
	d.limits = [2]uint32{maxListBytes, uint32(min(max(maxFields, 0), math.MaxInt32))}
	d.table.version++ // what is known was within the old ones
}

// Decode appends the fields of one complete header block to dst. The strings
// are immutable and may be kept, also when dst and block are used again.
//
// If the list goes over a limit, Decode reads the block to its end, so that the
// table stays in step with the peer's, and returns the fields that came before
// the one too many with a *ListError. Decoder and connection remain good.
//
// Any other error is a *DecodeError; dst comes back without new fields, the
// connection is to be closed with COMPRESSION_ERROR, and every later call fails
// with the same error.
func (d *Decoder) Decode(dst []Field, block []byte) ([]Field, error) {
	if d.err != nil {
		return dst, d.err
	}
	d.begin(dst, block)
	reason := d.updates()
	for reason == "" && d.i < len(d.block) {
		if d.run(); d.i < len(d.block) {
			reason = d.field()
		}
	}
	d.settle()
	d.unstage()
	fields, over := d.dst, d.over
	d.block, d.dst, d.over = nil, nil, nil // not ours
	if reason != "" {
		d.err = &DecodeError{Reason: reason, Offset: d.i}
		return fields[:len(dst)], d.err
	}
	if over != nil {
		return fields, over
	}
	return fields, nil
}

// begin sets the state for a block.
func (d *Decoder) begin(dst []Field, block []byte) {
	d.block, d.i, d.dst = block, 0, dst
	d.list, d.maxList, d.maxFields = 0, math.MaxUint64, math.MaxInt
	if n := d.limits[0]; n > 0 {
		d.maxList = uint64(n)
	}
	if n := d.limits[1]; n > 0 {
		d.maxFields = len(dst) + int(n)
	}
}

// updates reads the size updates at the start of the block. There are at most
// two, because an encoder need only say the lowest and the last of several
// changes (RFC 7541 section 4.2).
func (d *Decoder) updates() (reason string) {
	n := 0
	for ; d.i < len(d.block) && d.block[d.i]&0xe0 == 0x20; n++ {
		if n == 2 {
			return reasonUpdateCount
		}
		size, next, reason := readInt(d.block, d.i, 5)
		if reason != "" {
			return reason
		}
		d.i = next
		if size > d.allowed {
			return reasonUpdateSize
		}
		d.table.setMax(size)
		d.shrink = false
	}
	if d.shrink {
		return reasonUpdateMissing
	}
	return ""
}

// run reads fields that are a single octet, the index of an entry, as long as
// they come one after another. That is nearly all of a connection's fields, so
// this loop is all the work that most blocks are. It stops at everything else,
// for field to deal with.
func (d *Decoder) run() {
	if d.over != nil {
		d.skipRun()
		return
	}
	p, i, dst, list := d.block, d.i, d.dst, d.list
	for ; i < len(p) && p[i] > 0x80 && p[i] < 0xff; i++ {
		var f *Field
		if index := p[i] & 0x7f; index <= staticLen {
			f = &static[index]
		} else {
			k := d.table.next + staticLen - uint64(index)
			if !d.table.live(k) || k >= d.settled {
				break
			}
			f = &d.table.at(k).field
		}
		n := uint64(len(f.Name) + len(f.Value) + fieldOverhead)
		if list+n > d.maxList || len(dst) >= d.maxFields {
			break
		}
		list += n
		dst = append(dst, *f)
	}
	d.i, d.dst, d.list = i, dst, list
}

// skipRun is run of a list over its limit: an entry has to exist, and that is all that matters. A block
// that is nothing but such octets costs most of all per octet, so they are looked at by eights.
func (d *Decoder) skipRun() {
	p, i := d.block, d.i
	last := uint64(min(staticLen+d.table.count, 0x7e)) // index of the last entry that an octet can name
	const ones = 0x0101010101010101
	for ; i+8 <= len(p); i += 8 {
		x := binary.LittleEndian.Uint64(p[i:])
		index := x &^ (0x80 * ones)
		// Each octet has its high bit set, and its index is at least 1 and at most last.
		if x&(index+0x7f*ones)&^(index+(0x7f-last)*ones)&(0x80*ones) != 0x80*ones {
			break
		}
	}
	for ; i < len(p) && p[i] > 0x80 && uint64(p[i]&0x7f) <= last; i++ {
	}
	d.i = i
}

// field reads one field (RFC 7541 section 6).
func (d *Decoder) field() (reason string) {
	switch c := d.block[d.i]; {
	case c >= 0x80:
		return d.indexed()
	case c >= 0x40:
		return d.literal(6, true, false)
	case c >= 0x20:
		return reasonUpdatePosition
	default:
		return d.literal(4, false, c >= 0x10)
	}
}

// indexed reads a field that is wholly in a table (RFC 7541 section 6.1).
func (d *Decoder) indexed() (reason string) {
	var index uint32
	if index, d.i, reason = readInt(d.block, d.i, 7); reason != "" {
		return reason
	}
	f := d.lookup(index)
	if f == nil {
		return reasonIndex
	}
	if d.count(len(f.Name) + len(f.Value)) {
		d.dst = append(d.dst, *f)
	}
	return ""
}

// lookup returns the entry with the given index (RFC 7541 section 2.3.3), or nil
// if there is none.
func (d *Decoder) lookup(index uint32) *Field {
	if index <= staticLen {
		if index == 0 {
			return nil
		}
		return &static[index]
	}
	k := d.table.next + staticLen - uint64(index)
	if !d.table.live(k) {
		return nil
	}
	if k >= d.settled {
		d.settle()
	}
	return &d.table.at(k).field
}

// count adds a field of n octets to the header list and says whether it is to
// be kept. Once the list is over a limit, nothing is.
func (d *Decoder) count(n int) bool {
	if d.over != nil {
		return false
	}
	d.list += uint64(n) + fieldOverhead
	switch {
	case d.list > d.maxList:
		d.over = &ListError{"header_list_bytes", uint64(d.limits[0])}
	case len(d.dst) >= d.maxFields:
		d.over = &ListError{"header_list_fields", uint64(d.limits[1])}
	default:
		return true
	}
	return false
}
