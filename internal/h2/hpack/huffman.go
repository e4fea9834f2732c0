// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package hpack

import "encoding/binary"

// eos is the end-of-string symbol, which follows on the 256 octets.
const eos = 256

// codeLens holds the length in bits of each symbol's code in RFC 7541 appendix
// B. The code is canonical, so the lengths say everything: codes of one length
// are consecutive, in the order of their symbols, and follow on those of the
// length below.
var codeLens = [eos + 1]uint8{
	13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28,
	28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28,
	6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6,
	5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10,
	13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,
	7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
	15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5,
	6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28,
	20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23,
	24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
	22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23,
	21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
	26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25,
	19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27,
	20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23,
	26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
	30,
}

const (
	minCodeLen = 5
	maxCodeLen = 30
)

// canonical is the code in the form that decoding by length wants: the symbols
// in the order of their codes and, for each length, where its codes start.
type canonical struct {
	symbols [eos + 1]uint16
	// first is the first code of a length, end the code after the last one,
	// and at the place of the first one's symbol.
	first, end [maxCodeLen + 1]uint32
	at         [maxCodeLen + 1]uint16
}

// huffCode is one symbol's code, in the low len bits.
type huffCode struct {
	code uint32
	len  uint8
}

// lookupBits is the width of the first lookup: two symbols of the commonest
// lengths, 5 and 6 bits, fit into it.
const lookupBits = 12

// lookup is what the next lookupBits bits of a string begin with: one or two
// whole symbols, or none if the first code is longer. From the low end: two
// symbols of 8 bits, 8 bits with the length of their codes together, and 8 with
// the number of symbols.
type lookup uint32

func (l lookup) bits() uint { return uint(l >> 16 & 15) }
func (l lookup) n() int     { return int(l >> 24) }

var (
	huffCanonical = newCanonical()
	huffCodes     = newHuffCodes()
	huffLookup    = newHuffLookup()
)

func newCanonical() *canonical {
	c := new(canonical)
	code, at := uint32(0), 0
	for n := minCodeLen; n <= maxCodeLen; n++ {
		code <<= 1
		c.first[n], c.at[n] = code, uint16(at)
		for sym, l := range codeLens {
			if int(l) == n {
				c.symbols[at] = uint16(sym)
				at++
				code++
			}
		}
		c.end[n] = code
	}
	return c
}

func newHuffCodes() *[eos]huffCode {
	codes := new([eos]huffCode)
	for n := minCodeLen; n <= maxCodeLen; n++ {
		for code := huffCanonical.first[n]; code < huffCanonical.end[n]; code++ {
			sym := huffCanonical.symbols[uint32(huffCanonical.at[n])+code-huffCanonical.first[n]]
			if sym != eos {
				codes[sym] = huffCode{code, uint8(n)}
			}
		}
	}
	return codes
}

func newHuffLookup() *[1 << lookupBits]lookup {
	t := new([1 << lookupBits]lookup)
	for i := range t {
		top := uint64(i) << (64 - lookupBits)
		sym, first := huffCanonical.next(top, lookupBits)
		if first == 0 {
			continue
		}
		t[i] = lookup(sym) | lookup(first)<<16 | 1<<24
		if next, second := huffCanonical.next(top<<first, lookupBits-first); second > 0 {
			t[i] = lookup(sym) | lookup(next)<<8 | lookup(first+second)<<16 | 2<<24
		}
	}
	return t
}

// next returns the symbol at the top of bits and the length of its code, or a
// length of 0 if the code is longer than max.
func (c *canonical) next(bits uint64, max uint) (sym uint16, n uint) {
	for n = minCodeLen; n <= max; n++ {
		if code := uint32(bits >> (64 - n)); code < c.end[n] {
			return c.symbols[uint32(c.at[n])+code-c.first[n]], n
		}
	}
	return 0, 0
}

// huffBound is the greatest length that n octets of Huffman code can decode to,
// and room for the second symbol that the decoder writes ahead.
func huffBound(n int) int { return n*8/minCodeLen + 2 }

