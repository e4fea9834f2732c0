// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package h2

import "testing"

// A batch waits for others before it writes only where others feed the same connection; what the connection
// has to say itself, and what comes from no connection's input, tells nothing of that.
func TestGather(t *testing.T) {
	var to Conn
	to.number = 7
	for i, tt := range []struct {
		of   uint64 // whose input it is
		want bool
	}{
		{1, false}, {1, false}, {7, false}, {0, false}, {1, false}, // one feeds it
		{2, true}, {2, true}, {1, true}, {0, true}, // two do
	} {
		b := Batch{of: tt.of}
		b.touch(&to)
		b.touch(&to)
		if b.shared != tt.want {
			t.Errorf("batch %d, of %d: gathers is %t, want %t", i, tt.of, b.shared, tt.want)
		}
		to.dirty = false
	}
	b := Batch{of: 1}
	for range feedersTurns {
		b.touch(&to)
		to.dirty = false
	}
	b.shared = false
	b.touch(&to)
	if b.shared {
		t.Error("the second has been gone for long, and the first still waits for it")
	}
}

// Where no stream is left on the connections that are written to, a batch waits for nobody.
func TestNobodyToGather(t *testing.T) {
	var down, up Conn
	var b Batch
	b.touch(&down)
	b.touch(&up)
	if b.mayGrow() {
		t.Error("the answer to the only call waits for others")
	}
	if up.active = 1; !b.mayGrow() {
		t.Error("a connection with a stream waits for no others")
	}
}

// A connection that another goroutine writes to, and that ends with what it writes, is not left marked as dirty: nobody would write for it again.
func TestFlushSoonWhileWriting(t *testing.T) {
	var c Conn
	c.writing, c.drain.final, c.active = true, true, 1
	var b Batch
	b.touch(&c)
	b.FlushSoon()
	if c.dirty || len(b.dirty) > 0 {
		t.Errorf("dirty is %t, and the batch has %d connections", c.dirty, len(b.dirty))
	}
}
