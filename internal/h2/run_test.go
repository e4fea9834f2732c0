// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package h2

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/manifold-grpc/manifold/internal/h2/flow"
	"github.com/manifold-grpc/manifold/internal/h2/frame"
)

// A joiner hands on what comes on the streams of one connection to those of another, and notes what it is told.
type joiner struct {
	owner
	to      map[*Stream]*Stream
	longest int   // frames in one run
	resets  int   // after so many events the stream is reset
	budget  error // of the other connection
}

var _ RunEvents = (*joiner)(nil)

func (j *joiner) Turned() {}

func (j *joiner) Data(s *Stream, b *Batch, p []byte, end bool) int {
	j.count(s, b)
	passed, err := j.to[s].Send(b, p, end)
	j.budget = errors.Join(j.budget, err)
	return passed
}

func (j *joiner) Run(s *Stream, b *Batch, r Run) int {
	j.longest = max(j.longest, r.frames)
	j.count(s, b)
	passed, err := j.to[s].SendRun(b, r)
	j.budget = errors.Join(j.budget, err)
	return passed
}

func (j *joiner) count(s *Stream, b *Batch) {
	if j.resets--; j.resets == 0 {
		s.Reset(b, frame.Cancel)
	}
}

func (j *joiner) Credit(*Stream, *Batch, int) {}

// A runSetup is two connections that are joined.
type runSetup struct {
	peerWindow        uint32
	highWater, budget int
	promised          int64 // content-length; -1: none
	resets            int
}

// usualRun has room for everything.
var usualRun = runSetup{peerWindow: 1 << 20, highWater: 1 << 20, budget: 1 << 20, promised: -1}

// runResult is what came of frames.
type runResult struct {
	verdict   string
	back, out []byte // what the sender got, and the receiver
	longest   int
	waiting   int
	budget    error
}

// run has a connection work through frames of streams 1 and 3, and then the receiver grant more.
func (x runSetup) run(t *testing.T, frames [][]byte, together bool) (r runResult) {
	t.Helper()
	j := &joiner{owner: *newOwner(), to: map[*Stream]*Stream{}, resets: x.resets}
	back, out := &sink{}, &sink{}
	in := New(back, Config{MaxStreamWindow: frame.InitialWindow}, j)
	to := New(out, Config{Client: true, HighWater: x.highWater, Budget: flow.NewBudget(int64(x.budget))}, j)
	in.gotSettings, to.gotSettings, to.peer.maxStreams, to.peer.window = true, true, maxStreamID, x.peerWindow
	if to.send = flow.NewSendWindow(x.peerWindow); !together {
		in.runs = nil
	}
	var b Batch
	var sent []uint32
	for id := uint32(1); id <= 3; id += 2 {
		s := &Stream{}
		in.mu.Lock()
		in.register(s, id)
		in.lastPeer = id
		in.mu.Unlock()
		s.gotHeaders, s.bodyLeft = true, x.promised
		j.to[s] = &Stream{}
		to.nextID += 0x01020304 // other identifiers, so that they are seen to be changed
		if err := to.Open(&b, j.to[s], own(requestFields), false); err != nil {
			t.Fatal(err)
		}
		sent = append(sent, j.to[s].id)
	}
	b.Flush()
	r.verdict = feedAll(in, slices.Concat(frames...))
	r.waiting = int(to.cfg.Budget.Used())
	feedAll(to, frame.AppendWindowUpdate(nil, 0, 1<<20))
	for _, id := range sent {
		if to.streams.get(id) != nil {
			feedAll(to, frame.AppendWindowUpdate(nil, id, 1<<20))
		}
	}
	r.back, r.out, r.longest, r.budget = back.out, out.out, j.longest, j.budget
	return r
}

// feedAll has c work through input, and returns the error that ends it.
func feedAll(c *Conn, p []byte) string {
	c.now = time.Now()
	for len(p) > 0 || c.more {
		c.in.attach()
		c.in.compact()
		n := copy(c.in.data[c.in.w:], p)
		c.in.w, p = c.in.w+n, p[n:]
		ferr := c.parse()
		c.batch.Flush()
		if ferr != nil {
			return fmt.Sprintf("connection error %s %s", ferr.Code, ferr.Reason)
		}
	}
	return ""
}

