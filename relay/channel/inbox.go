// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package channel

import (
	"encoding/binary"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
)

// An inMessage is one message of the response, as it came.
type inMessage struct {
	data mem.BufferSlice
	flag byte
}

// An inbox puts messages together and holds them until they are received. It grows with what arrives, never with
// what a prefix promises: what it holds is bounded by the stream's window, and by one message while that is waited for.
type inbox struct {
	messages []inMessage // whole ones, from next on
	next     int
	one      [1]inMessage // where messages begins: most responses have one

	prefix [prefixLen]byte
	got    int // octets of it
	inside bool
	left   int // octets of the message under way to come
	data   mem.BufferSlice
	buf    *[]byte // its last buffer, not full yet
	filled int

	wanted bool // what arrives of the message under way is granted at once
	held   int  // octets that are not granted
	owed   int  // octets that were received and are not granted yet
}

// chunkLen is the size of the buffers of a large message.
const chunkLen = 32 << 10

func (i *inbox) any() bool { return i.next < len(i.messages) }

// more reports whether there is more than one message.
func (i *inbox) more() bool {
	n := len(i.messages) - i.next
	return n > 1 || n == 1 && i.partial()
}

// partial reports whether a message is incomplete.
func (i *inbox) partial() bool { return i.got > 0 || i.inside }

// pop takes the first message.
func (i *inbox) pop() inMessage {
	m := i.messages[i.next]
	i.messages[i.next] = inMessage{}
	if i.next++; i.next == len(i.messages) {
		i.messages, i.next = i.messages[:0], 0
	}
	return m
}

// feed takes the next octets. It returns a status if a message is larger than limit.
func (i *inbox) feed(p []byte, limit int) *status.Status {
	for len(p) > 0 || i.inside && i.left == 0 {
		if !i.inside {
			n := copy(i.prefix[i.got:], p)
			i.got += n
			if p = p[n:]; i.got < prefixLen {
				return nil
			}
			size := binary.BigEndian.Uint32(i.prefix[1:])
			if int64(size) > int64(limit) {
				return status.Newf(codes.ResourceExhausted, "grpc: received message larger than max (%d vs. %d)", size, limit)
			}
			i.got, i.inside, i.left = 0, true, int(size)
		}
		n := i.fill(p)
		p = p[n:]
		if i.left == 0 {
			i.complete()
		}
	}
	return nil
}

// fill copies octets of the message under way into its buffers.
func (i *inbox) fill(p []byte) (n int) {
	for len(p) > 0 && i.left > 0 {
		if i.buf == nil {
			i.buf, i.filled = newBuffer(min(i.left, chunkLen)), 0
		}
		m := copy((*i.buf)[i.filled:], p)
		i.filled += m
		i.left -= m
		n += m
		p = p[m:]
		if i.filled == len(*i.buf) {
			i.data = append(i.data, mem.NewBuffer(i.buf, poolOf(len(*i.buf))))
			i.buf = nil
		}
	}
	return n
}

// newBuffer returns n octets: of a pool, unless they are few.
func newBuffer(n int) *[]byte {
	if pool := poolOf(n); pool != nil {
		return pool.Get(n)
	}
	p := make([]byte, n)
	return &p
}

// complete puts the message under way to the others.
func (i *inbox) complete() {
	if i.messages == nil {
		i.messages = i.one[:0]
	}
	if i.next > 0 && len(i.messages) == cap(i.messages) { // or it would grow for ever while the reader lags
		n := copy(i.messages, i.messages[i.next:])
		clear(i.messages[n:])
		i.messages, i.next = i.messages[:n], 0
	}
	i.messages = append(i.messages, inMessage{i.data, i.prefix[0]})
	i.inside, i.data = false, nil
}

// drop gives back what is there.
func (i *inbox) drop() {
	for i.any() {
		m := i.pop()
		m.data.Free()
	}
	i.data.Free()
	if i.buf != nil {
		mem.NewBuffer(i.buf, poolOf(len(*i.buf))).Free()
	}
	*i = inbox{}
}
