// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package hpack

import "strings"

// encoded is a string literal as it stands in the block.
type encoded struct {
	p       []byte
	huffman bool
}

// least is a lower bound of the length of the string, known without decoding.
func (s encoded) least() int {
	if s.huffman {
		return huffLeast(len(s.p))
	}
	return len(s.p)
}

// literal reads a field with a literal value (RFC 7541 section 6.2), whose name
// index has an n-bit prefix.
func (d *Decoder) literal(n uint, index, sensitive bool) (reason string) {
	var nameIndex uint32
	if nameIndex, d.i, reason = readInt(d.block, d.i, n); reason != "" {
		return reason
	}
	var name string
	var rawName, rawValue encoded
	if nameIndex == 0 {
		if rawName, reason = d.str(); reason != "" {
			return reason
		}
	} else {
		f := d.lookup(nameIndex)
		if f == nil {
			return reasonIndex
		}
		name = f.Name
	}
	if rawValue, reason = d.str(); reason != "" {
		return reason
	}
	least := len(name) + rawName.least() + rawValue.least()
	if d.skip(least, index) {
		return ""
	}
	l := literal{named: nameIndex != 0, field: -1}
	if l, reason = d.stage(l, rawName, rawValue); reason != "" {
		return reason
	}
	d.keep(l, name, index, sensitive)
	return ""
}

// skip says that a literal need not be decoded, because neither the header list
// nor the table will hold it; its length is at least the given one. This bounds
// what a block over the limit can cost. The price is that a Huffman code there
// is not checked; no table depends on it.
func (d *Decoder) skip(least int, index bool) bool {
	if d.over == nil && d.list+uint64(least)+fieldOverhead <= d.maxList {
		return false
	}
	if index && uint64(least)+fieldOverhead <= uint64(d.table.max) {
		return false
	}
	d.count(least)
	if index {
		d.table.clear() // as an entry of that size does
	}
	return true
}

// str reads the extent of a string literal (RFC 7541 section 5.2).
func (d *Decoder) str() (s encoded, reason string) {
	if d.i >= len(d.block) {
		return s, reasonTruncated
	}
	s.huffman = d.block[d.i] >= 0x80
	n, next, reason := readInt(d.block, d.i, 7)
	d.i = next
	if reason != "" {
		return s, reason
	}
	if int(n) > len(d.block)-d.i {
		return s, reasonTruncated
	}
	s.p = d.block[d.i : d.i+int(n)]
	d.i += int(n)
	return s, ""
}

// stage decodes name, unless it came by index, and value into scratch.
func (d *Decoder) stage(l literal, name, value encoded) (literal, string) {
	w := d.stagedLiterals()
	l.name = len(w.scratch)
	if reason := w.decode(name); reason != "" {
		return l, reason
	}
	l.value = len(w.scratch)
	reason := w.decode(value)
	l.end = len(w.scratch)
	return l, reason
}

// decode appends the octets of s to scratch.
func (w *staging) decode(s encoded) (reason string) {
	if s.huffman {
		w.scratch, reason = appendHuffmanDecoded(w.scratch, s.p)
		return reason
	}
	w.scratch = append(w.scratch, s.p...)
	return ""
}

// keep enters the staged literal into the table if it is to be indexed, and
// into the header list if that has room. name is the name that came by index.
func (d *Decoder) keep(l literal, name string, index, sensitive bool) {
	w := d.staged
	n := len(name) + l.end - l.name
	if index {
		if l.entry, l.inserted = d.table.insert(uint32(n + fieldOverhead)); l.inserted {
			d.table.at(l.entry).field.Name = name
		}
	}
	if d.count(n) {
		l.field = len(d.dst)
		d.dst = append(d.dst, Field{Name: name, Sensitive: sensitive})
	}
	if !l.inserted && l.field < 0 {
		w.scratch = w.scratch[:l.name]
		return
	}
	w.pending = append(w.pending, l)
	if len(w.pending) == maxPending {
		d.settle()
	}
}

// settle makes strings of the literals that wait in scratch. It runs once per
// block, and additionally when a block refers to an entry that it has itself
// inserted a moment before, or holds more than maxPending literals.
func (d *Decoder) settle() {
	d.settled = d.table.next
	w := d.staged
	if w == nil {
		return
	}
	if len(w.pending) == 0 {
		w.scratch = w.scratch[:0]
		return
	}
	s := string(w.scratch)
	for i := range w.pending {
		l := &w.pending[i]
		hash := uint32(0)
		if l.inserted && d.table.live(l.entry) {
			hash = d.settleEntry(l, s)
		}
		if l.field >= 0 {
			f := &d.dst[l.field]
			f.Value, f.hash = s[l.value:l.end], hash
			if !l.named {
				f.Name = s[l.name:l.value]
			}
		}
	}
	w.pending, w.scratch = w.pending[:0], w.scratch[:0]
}

// settleEntry gives the table's entry for l its strings: parts of s, or a copy
// of its own if s is so large that the entry would pin much more than its size.
// It returns the entry's hash.
func (d *Decoder) settleEntry(l *literal, s string) uint32 {
	e := d.table.at(l.entry)
	own, base := s, 0
	if len(s) > pinFactor*int(e.size) {
		own, base = strings.Clone(s[l.name:l.end]), l.name
	}
	name := e.field.Name
	if !l.named {
		name = own[l.name-base : l.value-base]
	}
	e.field = Prepare(name, own[l.value-base:l.end-base])
	return e.field.hash
}
