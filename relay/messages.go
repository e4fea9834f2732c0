// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package relay

import "encoding/binary"

// prefixLen is the length of the prefix of a gRPC message: a flag and the
// length of what follows.
const prefixLen = 5

// messageCounter follows the message prefixes in one direction of a call, whatever
// frames they are cut into. The zero value is ready.
type messageCounter struct {
	messages int64
	bytes    int64  // octets of the direction, prefixes included
	left     uint32 // octets of the current message still to come
	prefix   [prefixLen]byte
	got      uint8 // octets of prefix that came
}

// feed takes the next octets. It returns the length of the first message that is larger than limit,
// or 0. A limit of 0 allows all.
func (m *messageCounter) feed(p []byte, limit uint32) (tooLarge uint32) {
	m.bytes += int64(len(p))
	if m.left == 0 && m.got == 0 && len(p) >= prefixLen && uint64(binary.BigEndian.Uint32(p[1:])) == uint64(len(p)-prefixLen) {
		m.messages++ // p is a message, as most are
		if n := uint32(len(p) - prefixLen); limit != 0 && n > limit {
			m.left = n
			return n
		}
		return 0
	}
	for len(p) > 0 {
		if m.left > 0 {
			n := min(uint32(len(p)), m.left)
			m.left -= n
			p = p[n:]
			continue
		}
		n := copy(m.prefix[m.got:], p)
		m.got += uint8(n)
		p = p[n:]
		if m.got < prefixLen {
			return 0
		}
		m.got = 0
		m.left = binary.BigEndian.Uint32(m.prefix[1:])
		m.messages++
		if limit != 0 && m.left > limit {
			return m.left
		}
	}
	return 0
}

// whole reports whether the octets so far end between two messages.
func (m *messageCounter) whole() bool { return m.left == 0 && m.got == 0 }
