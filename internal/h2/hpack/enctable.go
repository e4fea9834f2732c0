// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package hpack

import "hash/maphash"

// seed keeps peers from choosing fields whose hashes collide.
var seed = maphash.MakeSeed()

// key is what a field is looked up by.
type key struct {
	name uint32 // hash of the name
	pair uint32 // hash of name and value
}

// hash returns the key of a field.
func hash(name, value string) key {
	n := maphash.String(seed, name)
	v := maphash.String(seed, value)
	return key{
		name: uint32(n >> 32),
		// Odd multiplier: otherwise equal name and value would cancel out.
		pair: uint32((n*0x9e3779b97f4a7c15 + v) >> 32),
	}
}

// staticSlots is the size of the hash tables over the static table: sparse, so
// that a field that is not in it meets an empty slot at once.
const staticSlots = 256

// staticPairs and staticNames hold indexes of the static table by the hash of
// the pair and, for the first entry of each name, of the name. Collisions go to
// the next slot; 0 is an empty one.
var staticPairs, staticNames = newStaticSlots()

func newStaticSlots() (pairs, names *[staticSlots]uint8) {
	pairs, names = new([staticSlots]uint8), new([staticSlots]uint8)
	put := func(t *[staticSlots]uint8, h uint32, i int) {
		for t[h%staticSlots] != 0 {
			h++
		}
		t[h%staticSlots] = uint8(i)
	}
	for i := 1; i <= staticLen; i++ {
		f := static[i]
		k := hash(f.Name, f.Value)
		put(pairs, k.pair, i)
		if f.Name != static[i-1].Name {
			put(names, k.name, i)
		}
	}
	return pairs, names
}

// staticPair returns the static index of a field, or 0.
func staticPair(k key, name, value string) uint32 {
	for h := k.pair; ; h++ {
		i := staticPairs[h%staticSlots]
		if i == 0 || static[i].Value == value && static[i].Name == name {
			return uint32(i)
		}
	}
}

// staticName returns the first static index with the name, or 0.
func staticName(k key, name string) uint32 {
	for h := k.name; ; h++ {
		i := staticNames[h%staticSlots]
		if i == 0 || static[i].Name == name {
			return uint32(i)
		}
	}
}

// encEntry is one field of an encoder's dynamic table.
type encEntry struct {
	name, value string
	key         key
	size        uint32
	// Numbers of the entries before this one in its two chains.
	pairNext, nameNext uint32
}

// encTable is an encoder's dynamic table: a ring of entries, numbered from 1 in
// the order of insertion, and two chained hash tables over it.
//
// A chain goes from newer to older entries. Entries leave oldest first, so the
// first dead number on a chain ends it, and eviction has nothing to unlink.
// Numbers may wrap around: a number is only trusted if it is live and the entry
// compares equal, and 0 ends a chain or at worst hides an entry.
type encTable struct {
	ring         []encEntry // a power of two long, or nil
	pairs, names []uint32   // newest entry by hash; twice as long as ring
	next         uint32     // number of the last entry
	count        uint32     // live entries: next-count+1 to next
	size, max    uint32
}

func (t *encTable) at(k uint32) *encEntry { return &t.ring[k&uint32(len(t.ring)-1)] }

// live says whether entry k is in the table.
func (t *encTable) live(k uint32) bool { return t.next-k < t.count }

// pair returns the index of the newest entry equal to the field, or 0.
func (t *encTable) pair(key key, name, value string) uint32 {
	if t.count == 0 {
		return 0
	}
	for k := t.pairs[key.pair&uint32(len(t.pairs)-1)]; t.live(k); k = t.at(k).pairNext {
		if e := t.at(k); e.key.pair == key.pair && e.value == value && e.name == name {
			return t.next - k + staticLen + 1
		}
	}
	return 0
}

// name returns the index of the newest entry with the name, or 0.
func (t *encTable) name(key key, name string) uint32 {
	if t.count == 0 {
		return 0
	}
	for k := t.names[key.name&uint32(len(t.names)-1)]; t.live(k); k = t.at(k).nameNext {
		if e := t.at(k); e.key.name == key.name && e.name == name {
			return t.next - k + staticLen + 1
		}
	}
	return 0
}

// insert adds a field, which is no larger than the table.
func (t *encTable) insert(k key, f Field) {
	size := f.Size()
	t.evict(size)
	if int(t.count) == len(t.ring) {
		t.grow()
	}
	t.next++
	t.count++
	t.size += size
	*t.at(t.next) = encEntry{name: f.Name, value: f.Value, key: k, size: size}
	t.link(t.next)
}

// link puts entry k at the head of its chains.
func (t *encTable) link(k uint32) {
	e := t.at(k)
	pair := &t.pairs[e.key.pair&uint32(len(t.pairs)-1)]
	name := &t.names[e.key.name&uint32(len(t.names)-1)]
	e.pairNext, e.nameNext = *pair, *name
	*pair, *name = k, k
}

// setMax sets the maximum size and evicts what no longer fits.
func (t *encTable) setMax(n uint32) {
	t.max = n
	t.evict(0)
}

// evict removes the oldest entries until one of the given size has room.
func (t *encTable) evict(size uint32) {
	for t.count > 0 && t.size+size > t.max {
		e := t.at(t.next - t.count + 1)
		t.size -= e.size
		t.count--
		e.name, e.value = "", "" // the strings may go
	}
}

// grow doubles the table. max/32 entries are the most there can be.
func (t *encTable) grow() {
	old := *t
	n := max(16, 2*len(old.ring))
	t.ring = make([]encEntry, n)
	t.pairs, t.names = make([]uint32, 2*n), make([]uint32, 2*n)
	for k := t.next - t.count + 1; k != t.next+1; k++ {
		*t.at(k) = *old.at(k)
		t.link(k)
	}
}
