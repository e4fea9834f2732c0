// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package h2

import (
	"io"
	"net"
	"testing"
	"time"

	"github.com/manifold-grpc/manifold/internal/h2/flow"
	"github.com/manifold-grpc/manifold/internal/h2/frame"
	"github.com/manifold-grpc/manifold/internal/h2/hpack"
)

// These tests move frames by hand, as the goroutine in Serve would: what is
// counted is the work of a frame alone.

// A forwarder owns two connections: it hands on to streams of the one what
// comes on streams of the other.
type forwarder struct {
	owner
	to   map[*Stream]*Stream
	from map[*Stream]*Stream
}

func (f *forwarder) Data(s *Stream, b *Batch, p []byte, end bool) int {
	passed, err := f.to[s].Send(b, p, end)
	if err != nil {
		panic(err)
	}
	return passed
}

var _ RunEvents = (*forwarder)(nil)

func (*forwarder) Turned() {}

func (f *forwarder) Run(s *Stream, b *Batch, r Run) int {
	passed, err := f.to[s].SendRun(b, r)
	if err != nil {
		panic(err)
	}
	return passed
}

func (f *forwarder) Credit(s *Stream, b *Batch, n int) { f.from[s].Consumed(b, n) }

// nowhere is a socket that takes everything.
type nowhere struct{ net.Conn }

func (n *nowhere) TryWrite(p []byte) (int, error) { return len(p), nil }

func (n *nowhere) Close() error                    { return nil }
func (n *nowhere) Read([]byte) (int, error)        { return 0, io.EOF }
func (n *nowhere) SetReadDeadline(time.Time) error { return nil }

// A bench is a client's connection joined to a server's: DATA that is fed into
// the one leaves on the other.
type bench struct {
	f        *forwarder
	in, out  *Conn
	streams  []*Stream // of out
	input    []byte    // DATA frames, one for each stream
	feedback []byte    // WINDOW_UPDATE frames that pay for input
}

func newBench(tb testing.TB, streams, size int) *bench {
	x := &bench{f: &forwarder{owner: *newOwner(), to: map[*Stream]*Stream{}, from: map[*Stream]*Stream{}}}
	budget := flow.NewBudget(1 << 30)
	x.in = New(&nowhere{}, Config{MaxConcurrentStreams: uint32(streams), Budget: budget}, x.f)
	x.out = New(&nowhere{}, Config{Client: true, Budget: budget}, x.f)
	x.in.gotSettings, x.out.gotSettings = true, true
	x.out.peer.maxStreams = maxStreamID
	payload := make([]byte, size)
	for i := range streams {
		id := uint32(2*i + 1)
		var b Batch
		down, up := &Stream{}, &Stream{}
		x.in.mu.Lock()
		x.in.register(down, id)
		x.in.lastPeer = id
		x.in.mu.Unlock()
		down.gotHeaders = true
		if err := x.out.Open(&b, up, own(requestFields), false); err != nil {
			tb.Fatal(err)
		}
		x.f.to[down], x.f.from[up] = up, down
		x.streams = append(x.streams, up)
		x.input = append(x.input, rawFrame(frame.TypeData, 0, id, payload)...)
		x.feedback = frame.AppendWindowUpdate(x.feedback, id, uint32(size))
		b.Flush()
	}
	x.feedback = frame.AppendWindowUpdate(x.feedback, 0, uint32(streams*size))
	return x
}

// feed has c work through input as if the socket had brought it.
func (x *bench) feed(c *Conn, p []byte) {
	c.in.attach()
	c.in.w = copy(c.in.data, p)
	c.now = time.Now()
	if ferr := c.parse(); ferr != nil {
		panic(ferr)
	}
	c.batch.Flush()
}

// round forwards one frame of each stream, and has the receiver pay for them.
func (x *bench) round() {
	x.feed(x.in, x.input)
	x.feed(x.out, x.feedback)
}

// A DATA frame from one connection to another costs no allocation once buffers
// are there: parsed, checked, counted in four windows, appended and written.
func TestForwardingAllocatesNothing(t *testing.T) {
	for _, streams := range []int{1, 10} {
		x := newBench(t, streams, 1024)
		x.allocatesNothing(t)
	}
}

