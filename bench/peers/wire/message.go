// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"bytes"
	"encoding/binary"
	"fmt"
)

const (
	prefixLen = 5  // flag and length, before each gRPC message
	headLen   = 16 // a Head, at the start of each message

	// MinMessage and MaxMessage bound the size of a message, in octets.
	MinMessage = headLen
	MaxMessage = 1 << 20
)

// Head is how a message starts. The octets that follow it depend on their offset
// alone.
type Head struct {
	Call uint64 // tells calls apart: an answer with another's is on the wrong stream
	Seq  uint32 // counts the messages of one direction of a call, from 0
	Want uint32 // how many answers the message asks for
}

func (h Head) put(b []byte) {
	binary.BigEndian.PutUint64(b, h.Call)
	binary.BigEndian.PutUint32(b[8:], h.Seq)
	binary.BigEndian.PutUint32(b[12:], h.Want)
}

func parseHead(b []byte) Head {
	return Head{binary.BigEndian.Uint64(b), binary.BigEndian.Uint32(b[8:]), binary.BigEndian.Uint32(b[12:])}
}

// pattern is a message with its prefix, but for what differs between messages. It
// is read-only.
var pattern = newPattern()

// newPattern makes octets among which a piece that is lost, doubled or moved shows.
func newPattern() []byte {
	b := make([]byte, prefixLen+MaxMessage)
	for i := range b {
		b[i] = byte(i ^ i>>8*7 ^ i>>16*13)
	}
	return b
}

// appendMessage appends the octets from, included, to upTo of a message and its
// prefix. The first piece holds prefix and head whole.
func appendMessage(dst []byte, h Head, size, from, upTo int) []byte {
	start := len(dst)
	dst = append(dst, pattern[from:upTo]...)
	if from == 0 {
		dst[start] = 0 // not compressed
		binary.BigEndian.PutUint32(dst[start+1:], uint32(size))
		h.put(dst[start+prefixLen:])
	}
	return dst
}

// receiver checks the messages of one direction of a stream.
type receiver struct {
	have int // octets of the message under way, its prefix included
	size int // its length, once the prefix is there
	buf  [prefixLen + headLen]byte
}

// next takes octets of p until a message is complete, and returns the rest of p.
// complete is false if p ended before that.
func (r *receiver) next(p []byte) (rest []byte, complete bool, err error) {
	if r.have < len(r.buf) {
		n := copy(r.buf[r.have:], p)
		p, r.have = p[n:], r.have+n
		if r.have < len(r.buf) {
			return p, false, nil
		}
		r.size = int(binary.BigEndian.Uint32(r.buf[1:]))
		if r.buf[0] != 0 || r.size < MinMessage || r.size > MaxMessage {
			return p, false, fmt.Errorf("message prefix % x, expected an uncompressed message of %d to %d octets", r.buf[:prefixLen], MinMessage, MaxMessage)
		}
	}
	n := min(len(p), prefixLen+r.size-r.have)
	if !bytes.Equal(p[:n], pattern[r.have:r.have+n]) {
		return p, false, fmt.Errorf("message of %d octets differs from what was sent, at or after offset %d", r.size, r.have-prefixLen)
	}
	r.have += n
	if r.have < prefixLen+r.size {
		return nil, false, nil
	}
	r.have = 0
	return p[n:], true, nil
}

// head is that of the message that next has completed.
func (r *receiver) head() Head { return parseHead(r.buf[prefixLen:]) }

// AppendPayload appends a message of size octets without its prefix, for ends that speak gRPC by other means.
func AppendPayload(dst []byte, h Head, size int) []byte {
	start := len(dst)
	dst = append(dst, pattern[prefixLen:prefixLen+size]...)
	h.put(dst[start:])
	return dst
}

// ParsePayload checks a message without its prefix.
func ParsePayload(p []byte) (Head, error) {
	if len(p) < MinMessage || len(p) > MaxMessage {
		return Head{}, fmt.Errorf("message of %d octets, expected %d to %d", len(p), MinMessage, MaxMessage)
	}
	if !bytes.Equal(p[headLen:], pattern[prefixLen+headLen:prefixLen+len(p)]) {
		return Head{}, fmt.Errorf("message of %d octets differs from what was sent", len(p))
	}
	return parseHead(p), nil
}