func dataFrame(id uint32, f frame.Flags, n int) []byte {
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(i*7 + n)
	}
	return rawFrame(frame.TypeData, f, id, p)
}

// times returns n times the same frame.
func times(f []byte, n int) [][]byte { return slices.Repeat([][]byte{f}, n) }

// Frames that are passed on together mean what they mean one by one: the same octets leave on both connections, and the
// verdict is the same.
func TestRun(t *testing.T) {
	five := times(dataFrame(1, 0, 100), 5)
	with := func(other []byte) [][]byte { return slices.Concat(five, [][]byte{other}, five[:3]) }
	set := func(f func(x *runSetup)) runSetup { x := usualRun; f(&x); return x }
	tests := []struct {
		name    string
		setup   runSetup
		frames  [][]byte
		longest int
	}{
		{"one", usualRun, five[:1], 0},
		{"two", usualRun, five[:2], 2},
		{"five", usualRun, five, 5},
		{"long ones", usualRun, times(dataFrame(1, 0, 1<<14), 3), 3},
		{"the end", usualRun, with(dataFrame(1, frame.FlagEndStream, 100)), 5},
		{"empty", usualRun, with(dataFrame(1, 0, 0)), 5},
		{"padded", usualRun, with(rawFrame(frame.TypeData, frame.FlagPadded, 1, []byte{1, 'x', 0})), 5},
		{"flags without a meaning", usualRun, with(dataFrame(1, 0x40, 100)), 5},
		{"another stream", usualRun, with(dataFrame(3, 0, 100)), 8},
		{"another type", usualRun, with(rawFrame(frame.TypePing, 0, 0, make([]byte, 8))), 5},
		{"no stream", usualRun, with(dataFrame(5, 0, 100)), 8},
		{"too many of others", usualRun, slices.Concat(five[:2], times(dataFrame(3, 0, 1), maxReach+1), five[:3]), maxReach + 1},
		{"as many of others as are looked past", usualRun, slices.Concat(five[:2], times(dataFrame(3, 0, 1), maxReach), five[:3]), maxReach},
		{"what only looks as if it was taken", usualRun, with(rawFrame(taken, 0, 1, []byte("as"))), 5},
		{"the same among what was taken", usualRun, slices.Concat(five[:1], times(dataFrame(3, 0, 1), 2), five[:2], times(rawFrame(taken, 0, 3, nil), 3), five[:2]), 5},
		{"the same of its own stream among what was taken", usualRun, [][]byte{
			dataFrame(1, 0, 10), dataFrame(3, 0, 10), dataFrame(1, 0, 10), rawFrame(taken, 0, 3, []byte("injected")), dataFrame(3, 0, 10), dataFrame(1, 0, 10),
		}, 3},
		{"a stream's end among others", usualRun, slices.Concat(five[:1], times(dataFrame(3, 0, 1), 2), [][]byte{dataFrame(1, frame.FlagEndStream, 9)}, times(dataFrame(3, 0, 1), 2)), 2},
		{"a reset", usualRun, with(rawFrame(frame.TypeRSTStream, 0, 1, []byte{0, 0, 0, 8})), 5},
		{"two streams in turn", usualRun, slices.Repeat([][]byte{dataFrame(1, 0, 10), dataFrame(3, 0, 10)}, 3), 3},
		{"two of which one breaks its promise", set(func(x *runSetup) { x.promised = 25 }), slices.Repeat([][]byte{dataFrame(1, 0, 10), dataFrame(3, 0, 5)}, 3), 3},
		{"two of which the receiver has no window for one", set(func(x *runSetup) { x.peerWindow = 25 }), slices.Repeat([][]byte{dataFrame(1, 0, 10), dataFrame(3, 0, 5)}, 3), 3},
		{"more than promised", set(func(x *runSetup) { x.promised = 320 }), five, 3},
		{"as much as promised", set(func(x *runSetup) { x.promised = 500 }), five, 5},
		{"over the stream's window", set(func(x *runSetup) { x.peerWindow = 0 }), times(dataFrame(1, 0, 1<<14), 4), 3},
		{"the receiver has no window for it", set(func(x *runSetup) { x.peerWindow = 250 }), five, 5},
		{"the receiver has just that window", set(func(x *runSetup) { x.peerWindow = 500 }), five, 5},
		{"the receiver has one octet more", set(func(x *runSetup) { x.peerWindow = 501 }), five, 5},
		{"the receiver has none", set(func(x *runSetup) { x.peerWindow = 0 }), five, 5},
		{"over the high-water mark", set(func(x *runSetup) { x.highWater = 300 }), five, 5},
		{"over the budget", set(func(x *runSetup) { x.peerWindow, x.budget = 0, 250 }), five, 5},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, want := tt.setup.run(t, tt.frames, true), tt.setup.run(t, tt.frames, false)
			if got.longest != tt.longest || want.longest != 0 {
				t.Errorf("the longest run is of %d frames, want %d", got.longest, tt.longest)
			}
			compareRuns(t, got, want)
		})
	}
}

