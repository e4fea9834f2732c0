// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package h2

import (
	"bytes"
	"io"
	"net"
	"slices"
	"testing"
)

// byRecord is a net.Conn that gives one record with each read, as TLS does. An empty one is a pause: what
// follows it has not arrived as long as nobody waits for it.
type byRecord struct {
	net.Conn
	records [][]byte
	waits   int // how often somebody waited
}

func (c *byRecord) Read(p []byte) (int, error) {
	c.waits++
	for len(c.records) > 0 && len(c.records[0]) == 0 {
		c.records = c.records[1:]
	}
	if len(c.records) == 0 {
		return 0, io.EOF
	}
	return c.TryRead(p)
}

func (c *byRecord) TryRead(p []byte) (int, error) {
	if len(c.records) == 0 {
		return 0, io.EOF
	}
	n := copy(p, c.records[0])
	if c.records[0] = c.records[0][n:]; n > 0 && len(c.records[0]) == 0 {
		c.records = c.records[1:]
	}
	return n, nil
}

// All that has arrived is one batch, as far as the buffer goes; while nothing has, no buffer is held, after
// large messages neither.
func TestReadsAllRecords(t *testing.T) {
	record := func(n int, x byte) []byte { return bytes.Repeat([]byte{x}, n) }
	const full = 16 << 10
	for _, tt := range []struct {
		name    string
		records [][]byte
		batches []int
	}{
		{"one", [][]byte{record(100, 1)}, []int{100}},
		{"small ones", [][]byte{record(100, 1), record(200, 2), record(1, 3)}, []int{301}},
		{"as long as the first buffer", [][]byte{record(firstLen, 1), record(firstLen, 2)}, []int{2 * firstLen}},
		{"a pause", [][]byte{record(full, 1), record(5, 2), {}, record(full, 3), {}, record(10, 4)}, []int{full + 5, full, 10}},
		{"more than a buffer", [][]byte{record(full, 1), record(full, 2), record(full, 3), record(full, 4), record(full, 5)}, []int{readLen, full}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			want := bytes.Join(tt.records, nil)
			nc := &byRecord{records: slices.Clone(tt.records)}
			var tr transport
			tr.init(nc, false)
			in := reader{t: &tr}
			var got []byte
			for i, size := range tt.batches {
				if in.data != nil {
					t.Fatalf("batch %d: waits with a buffer", i)
				}
				n, err := in.fill()
				if err != nil || n != size || len(in.bytes()) != size {
					t.Fatalf("batch %d: %d octets, %d in the buffer, %v, want %d", i, n, len(in.bytes()), err, size)
				}
				got = append(got, in.bytes()...)
				in.advance(n)
				in.release()
			}
			if n, err := in.fill(); n != 0 || err != io.EOF {
				t.Errorf("at the end: %d, %v, want EOF", n, err)
			}
			if !bytes.Equal(got, want) {
				t.Error("other octets than were sent")
			}
			if nc.waits != len(tt.batches)+1 {
				t.Errorf("waited %d times for %d batches", nc.waits, len(tt.batches))
			}
		})
	}
}
