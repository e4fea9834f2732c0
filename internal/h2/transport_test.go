// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package h2

import (
	"errors"
	"io"
	"net"
	"strconv"
	"testing"
)

// A connection whose socket cannot be asked for input waits for it without a
// read buffer, too: after small reads and after large ones, whatever is left
// of frames that are not complete.
func TestIdleReaderHoldsNoBuffer(t *testing.T) {
	t.Parallel()
	bubble(t, "server", func(c *scenario) {
		in := &c.conn.in
		idle := func(when string, want bool) {
			t.Helper()
			c.settle()
			if got := in.data == nil; got != want {
				t.Errorf("%s: no read buffer is %t, want %t", when, got, want)
			}
		}
		idle("after the handshake", true)
		c.send("HEADERS 1 request; DATA 1 len=100")
		idle("after a small read", true)
		c.send("3* DATA 1 len=10000")
		idle("after a large read, which another may follow", false)
		c.send(`PING "12345678"`)
		idle("after large reads and a small one", true)
		c.write(c.writer.line("DATA 1 len=5000")[:4000])
		idle("within a frame", false)
		c.write(make([]byte, 1009))
		idle("after the frame", true)
	})
}

// Input of any size in reads of any size arrives whole: pieces as long as the
// buffer for first octets, one less, one more, and as long as frames.
func TestReaderSizes(t *testing.T) {
	t.Parallel()
	bubble(t, "server", func(c *scenario) {
		c.send("HEADERS 1 request")
		c.settle()
		for _, n := range []int{firstLen - 9, firstLen - 10, firstLen - 8, 2*firstLen - 9, 16384, 0, 1, firstLen} {
			p := c.writer.line("DATA 1 len=" + strconv.Itoa(n))
			for len(p) > 0 {
				k := min(len(p), firstLen)
				c.write(p[:k])
				c.checkStep()
				p = p[k:]
			}
		}
		if got, want := c.owner.got[1], c.writer.sent[1]; got != want {
			t.Errorf("%d octets arrived, %d were sent", got, want)
		}
	})
}

// lastWords is a connection whose last octets come together with its end.
type lastWords struct {
	net.Conn
	said bool
}

func (l *lastWords) Read(p []byte) (int, error) {
	if l.said {
		return 0, io.EOF
	}
	l.said = true
	return copy(p, "trailers"), io.EOF
}

// What comes together with the end of the connection, as TLS reads records before close_notify, is taken first.
func TestReaderLastWords(t *testing.T) {
	tr := new(transport)
	tr.init(&lastWords{}, false)
	r := &reader{t: tr}
	n, err := r.fill()
	if n != 8 || err != nil || string(r.bytes()) != "trailers" {
		t.Fatalf("%d octets %q, %v", n, r.bytes(), err)
	}
	r.advance(n)
	if n, err := r.fill(); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("then %d octets, %v", n, err)
	}
}
