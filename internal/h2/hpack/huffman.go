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
// whole symbols, or none if the first code is longer.
type lookup struct {
	sym   [2]uint8
	n     uint8 // symbols
	bits  uint8 // of all n symbols
	first uint8 // of the first one
}

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
		var l lookup
		for l.n < 2 {
			sym, n := huffCanonical.next(uint64(i)<<(64-lookupBits)<<l.bits, lookupBits-uint(l.bits))
			if n == 0 {
				break
			}
			if l.n == 0 {
				l.first = uint8(n)
			}
			l.sym[l.n] = uint8(sym)
			l.n++
			l.bits += uint8(n)
		}
		t[i] = l
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
func huffLeast(n int) int { return (n*8 - 7) / maxCodeLen }

// appendHuffmanDecoded appends the octets that src encodes. reason is not empty
// if src is not valid (RFC 7541 section 5.2): it holds the EOS symbol, or does
// not end in fewer than 8 bits of ones.
func appendHuffmanDecoded(dst, src []byte) (out []byte, reason string) {
	j := len(dst)
	dst = grow(dst, huffBound(len(src)))
	buf := dst[:cap(dst)]
	// bits holds the next n bits of src at its top, and below them zeros.
	bits, n := uint64(0), uint(0)
	for len(src) >= 4 {
		bits |= uint64(binary.BigEndian.Uint32(src)) << (32 - n)
		n += 32
		src = src[4:]
		for n >= 32 {
			l := &huffLookup[bits>>(64-lookupBits)]
			if l.n == 0 {
				sym, c := huffCanonical.next(bits, maxCodeLen)
				if sym == eos {
					return dst, reasonHuffmanEOS
				}
				buf[j] = byte(sym)
				j, bits, n = j+1, bits<<c, n-c
				continue
			}
			buf[j], buf[j+1] = l.sym[0], l.sym[1]
			j += int(l.n)
			bits <<= l.bits & 63
			n -= uint(l.bits)
		}
	}
	for _, c := range src {
		bits |= uint64(c) << (56 - n)
		n += 8
	}
	return huffmanTail(buf[:j], bits, n)
}

// huffmanTail decodes the last n bits, at the top of bits, into dst, which has
// room for them.
func huffmanTail(dst []byte, bits uint64, n uint) (out []byte, reason string) {
	for {
		// Ones below the last bit: padding then looks like the start of EOS,
		// and no other code begins with 8 ones and goes beyond the end unseen.
		sym, c := huffCanonical.next(bits|^uint64(0)>>n, maxCodeLen)
		if c > n {
			break
		}
		if sym == eos {
			return dst, reasonHuffmanEOS
		}
		dst = append(dst, byte(sym))
		bits, n = bits<<c, n-c
	}
	if n >= 8 || bits|^uint64(0)>>n != ^uint64(0) {
		return dst, reasonHuffmanPadding
	}
	return dst, ""
}

// huffmanLen returns the length of s in Huffman code.
func huffmanLen(s string) int {
	bits := 0
	for i := 0; i < len(s); i++ {
		bits += int(codeLens[s[i]])
	}
	return (bits + 7) / 8
}

// appendHuffman appends s in Huffman code, padded with ones.
func appendHuffman(dst []byte, s string) []byte {
	// bits holds n bits, fewer than 32 between symbols, at its low end.
	bits, n := uint64(0), uint(0)
	for i := 0; i < len(s); i++ {
		c := huffCodes[s[i]]
		bits = bits<<c.len | uint64(c.code)
		n += uint(c.len)
		if n >= 32 {
			n -= 32
			dst = binary.BigEndian.AppendUint32(dst, uint32(bits>>n))
		}
	}
	for n >= 8 {
		n -= 8
		dst = append(dst, byte(bits>>n))
	}
	if n > 0 {
		dst = append(dst, byte(bits<<(8-n))|byte(0xff>>n))
	}
	return dst
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
