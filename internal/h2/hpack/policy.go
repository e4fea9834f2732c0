// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package hpack

import "slices"

// A filter has filterSets sets of filterWays hashes. With two values per call
// that never repeat, one that comes every 10 calls is still known the next time
// in 3 cases of 4.
const (
	filterSets = 16
	filterWays = 4
)

// filter remembers the fields of late by their hashes. The zero value has seen
// nothing.
type filter struct {
	sets   [filterSets][filterWays]uint32
	random uint32
}

// again says whether the field was seen before and not forgotten since. A field
// whose hash collides may be taken for seen; it is then indexed too early,
// which costs room and nothing else.
func (f *filter) again(pair uint32) bool {
	set := &f.sets[pair%filterSets]
	for _, h := range set {
		if h == pair {
			return true
		}
	}
	if i := slices.Index(set[:], 0); i >= 0 { // no field has this hash
		set[i] = pair
		return false
	}
	// At random, because with the oldest first five fields of one list that
	// share a set would push each other out for ever.
	f.random = f.random*1664525 + 1013904223
	set[f.random>>16%filterWays] = pair
	return false
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