// A stream that its owner resets when it is told of a run: the peer is told so once, what the run took is passed on, and other streams go on.
func TestRunReset(t *testing.T) {
	x := usualRun
	x.resets = 1
	got := x.run(t, slices.Concat(times(dataFrame(1, 0, 100), 5), [][]byte{dataFrame(3, 0, 100)}, times(dataFrame(1, 0, 100), 3)), true)
	answer, credit := answers(got.back)
	if want := frame.AppendRST(nil, 1, frame.Cancel); !bytes.HasSuffix(answer, want) || bytes.Count(answer, want) != 1 || credit[1] != 0 {
		t.Errorf("the answer is %x, want %x at its end, once; %d octets are granted again", answer, want, credit[1])
	}
	octets := map[uint32]int{}
	for p := bytes.TrimPrefix(got.out, []byte(frame.ClientPreface)); len(p) > 0; {
		h := frame.ParseHeader(p)
		p = p[frame.HeaderLen+int(h.Length):]
		if h.Type == frame.TypeData {
			octets[h.StreamID] += int(h.Length)
		}
	}
	if n := slices.Sorted(maps.Values(octets)); got.verdict != "" || got.longest != 8 || !slices.Equal(n, []int{100, 800}) {
		t.Errorf("%q: %v octets leave on the streams, and the longest run is of %d frames; want 100, 800, and 8", got.verdict, n, got.longest)
	}
}

func compareRuns(t *testing.T, got, want runResult) {
	t.Helper()
	if got.verdict != want.verdict {
		t.Errorf("the verdict is %q, one by one %q", got.verdict, want.verdict)
	}
	out, wantOut := byStream(t, got.out), byStream(t, want.out)
	same := slices.Equal[[]byte]
	if got.verdict != "" {
		same = bytes.HasPrefix // what came behind what ended the connection may have been taken before
	}
	if !maps.EqualFunc(out, wantOut, same) {
		t.Error("what leaves on a stream differs from one by one")
	}
	answer, credit := answers(got.back)
	wantAnswer, wantCredit := answers(want.back)
	if !bytes.Equal(answer, wantAnswer) {
		t.Errorf("the answer is %x, one by one %x", answer, wantAnswer)
	}
	// A run is granted as a whole, and frames in portions of the window.
	for id, n := range wantCredit {
		if d := credit[id] - n; d < 0 || d > frame.InitialWindow/2 {
			t.Errorf("the peer was granted %d octets of stream %d, one by one %d", credit[id], id, n)
		}
	}
	if got.waiting != want.waiting || (got.budget == nil) != (want.budget == nil) {
		t.Errorf("%d octets wait, %v; one by one %d, %v", got.waiting, got.budget, want.waiting, want.budget)
	}
}

