// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package h2

import (
	"bytes"
	"io"
	"net"
	"testing"
	"time"

	"golang.org/x/net/http2/hpack"

	"github.com/manifold-grpc/manifold/internal/h2/frame"
	"github.com/manifold-grpc/manifold/internal/memnet"
)

// tooMany returns n requests, of which all but the first are above the limit of one stream.
func tooMany(n int) (first, rest []byte) {
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	for i := range n {
		block.Reset()
		for _, f := range requestFields {
			enc.WriteField(hpack.HeaderField{Name: f.Name, Value: f.Value}) //nolint:errcheck // into memory
		}
		f := rawFrame(frame.TypeHeaders, frame.FlagEndHeaders, uint32(2*i+1), block.Bytes())
		if i == 0 {
			first = f
		} else {
			rest = append(rest, f...)
		}
	}
	return first, rest
}

// counting is a socket that notes what is written at once at most.
type counting struct {
	nowhere
	writes, longest, octets int
}

func (w *counting) TryWrite(p []byte) (int, error) {
	w.writes++
	w.longest, w.octets = max(w.longest, len(p)), w.octets+len(p)
	return len(p), nil
}

// However much input there is, one turn goes no further than maxTurn, and its answers are written before the next.
func TestTurnIsBounded(t *testing.T) {
	const n = 3000
	w := &counting{}
	c := New(w, Config{MaxConcurrentStreams: 1, Patience: 1 << 20}, newOwner())
	c.gotSettings = true
	c.batch.Flush()
	first, rest := tooMany(n)
	input := append(first, rest...)
	c.in.attach()
	if len(input) > len(c.in.data) {
		t.Fatalf("%d octets of input, the buffer has %d", len(input), len(c.in.data))
	}
	c.in.w = copy(c.in.data, input)
	turns := 0
	for c.more = true; c.more; turns++ {
		before := c.lastPeer
		if ferr := c.parse(); ferr != nil {
			t.Fatal(ferr)
		}
		if got := (c.lastPeer - before) / 2; got > maxTurn {
			t.Fatalf("%d streams in one turn, want at most %d", got, maxTurn)
		}
		c.batch.Flush()
	}
	if c.lastPeer != 2*n-1 {
		t.Fatalf("the last stream is %d, want %d", c.lastPeer, 2*n-1)
	}
	if turns < n/maxTurn {
		t.Errorf("%d turns, want at least %d", turns, n/maxTurn)
	}
	const rst = frame.HeaderLen + 4
	if most := maxTurn*rst + 128; w.longest > most {
		t.Errorf("%d octets were written at once, want at most %d", w.longest, most)
	}
	if w.octets < (n-1)*rst {
		t.Errorf("%d octets were written, want %d for the refusals alone", w.octets, (n-1)*rst)
	}
}

// A stream above the limit costs no allocation.
func TestRefusingAllocatesNothing(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector has sync.Pool lose what it holds")
	}
	const n = 100
	c := New(&nowhere{}, Config{MaxConcurrentStreams: 1, Patience: 1 << 30}, newOwner())
	c.gotSettings = true
	feed := func(p []byte) {
		c.in.attach()
		c.in.w = copy(c.in.data, p)
		if ferr := c.parse(); ferr != nil {
			t.Fatal(ferr)
		}
		c.batch.Flush()
	}
	first, rest := tooMany(n)
	feed(first)
	again := func() {
		c.lastPeer = 1 // so that the same octets do again: from the second on the blocks come from the table alone
		feed(rest)
	}
	for range 10 {
		again()
	}
	if got := testing.AllocsPerRun(100, again); got > 0 {
		t.Errorf("%v allocations for %d refused streams, want none", got, n-1)
	}
}

// Input that takes many turns is worked through whole, though nothing follows that would wake the connection.
func TestManyTurns(t *testing.T) {
	const n = 4000
	a, b := memnet.Pipe(64 << 10)
	c := New(b, Config{MaxConcurrentStreams: 1, Patience: 1 << 20}, newOwner())
	done := make(chan error, 1)
	go func() { done <- c.Serve() }() // ends when a is closed
	first, rest := tooMany(n)
	out := frame.AppendSettings([]byte(frame.ClientPreface))
	out = append(append(out, first...), rest...)
	sent := make(chan error, 1)
	go func() { // ends when all is written or a is closed
		_, err := a.Write(out)
		sent <- err
	}()
	a.SetReadDeadline(time.Now().Add(20 * time.Second)) //nolint:errcheck // a test that hangs has its own end
	if got := countRefused(t, a, n-1); got != n-1 {
		t.Errorf("%d streams were refused, want %d", got, n-1)
	}
	if err := <-sent; err != nil {
		t.Error(err)
	}
	a.Close()
	if err := <-done; err != io.EOF {
		t.Errorf("the connection ended with %v, want EOF", err)
	}
}

// countRefused reads until so many RST_STREAM frames with REFUSED_STREAM came.
func countRefused(t *testing.T, nc net.Conn, want int) (n int) {
	t.Helper()
	head, payload := make([]byte, frame.HeaderLen), make([]byte, frame.MinMaxFrameSize)
	for n < want {
		if _, err := io.ReadFull(nc, head); err != nil {
			t.Errorf("after %d: %v", n, err)
			return n
		}
		h := frame.ParseHeader(head)
		p := payload[:h.Length]
		if _, err := io.ReadFull(nc, p); err != nil {
			t.Errorf("after %d: %v", n, err)
			return n
		}
		if h.Type == frame.TypeRSTStream && frame.RST(p) == frame.RefusedStream {
			n++
		}
	}
	return n
}
