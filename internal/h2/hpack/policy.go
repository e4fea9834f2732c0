// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package hpack

import "slices"

// A filter has up to filterSets sets of filterWays hashes. With two values per call
// that never repeat, one that comes every 10 calls is still known the next time
// in 3 cases of 4. Most connections have few fields that do not repeat, and
// get by with the sets that it begins with.
const (
	firstSets  = 2
	filterSets = 16
	filterWays = 4
)

// filter remembers the fields of late by their hashes. The zero value has seen
// nothing.
type filter struct {
	sets   []hashSet // a power of two of them, or none
	random uint32
}

type hashSet [filterWays]uint32

// again says whether the field was seen before and not forgotten since. A field
// whose hash collides may be taken for seen; it is then indexed too early,
// which costs room and nothing else.
func (f *filter) again(pair uint32) bool {
	if f.sets == nil {
		f.sets = make([]hashSet, firstSets)
	}
	set := f.set(pair)
	for _, h := range set {
		if h == pair {
			return true
		}
	}
	if set.add(pair) {
		return false
	}
	if len(f.sets) < filterSets {
		f.grow()
		return f.again(pair)
	}
	// At random, because with the oldest first five fields of one list that
	// share a set would push each other out for ever.
	f.random = f.random*1664525 + 1013904223
	set[f.random>>16%filterWays] = pair
	return false
}

// set returns where a hash belongs.
func (f *filter) set(pair uint32) *hashSet { return &f.sets[pair%uint32(len(f.sets))] }

// add adds a hash, if there is room.
func (s *hashSet) add(pair uint32) bool {
	i := slices.Index(s[:], 0) // no field has this hash
	if i < 0 {
		return false
	}
	s[i] = pair
	return true
}

// grow doubles the sets. Each of them is spread over two, which have room for it.
func (f *filter) grow() {
	old := f.sets
	f.sets = make([]hashSet, 2*len(old))
	for i := range old {
		for _, pair := range old[i] {
			if pair != 0 {
				f.set(pair).add(pair)
			}
		}
	}
}

// shortCookie is the length below which a cookie may be guessed.
const shortCookie = 20

// secret says that a field is to go never-indexed though it did not come so.
//
// On a connection to a backend the fields of many clients share one table. Who
// can send requests and watch the sizes of what the proxy sends could confirm
// guesses of another's field, since a right guess shrinks (RFC 7541 section
// 7.1). That needs a whole value to be guessed, so it concerns credentials and
// short cookies, the examples of section 7.1.3. Never-indexed rather than only
// not indexed, so that hops behind us take the same care.
func secret(name, value string) bool {
	switch len(name) {
	case len("cookie"):
		return name == "cookie" && len(value) < shortCookie
	case len("authorization"):
		return name == "authorization"
	case len("proxy-authorization"):
		return name == "proxy-authorization"
	}
	return false
}
