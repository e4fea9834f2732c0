// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

//go:build poison

package h2

import (
	"bytes"
	"testing"

	"github.com/manifold-grpc/manifold/internal/h2/frame"
)

// keepsData is an owner that does what it must not: it keeps what Data gave it.
type keepsData struct {
	owner
	kept []byte
}

func (k *keepsData) Data(s *Stream, b *Batch, p []byte, end bool) int {
	k.kept = p
	return len(p)
}

// With the build tag, whoever uses octets after they were given back reads
// others: in the read buffer, in the write buffer, and in a stream's queue.
func TestPoison(t *testing.T) {
	payload := []byte("payload that must not be kept")
	wrong := bytes.Repeat([]byte{0xDB}, len(payload))
	k := &keepsData{owner: *newOwner()}
	x := newBench(t, 1, 0)
	x.in.events = k
	x.feed(x.in, rawFrame(frame.TypeData, 0, 1, payload))
	if !bytes.Equal(k.kept, wrong) {
		t.Errorf("octets of the read buffer after the batch: %q", k.kept)
	}

	c := newChunk(len(payload))
	copy(c.data, payload)
	c.free()
	if !bytes.Equal(c.data[:len(payload)], wrong) {
		t.Errorf("octets of a queue after they left: %q", c.data[:len(payload)])
	}

	s := x.streams[0]
	var b Batch
	if _, err := s.Send(&b, payload, false); err != nil {
		t.Fatal(err)
	}
	x.out.mu.Lock()
	out := x.out.out
	x.out.mu.Unlock()
	b.Flush()
	if bytes.Contains(out, payload) {
		t.Errorf("octets of the write buffer after the write: %q", out)
	}
}
