// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package hpack

// entry is one field of a decoder's dynamic table. The field's strings may be
// missing while the block that inserted it is being decoded; size is always
// right.
type entry struct {
	field Field
	size  uint32
}

// table is a decoder's dynamic table: a ring, because entries leave in the
// order in which they came (RFC 7541 section 2.3.2). Entries are numbered from
// 0 in the order of insertion; entry k lives at ring[k&(len(ring)-1)].
type table struct {
	ring  []entry // a power of two long, or nil
	next  uint64  // number of the next entry
	count int     // live entries: next-count to next-1
	size  uint32  // sum of their sizes, at most max
	max   uint32

	version uint64 // of the content: rises with each change
}

// at returns live entry k.
func (t *table) at(k uint64) *entry { return &t.ring[k&uint64(len(t.ring)-1)] }

// live says whether entry k is in the table.
func (t *table) live(k uint64) bool { return t.next-k-1 < uint64(t.count) }

// setMax sets the maximum size and evicts what no longer fits.
func (t *table) setMax(n uint32) {
	t.max = n
	t.version++
	t.evict(0)
}

// insert adds an entry of the given size and returns its number. An entry
// larger than the whole table empties it and is not added, which is no error
// (RFC 7541 section 4.4); ok is then false.
func (t *table) insert(size uint32) (k uint64, ok bool) {
	t.evict(size)
	if size > t.max {
		return 0, false
	}
	if t.count == len(t.ring) {
		t.grow()
	}
	t.version++
	k = t.next
	t.next++
	t.count++
	t.size += size
	t.at(k).size = size
	return k, true
}

// clear removes all entries.
func (t *table) clear() {
	for t.count > 0 {
		t.drop()
	}
}

// evict removes the oldest entries until one of the given size has room.
func (t *table) evict(size uint32) {
	for t.count > 0 && uint64(t.size)+uint64(size) > uint64(t.max) {
		t.drop()
	}
}

// drop removes the oldest entry.
func (t *table) drop() {
	e := t.at(t.next - uint64(t.count))
	t.version++
	t.size -= e.size
	t.count--
	*e = entry{} // the strings may go
}

// firstEntries is the length of a decoder's ring when the first entry comes: what
// most clients' requests have in common.
const firstEntries = 8

// grow doubles the ring. It never gets longer than twice max/32 entries.
func (t *table) grow() {
	ring := make([]entry, max(firstEntries, 2*len(t.ring)))
	for k := t.next - uint64(t.count); k != t.next; k++ {
		ring[k&uint64(len(ring)-1)] = *t.at(k)
	}
	t.ring = ring
}
