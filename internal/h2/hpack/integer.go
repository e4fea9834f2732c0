// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package hpack

// maxInt bounds every integer of a block: far above any length or index that
// can be valid, and small enough never to overflow an int. RFC 7541 section 5.1
// asks for such a bound.
const maxInt = 1<<28 - 1

// readInt reads the integer with an n-bit prefix at p[i] (RFC 7541 section
// 5.1). p[i] exists. It returns the integer and the offset after it; reason is
// not empty on errors.
func readInt(p []byte, i int, n uint) (v uint32, next int, reason string) {
	limit := uint32(1)<<n - 1
	v = uint32(p[i]) & limit
	i++
	if v < limit {
		return v, i, ""
	}
	// Four more octets hold 28 bits. Zeros may pad the integer, so the count
	// of octets is bounded as well as the value.
	for shift := uint(0); shift < 28; shift += 7 {
		if i >= len(p) {
			return 0, i, reasonTruncated
		}
		c := p[i]
		i++
		v += uint32(c&0x7f) << shift
		if c < 0x80 {
			if v > maxInt {
				return 0, i, reasonInteger
			}
			return v, i, ""
		}
	}
	return 0, i, reasonInteger
}

// appendInt appends v with an n-bit prefix; high holds the bits above it.
func appendInt(dst []byte, high byte, n uint, v uint32) []byte {
	limit := uint32(1)<<n - 1
	if v < limit {
		return append(dst, high|byte(v))
	}
	dst = append(dst, high|byte(limit))
	for v -= limit; v >= 0x80; v >>= 7 {
		dst = append(dst, 0x80|byte(v))
	}
	return append(dst, byte(v))
}
