// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package relay

import "encoding/binary"

// keepInbox is the capacity up to which a target's memory is used again.
const keepInbox = 4 << 10

// An inbox holds octets of a response that could not be passed on as they came: the start of a message,
// or whole messages that wait for the client. The zero value is empty.
type inbox struct {
	buf       []byte
	off       int // buf[off:] waits
	scanned   int // where the first message that is not whole begins
	messages  int // whole ones
	ungranted int // octets, the last ones, that the target was not granted again
}

func (in *inbox) empty() bool { return in.off == len(in.buf) }

// whole reports whether what is there ends with a whole message.
func (in *inbox) whole() bool { return in.scanned == len(in.buf) }

// add appends octets.
func (in *inbox) add(p []byte) {
	if in.off > 0 && (in.empty() || in.off > len(in.buf)/2) {
		n := copy(in.buf, in.buf[in.off:])
		in.buf, in.scanned, in.off = in.buf[:n], in.scanned-in.off, 0
	}
	in.buf = append(in.buf, p...)
	in.ungranted += len(p)
	for {
		n, ok := wholeMessage(in.buf[in.scanned:])
		if !ok {
			return
		}
		in.scanned += n
		in.messages++
	}
}

// pop removes the first whole message and returns it with its prefix; it is valid until the next add.
func (in *inbox) pop() []byte {
	n, _ := wholeMessage(in.buf[in.off:])
	p := in.buf[in.off : in.off+n : in.off+n]
	in.off += n
	in.messages--
	return p
}

// grants returns how many octets the target can be granted: those of messages that are gone, and those
// of the first message while it is not whole, as it would else never become so.
func (in *inbox) grants() int {
	keep := 0
	if in.messages > 0 {
		keep = min(in.ungranted, len(in.buf)-in.off)
	}
	n := in.ungranted - keep
	in.ungranted = keep
	return n
}

// drop empties the inbox and returns how many octets it had.
func (in *inbox) drop() int {
	n := len(in.buf) - in.off
	*in = inbox{buf: in.buf[:0]}
	return n
}

// recycle returns an empty inbox that may have the memory of in.
func (in *inbox) recycle() inbox {
	if cap(in.buf) > keepInbox {
		return inbox{}
	}
	return inbox{buf: in.buf[:0]}
}

// wholeMessage returns the length of the message that p starts with, prefix included, if all of it is there.
func wholeMessage(p []byte) (n int, ok bool) {
	if len(p) < prefixLen {
		return 0, false
	}
	n = prefixLen + int(binary.BigEndian.Uint32(p[1:prefixLen]))
	return n, n <= len(p)
}

// plainRun returns how many octets of p are whole messages without compression.
func plainRun(p []byte) int {
	run := 0
	for {
		n, ok := wholeMessage(p[run:])
		if !ok || p[run] != 0 {
			return run
		}
		run += n
	}
}