// byStream returns what each stream's frames are, apart from where those with DATA end. None may be longer than every receiver takes.
func byStream(t *testing.T, p []byte) map[uint32][]byte {
	t.Helper()
	p = bytes.TrimPrefix(p, []byte(frame.ClientPreface))
	streams, open := map[uint32][]byte{}, map[uint32]bool{}
	for len(p) > 0 {
		h := frame.ParseHeader(p)
		f := p[:frame.HeaderLen+int(h.Length)]
		p = p[len(f):]
		if h.Length > frame.MinMaxFrameSize {
			t.Errorf("a frame of %d octets", h.Length)
		}
		s := streams[h.StreamID]
		switch {
		case h.Type != frame.TypeData:
			s = append(s, f...)
		case !open[h.StreamID]:
			s = append(s, "DATA "...)
			fallthrough
		default:
			s = append(s, f[frame.HeaderLen:]...)
			if h.Flags != 0 {
				s = fmt.Append(s, " flags ", h.Flags)
			}
		}
		streams[h.StreamID], open[h.StreamID] = s, h.Type == frame.TypeData && h.Flags == 0
	}
	return streams
}

// answers returns the frames but for WINDOW_UPDATE, and what those grant by stream.
func answers(p []byte) (rest []byte, credit map[uint32]int) {
	credit = map[uint32]int{}
	for len(p) > 0 {
		h := frame.ParseHeader(p)
		n := frame.HeaderLen + int(h.Length)
		if h.Type == frame.TypeWindowUpdate {
			credit[h.StreamID] += int(frame.WindowUpdate(p[frame.HeaderLen:n]))
		} else {
			rest = append(rest, p[:n]...)
		}
		p = p[n:]
	}
	return rest, credit
}

// The same for any frames and windows.
func TestAnyRun(t *testing.T) {
	for seed := range uint64(2000) {
		r := rand.New(rand.NewPCG(seed, 1))
		x := usualRun
		x.peerWindow = r.Uint32N(40_000)
		x.highWater = 1 + r.IntN(20_000)
		if r.IntN(4) == 0 {
			x.promised = r.Int64N(20_000)
		}
		var frames [][]byte
		others := 1 + r.IntN(5) // of ten frames
		for range 1 + r.IntN(16) {
			id, f := uint32(1), frame.Flags(0)
			if r.IntN(10) < others {
				id = 3
			}
			if r.IntN(30) == 0 {
				f = frame.FlagEndStream
			}
			if r.IntN(20) == 0 { // as if it had been taken
				frames = append(frames, rawFrame(taken, f, id, make([]byte, r.IntN(20))))
				continue
			}
			frames = append(frames, dataFrame(id, f, r.IntN(1<<r.IntN(12))))
		}
		compareRuns(t, x.run(t, frames, true), x.run(t, frames, false))
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

// What leaves of a run is joined, and no frame longer than every receiver takes.
func TestRunIsJoined(t *testing.T) {
	for _, tt := range []struct{ frames, octets, leave int }{{5, 100, 1}, {16, 1 << 10, 1}, {17, 1 << 10, 2}, {3, 1 << 14, 3}, {3, 9 << 10, 2}} {
		interleaved := slices.Repeat([][]byte{dataFrame(1, 0, tt.octets), dataFrame(3, 0, tt.octets)}, tt.frames)
		got := usualRun.run(t, interleaved, true)
		count := 0
		for p := bytes.TrimPrefix(got.out, []byte(frame.ClientPreface)); len(p) > 0; {
			h := frame.ParseHeader(p)
			p = p[frame.HeaderLen+int(h.Length):]
			if h.Type == frame.TypeData {
				count++
			}
		}
		if count != 2*tt.leave {
			t.Errorf("%d frames of %d octets leave as %d on two streams, want %d each", tt.frames, tt.octets, count, tt.leave)
		}
	}
}

// A run is no longer than what is left of a turn.
func TestRunIsBounded(t *testing.T) {
	frames := times(dataFrame(1, 0, 1), 2*maxTurn)
	got := usualRun.run(t, frames, true)
	if got.longest != maxTurn {
		t.Errorf("the longest run is of %d frames, want %d", got.longest, maxTurn)
	}
}
