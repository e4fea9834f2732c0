// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package h2

import (
	"slices"
	"testing"
	"time"

	"github.com/manifold-grpc/manifold/internal/h2/frame"
	"github.com/manifold-grpc/manifold/internal/h2/hpack"
)

// A taker takes what is joined, and notes what it would have been told else.
type taker struct {
	*owner
	takes bool
	taken int
}

func (k *taker) Headers(s *Stream, b *Batch, h Head) {
	k.owner.Headers(s, b, h)
	j := h.Joined
	if j == nil || !k.takes {
		return
	}
	k.taken++
	j.Taken, j.Passed = true, k.owner.Data(s, b, j.Data, j.End)
	if j.Trailers.Known != nil {
		k.owner.Headers(s, b, j.Trailers)
	}
}

// A joinCase is the frames of one stream, as often as it takes for its header blocks to be known, and once more
// with another end.
type joinCase struct {
	name   string
	client bool
	joined bool // there is something to take
	frames func(e *hpack.Encoder, id uint32, last bool) [][]byte
}

var (
	joinedRequest  = hpack.NewList(own(requestFields))
	joinedResponse = hpack.NewList([]hpack.Field{{Name: ":status", Value: "200"}, {Name: "content-type", Value: "application/grpc"}})
	joinedSized    = hpack.NewList([]hpack.Field{{Name: ":status", Value: "200"}, {Name: "content-length", Value: "5"}})
	joinedTrailers = hpack.NewList([]hpack.Field{{Name: "grpc-status", Value: "0"}})
)

// message returns the frames of a message: a header block, DATA with these flags, and trailers unless they are nil.
func message(e *hpack.Encoder, id uint32, head *hpack.List, data []byte, f frame.Flags, trailers *hpack.List, end frame.Flags) [][]byte {
	out := [][]byte{
		rawFrame(frame.TypeHeaders, frame.FlagEndHeaders, id, e.AppendList(nil, head)),
		rawFrame(frame.TypeData, f, id, data),
	}
	if trailers != nil {
		out = append(out, rawFrame(frame.TypeHeaders, frame.FlagEndHeaders|end, id, e.AppendList(nil, trailers)))
	}
	return out
}

func joinCases() []joinCase {
	five, over := []byte("12345"), make([]byte, 1<<14)
	odd := func(last bool, usual, other frame.Flags) frame.Flags {
		if last {
			return other
		}
		return usual
	}
	response := func(name string, head *hpack.List, data []byte, other frame.Flags, end frame.Flags) joinCase {
		return joinCase{name, true, true, func(e *hpack.Encoder, id uint32, last bool) [][]byte {
			d := five
			if last {
				d = data
			}
			return message(e, id, head, d, odd(last, 0, other), joinedTrailers, odd(last, frame.FlagEndStream, end))
		}}
	}
	return []joinCase{
		response("response", joinedResponse, five, 0, frame.FlagEndStream),
		response("response without a message", joinedResponse, nil, 0, frame.FlagEndStream),
		response("trailers after the end", joinedResponse, five, frame.FlagEndStream, frame.FlagEndStream),
		response("trailers without an end", joinedResponse, five, 0, 0),
		response("as long as promised", joinedSized, five, 0, frame.FlagEndStream),
		response("shorter than promised", joinedSized, five[:3], 0, frame.FlagEndStream),
		response("longer than promised", joinedSized, over, 0, frame.FlagEndStream),
		response("padded", joinedResponse, []byte{2, 1, 0, 0}, frame.FlagPadded, frame.FlagEndStream),
		response("too much padding", joinedResponse, []byte{5, 1, 0, 0}, frame.FlagPadded, frame.FlagEndStream),
		{"over the window", true, true, func(e *hpack.Encoder, id uint32, last bool) [][]byte {
			out := message(e, id, joinedResponse, five, 0, nil, 0)
			for range 2 {
				out = append(out, rawFrame(frame.TypeData, 0, id, over))
			}
			return out
		}},
		{"request", false, true, func(e *hpack.Encoder, id uint32, last bool) [][]byte {
			return message(e, id, joinedRequest, five, frame.FlagEndStream, nil, 0)
		}},
		{"request with more to come", false, true, func(e *hpack.Encoder, id uint32, last bool) [][]byte {
			return append(message(e, id, joinedRequest, five, 0, nil, 0), rawFrame(frame.TypeData, frame.FlagEndStream, id, five))
		}},
		{"request that is reset", false, true, func(e *hpack.Encoder, id uint32, last bool) [][]byte {
			return append(message(e, id, joinedRequest, five, 0, nil, 0), rawFrame(frame.TypeRSTStream, 0, id, []byte{0, 0, 0, 8}))
		}},
	}
}

// What is joined means what the frames mean one by one, whether it is taken or not: the same events, the same answers
// on the wire, the same verdict about the connection.
func TestJoined(t *testing.T) {
	for _, tt := range joinCases() {
		t.Run(tt.name, func(t *testing.T) {
			apart := runJoined(t, tt, false, false)
			for _, takes := range []bool{false, true} {
				got := runJoined(t, tt, true, takes)
				if !slices.Equal(got.log, apart.log) {
					t.Errorf("taken %v: events are\n%q, one by one\n%q", takes, got.log, apart.log)
				}
				if string(got.out) != string(apart.out) {
					t.Errorf("taken %v: the answer is %x, one by one %x", takes, got.out, apart.out)
				}
				if takes && (got.taken > 0) != tt.joined {
					t.Errorf("%d messages were joined", got.taken)
				}
			}
		})
	}
}

// joinResult is what came of a case.
type joinResult struct {
	log   []string
	out   []byte
	taken int
}

// sink is a socket that keeps what is written.
type sink struct {
	nowhere
	out []byte
}

func (w *sink) TryWrite(p []byte) (int, error) {
	w.out = append(w.out, p...)
	return len(p), nil
}

// runJoined has a connection work through a case: all frames of a stream at once, or one by one.
func runJoined(t *testing.T, tt joinCase, together, takes bool) (r joinResult) {
	t.Helper()
	w := &sink{}
	k := &taker{owner: newOwner(), takes: takes}
	c := New(w, Config{Client: tt.client, StreamWindow: 1 << 13, MaxStreamWindow: 1 << 13}, k)
	c.gotSettings, c.peer.maxStreams = true, maxStreamID
	e := hpack.NewEncoder()
	var b Batch
	for i := range 12 {
		id := uint32(2*i + 1)
		if tt.client {
			if err := c.Open(&b, &Stream{Owner: k}, joinedRequest.Fields, true); err != nil {
				t.Fatal(err)
			}
			b.Flush()
		}
		frames := tt.frames(e, id, i == 11)
		if together {
			frames = [][]byte{slices.Concat(frames...)}
		}
		for _, f := range frames {
			c.in.attach()
			c.in.w += copy(c.in.data[c.in.w:], f)
			c.now = time.Now()
			if ferr := c.parse(); ferr != nil {
				k.note("connection error %s %s", ferr.Code, ferr.Reason)
				break
			}
			c.batch.Flush()
			c.tellReleased()
		}
	}
	return joinResult{k.take(), w.out, k.taken}
}
