// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package hpack

// encEntry is one field of an encoder's dynamic table.
type encEntry struct {
	name, value string
	// Hashes of both and of the name.
	pair, nameHash uint32
	size           uint32
	// Numbers of the entries before this one in its two chains.
	pairNext, nameNext uint32
}

// encTable is an encoder's dynamic table: a ring of entries, numbered from 1 in
// the order of insertion, and two chained hash tables over it.
//
// A chain goes from newer to older entries. Entries leave oldest first, so the
// first dead number on a chain ends it, and eviction has nothing to unlink.
// Numbers wrap around, so a dead one may come to look alive. That does no harm:
// a chain is followed only as long as it leads to older entries, and an entry is
// taken only if it is equal.
type encTable struct {
	ring         []encEntry // a power of two long, or nil
	pairs, names []uint32   // newest entry by hash; twice as long as ring
	next         uint32     // number of the last entry
	count        uint32     // live entries: next-count+1 to next
	size, max    uint32
	version      uint64 // of the content: rises with each change
}

func (t *encTable) at(k uint32) *encEntry { return &t.ring[k&uint32(len(t.ring)-1)] }

// pair returns the index of the newest entry equal to the field with its hash,
// or 0.
func (t *encTable) pair(hash uint32, f *Field) uint32 {
	if t.count == 0 {
		return 0
	}
	age := t.next - t.pairs[hash&uint32(len(t.pairs)-1)]
	for age < t.count {
		e := t.at(t.next - age)
		if e.pair == hash && e.value == f.Value && e.name == f.Name {
			return staticLen + 1 + age
		}
		older := t.next - e.pairNext
		if older <= age {
			break
		}
		age = older
	}
	return 0
}

// name returns the index of the newest entry with the name, or 0.
func (t *encTable) name(hash uint32, name string) uint32 {
	if t.count == 0 {
		return 0
	}
	age := t.next - t.names[hash&uint32(len(t.names)-1)]
	for age < t.count {
		e := t.at(t.next - age)
		if e.nameHash == hash && e.name == name {
			return staticLen + 1 + age
		}
		older := t.next - e.nameNext
		if older <= age {
			break
		}
		age = older
	}
	return 0
}

// insert adds a field with its hash and that of its name. The field is no larger
// than the table.
func (t *encTable) insert(pair, name uint32, f *Field) {
	size := f.Size()
	t.evict(size)
	if int(t.count) == len(t.ring) {
		t.grow()
	}
	t.version++
	t.next++
	t.count++
	t.size += size
	*t.at(t.next) = encEntry{name: f.Name, value: f.Value, pair: pair, nameHash: name, size: size}
	t.link(t.next)
}

// link puts entry k at the head of its chains.
func (t *encTable) link(k uint32) {
	e := t.at(k)
	pair := &t.pairs[e.pair&uint32(len(t.pairs)-1)]
	name := &t.names[e.nameHash&uint32(len(t.names)-1)]
	e.pairNext, e.nameNext = *pair, *name
	*pair, *name = k, k
}

// setMax sets the maximum size and evicts what no longer fits.
func (t *encTable) setMax(n uint32) {
	t.max = n
	t.version++
	t.evict(0)
}

// evict removes the oldest entries until one of the given size has room.
func (t *encTable) evict(size uint32) {
	for t.count > 0 && t.size+size > t.max {
		e := t.at(t.next - t.count + 1)
		t.version++
		t.size -= e.size
		t.count--
		e.name, e.value = "", "" // the strings may go
	}
}

// grow doubles the table. max/32 entries are the most there can be.
func (t *encTable) grow() {
	old := *t
	n := max(4, 2*len(old.ring)) // a server's responses have few fields in common
	t.ring = make([]encEntry, n)
	slots := make([]uint32, 4*n)
	t.pairs, t.names = slots[:2*n:2*n], slots[2*n:]
	for k := t.next - t.count + 1; k != t.next+1; k++ {
		*t.at(k) = *old.at(k)
		t.link(k)
	}
}
