// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package h2

import (
	"fmt"
	"sync"
	"testing"

	"github.com/manifold-grpc/manifold/internal/h2/frame"
)

// A keeper is an owner that keeps account of every stream, and holds the
// connection to what Events promises.
type keeper struct {
	mu      sync.Mutex
	streams map[uint32]*keptStream // by identifier; those released are not in it
	faults  []string
	replied map[uint32]bool // the peer began a response
	got     pattern
	free    []*keptStream
}

var _ Events = (*keeper)(nil)

// keptStream is the owner's side of a stream.
type keptStream struct {
	Stream
	began     bool // a response was begun
	sendEnded bool
	failed    bool // reset by the owner: the peer need not get all
	owed      int  // octets queued, and not credited
	held      int  // octets that came, and were not granted again
	got       int
	gotEnd    bool // END_STREAM
	over      bool // End was told
	released  bool
}

func newKeeper() *keeper {
	return &keeper{streams: map[uint32]*keptStream{}, replied: map[uint32]bool{}, got: pattern{}}
}

func (k *keeper) fault(format string, args ...any) {
	k.faults = append(k.faults, fmt.Sprintf(format, args...))
}

// newStream returns memory, preferably of a stream that was released.
func (k *keeper) newStream() *Stream {
	k.mu.Lock()
	defer k.mu.Unlock()
	s := new(keptStream)
	if n := len(k.free); n > 0 {
		s = k.free[n-1]
		k.free = k.free[:n-1]
		*s = keptStream{}
	}
	s.Owner = s
	return &s.Stream
}

func (k *keeper) add(s *Stream) *keptStream {
	k.mu.Lock()
	defer k.mu.Unlock()
	own := s.Owner.(*keptStream)
	k.streams[s.ID()] = own
	return own
}

func (k *keeper) kept(id uint32) *keptStream {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.streams[id]
}

func (k *keeper) answer(id uint32)        { k.replied[id] = true }
func (k *keeper) answered(id uint32) bool { return k.replied[id] }

// event notes an event of s, and returns the owner's side with mu held.
func (k *keeper) event(s *Stream, what string) *keptStream {
	k.mu.Lock()
	own := s.Owner.(*keptStream)
	if own.released {
		k.fault("%s of stream %d after Released", what, s.ID())
	}
	if what != "credit" && (own.over || own.gotEnd && what != "end") {
		k.fault("%s of stream %d after its end", what, s.ID())
	}
	return own
}

func (k *keeper) NewStream(*Conn) *Stream { return k.newStream() }

func (k *keeper) Headers(s *Stream, _ *Batch, h Head) {
	if k.kept(s.ID()) == nil {
		k.add(s)
	}
	own := k.event(s, "headers")
	defer k.mu.Unlock()
	own.gotEnd = h.EndStream
}

func (k *keeper) Data(s *Stream, _ *Batch, p []byte, end bool) (passed int) {
	own := k.event(s, "data")
	defer k.mu.Unlock()
	if string(k.got.next(s.ID(), len(p))) != string(p) {
		k.fault("stream %d: octets that the peer did not send next", s.ID())
	}
	own.got += len(p)
	own.gotEnd = end
	if s.ID()%4 == 1 {
		own.held += len(p)
		return 0
	}
	return len(p)
}

var _ RunEvents = (*keeper)(nil)

func (*keeper) Turned() {}

func (k *keeper) Run(s *Stream, b *Batch, r Run) (passed int) { return eachFrame(k, s, b, r) }

func (k *keeper) End(s *Stream, _ *Batch, _ End) {
	own := k.event(s, "end")
	defer k.mu.Unlock()
	own.over, own.failed = true, true
}

func (k *keeper) Credit(s *Stream, _ *Batch, n int) {
	own := k.event(s, "credit")
	defer k.mu.Unlock()
	if own.owed -= n; own.owed < 0 {
		k.fault("stream %d: credit for more than was queued", s.ID())
	}
}

func (k *keeper) Released(s *Stream) {
	own := k.event(s, "credit")
	defer k.mu.Unlock()
	own.released = true
	delete(k.streams, s.ID())
	k.free = append(k.free, own)
}

func (k *keeper) Free(*Conn, *Batch)               {}
func (k *keeper) Ready(*Conn, *Batch)              {}
func (k *keeper) GoAway(*Conn, *Batch, frame.Code) {}

// check compares both sides of each stream.
func (k *keeper) check(t testing.TB, a *actions) {
	t.Helper()
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, f := range k.faults {
		t.Error(f)
	}
	k.faults = nil
	for id, s := range k.streams {
		ref := a.reader.streams[id]
		if ref == nil {
			continue // its header block was not read yet
		}
		if n := s.Queued(); n != s.owed {
			t.Errorf("stream %d: %d octets queued, %d not credited", id, n, s.owed)
		}
		if ref.ended && !s.failed && ref.got != a.sent[id] {
			t.Errorf("stream %d ended after %d octets, the owner sent %d", id, ref.got, a.sent[id])
		}
		if s.gotEnd && ref.peerEnded && !s.failed && s.got != a.writer.sent[id] {
			t.Errorf("stream %d: the owner got %d octets, the peer sent %d", id, s.got, a.writer.sent[id])
		}
	}
}

// checkEnded sees that every stream had its end, by a frame or by End.
func (k *keeper) checkEnded(t testing.TB) {
	t.Helper()
	k.mu.Lock()
	defer k.mu.Unlock()
	for id, s := range k.streams {
		if !s.gotEnd && !s.failed {
			t.Errorf("stream %d never had an end", id)
		}
		if s.owed != 0 {
			t.Errorf("stream %d: no credit for %d octets", id, s.owed)
		}
	}
}