// huffLeast is the least length that n octets of Huffman code can decode to.
func huffLeast(n int) int { return n * 8 / maxCodeLen }

// appendHuffmanDecoded appends the octets that src encodes. reason is not empty
// if src is not valid (RFC 7541 section 5.2): it holds the EOS symbol, or does
// not end in fewer than 8 bits of ones.
func appendHuffmanDecoded(dst, src []byte) (out []byte, reason string) {
	j := len(dst)
	dst = grow(dst, huffBound(len(src)))
	buf := dst[:cap(dst)]
	// The next n bits stand at the top of bits; below them stand, for now
	// without counting, some of those that follow in src.
	bits, n := uint64(0), uint(0)
	for len(src) >= 8 {
		bits |= binary.BigEndian.Uint64(src) >> n
		src = src[(63-n)/8:]
		n |= 56
		for n >= maxCodeLen {
			l := huffLookup[bits>>(64-lookupBits)]
			if l == 0 {
				sym, c := huffCanonical.next(bits, maxCodeLen)
				if sym == eos {
					return dst, reasonHuffmanEOS
				}
				buf[j] = byte(sym)
				j, bits, n = j+1, bits<<c, n-c
				continue
			}
			buf[j], buf[j+1] = byte(l), byte(l>>8)
			j += l.n()
			bits <<= l.bits()
			n -= l.bits()
		}
	}
	return huffmanTail(buf, j, bits, n, src)
}

// huffmanTail decodes the last bits of a string, n at the top of bits and those
// of src, fewer than 8 octets, into buf from j on.
func huffmanTail(buf []byte, j int, bits uint64, n uint, src []byte) (out []byte, reason string) {
	for {
		for n <= 56 && len(src) > 0 {
			bits |= uint64(src[0]) << (56 - n)
			src = src[1:]
			n += 8
		}
		// With ones after the end, padding looks like the start of EOS, and a
		// code that lacks its end cannot seem whole within n bits.
		padded := bits | ^uint64(0)>>n
		if n < 8 && padded == ^uint64(0) {
			return buf[:j], ""
		}
		l := huffLookup[padded>>(64-lookupBits)]
		if l != 0 && l.bits() <= n {
			buf[j], buf[j+1] = byte(l), byte(l>>8)
			j, bits, n = j+l.n(), bits<<l.bits(), n-l.bits()
			continue
		}
		sym, c := huffCanonical.next(padded, maxCodeLen)
		if c > n {
			return buf[:j], reasonHuffmanPadding
		}
		if sym == eos {
			return buf[:j], reasonHuffmanEOS
		}
		buf[j] = byte(sym)
		j, bits, n = j+1, bits<<c, n-c
	}
}

// huffmanLen returns the length of s in Huffman code.
func huffmanLen(s string) int {
	bits := 0
	for i := 0; i < len(s); i++ {
		bits += int(codeLens[s[i]])
	}
	return (bits + 7) / 8
}

// appendHuffman appends s, whose length in Huffman code is size, padded with
// ones.
func appendHuffman(dst []byte, s string, size int) []byte {
	start := len(dst)
	dst = grow(dst, size+4)
	buf := dst[start : start+size+4] // room to write 4 octets at a time
	// bits holds n bits, fewer than 32 between symbols, at its low end.
	bits, n, j := uint64(0), uint(0), 0
	for i := range len(s) {
		c := &huffCodes[s[i]]
		bits = bits<<(c.len&31) | uint64(c.code)
		n += uint(c.len)
		if n >= 32 {
			n -= 32
			binary.BigEndian.PutUint32(buf[j:], uint32(bits>>(n&31)))
			j += 4
		}
	}
	// Ones below the last bit; what is written beyond size is not kept.
	binary.BigEndian.PutUint32(buf[j:], uint32(bits<<(32-n)|^uint64(0)>>(32+n)))
	return dst[:start+size]
}

// grow returns dst with room for n more octets.
func grow(dst []byte, n int) []byte {
	if cap(dst)-len(dst) >= n {
		return dst
	}
	out := make([]byte, len(dst), max(2*cap(dst), len(dst)+n, 256))
	copy(out, dst)
	return out
}