// The same where the receiver's windows are spent, so that each frame waits in its queue
// and leaves by the receiver's WINDOW_UPDATE.
func TestQueueingAllocatesNothing(t *testing.T) {
	for _, streams := range []int{1, 10} {
		x := newBench(t, streams, 1024)
		x.out.send.Take(frame.InitialWindow)
		for range 20 {
			x.feed(x.in, x.input)
		}
		if n := x.streams[0].Queued(); n != 20*1024 {
			t.Fatalf("%d octets wait in the queue, want all", n)
		}
		x.allocatesNothing(t)
	}
}

// stubborn is a socket that takes nothing at once, and everything from who waits.
type stubborn struct{ nowhere }

func (*stubborn) TryWrite([]byte) (int, error) { return 0, nil }

func (*stubborn) WriteSome(p []byte) (int, error) { return len(p), nil }

// The same where the rest of each write is left to a goroutine.
func TestDrainingAllocatesNothing(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector has sync.Pool lose what it holds")
	}
	x := newBench(t, 1, 1024)
	x.out.writers.Wait()
	x.out.t.init(&stubborn{}, false)
	round := func() {
		x.round()
		x.out.writers.Wait()
	}
	for range 100 {
		round()
	}
	if n := testing.AllocsPerRun(500, round); n > 0 {
		t.Errorf("%v allocations for a DATA frame that a goroutine writes, want 0", n)
	}
}

func (x *bench) allocatesNothing(t *testing.T) {
	t.Helper()
	if raceEnabled {
		t.Skip("the race detector has sync.Pool lose what it holds")
	}
	for range 100 {
		x.round()
	}
	if n := testing.AllocsPerRun(500, x.round); n > 0 {
		t.Errorf("%v allocations for %d DATA frames and the WINDOW_UPDATE frames for them, want 0", n, len(x.streams))
	}
}

func BenchmarkForward(b *testing.B) {
	for _, size := range []int{16, 1024, 16384} {
		b.Run(byteCount(size), func(b *testing.B) {
			x := newBench(b, min(10, readLen/(size+frame.HeaderLen)), size)
			b.ReportAllocs()
			b.SetBytes(int64(size * len(x.streams)))
			for b.Loop() {
				x.round()
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(x.streams)), "ns/frame")
		})
	}
}

func byteCount(n int) string {
	if n < 1024 {
		return string(rune('0'+n/10)) + string(rune('0'+n%10)) + "B"
	}
	return string(rune('0'+n/1024/10)) + string(rune('0'+n/1024%10)) + "KiB"
}

// Trailers that wait behind octets cost no allocation, and leave after them.
func TestWaitingTrailersAllocateNothing(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector has sync.Pool lose what it holds")
	}
	x := newBench(t, 1, 16)
	s := x.streams[0]
	trailers := []hpack.Field{{Name: "grpc-status", Value: "0"}}
	octets := make([]byte, 16)
	x.out.send.Take(frame.InitialWindow)
	grant := frame.AppendWindowUpdate(nil, 0, 16)
	var b Batch
	round := func() {
		s.sendEnded, s.endQueued = false, false
		if passed, err := s.Send(&b, octets, false); passed != 0 || err != nil {
			t.Fatal(passed, err)
		}
		s.SendHeaders(&b, trailers, true)
		b.Flush()
		if s.trailers == nil {
			t.Fatal("the trailers do not wait")
		}
		x.feed(x.out, grant)
		if s.trailers != nil || !s.sendEnded {
			t.Fatal("the trailers did not leave")
		}
		s.send.Add(s.id, 16) //nolint:errcheck // it was taken
	}
	for range 10 {
		round()
	}
	if n := testing.AllocsPerRun(100, round); n > 0 {
		t.Errorf("%v allocations, want 0", n)
	}
}

// A WINDOW_UPDATE that crossed the end of its stream costs no allocation: a large message leaves several.
func TestLateWindowUpdateAllocatesNothing(t *testing.T) {
	x := newBench(t, 1, 1024)
	x.in.mu.Lock()
	x.in.remove(&x.in.batch, x.in.streams.get(1))
	x.in.mu.Unlock()
	late := frame.AppendWindowUpdate(nil, 1, 1)
	if n := testing.AllocsPerRun(50, func() { x.feed(x.in, late) }); n > 0 && !raceEnabled {
		t.Errorf("%v allocations", n)
	}
}

// The same frames together.
func TestRunAllocatesNothing(t *testing.T) {
	x := newBench(t, 1, 1024)
	x.input = append(append(x.input, x.input...), x.input...)
	x.feedback = append(append(x.feedback, x.feedback...), x.feedback...)
	x.allocatesNothing(t)
}
