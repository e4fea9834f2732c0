// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package hpack

import "hash/maphash"

// seed keeps peers from choosing fields whose hashes collide. There is one for
// the process, so that a hash made by any decoder serves any encoder.
var seed = maphash.MakeSeed()

// nameHash returns the hash by which names are looked up.
func nameHash(name string) uint32 { return uint32(maphash.String(seed, name) >> 32) }

// pairHash returns the hash by which fields are looked up. It is never 0.
func pairHash(name, value string) uint32 {
	// The odd multiplier makes (a, b) and (b, a) different.
	h := maphash.String(seed, name)*0x9e3779b97f4a7c15 + maphash.String(seed, value)
	return max(uint32(h>>32), 1)
}
