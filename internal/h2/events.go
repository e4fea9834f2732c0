// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package h2

import (
	"errors"

	"github.com/manifold-grpc/manifold/internal/h2/frame"
	"github.com/manifold-grpc/manifold/internal/h2/hpack"
)

// Events is what a connection tells its owner. Except where noted, calls come
// from the goroutine in [Conn.Serve], one at a time, with no lock held; they
// must not block. A stream that the owner resets may still get the one event
// that was under way, with what was joined to a header block (see [Joined]) or the other frames of a [Run].
type Events interface {
	// NewStream returns the memory for a stream that the peer opens, with
	// Owner set, or nil to refuse it (REFUSED_STREAM). Server only.
	NewStream(c *Conn) *Stream

	// Headers tells of a header block of s: a request, a response (interim ones
	// included) or trailers.
	Headers(s *Stream, b *Batch, h Head)

	// Data tells of octets of s; p is valid during the call only. It returns how
	// many of them need no more memory: those are granted to the peer
	// again. The rest the owner grants with [Stream.Consumed].
	Data(s *Stream, b *Batch, p []byte, end bool) (passed int)

	// End tells that the stream is over before its regular end, in both
	// directions. No event of s follows but Credit.
	End(s *Stream, b *Batch, e End)

	// Credit tells that n octets which [Stream.Send] queued have left, or were
	// dropped. Any goroutine.
	Credit(s *Stream, b *Batch, n int)

	// Released tells that the connection has let go of s: its memory may be used
	// again. It comes after the last event of s, not at once, and not at all for a
	// stream that had octets queued or whose connection ended.
	Released(s *Stream)

	// Free tells that there may be room for a stream, after [Conn.NotifyFree]. Any goroutine.
	Free(c *Conn, b *Batch)

	// Ready tells that the peer's first SETTINGS arrived.
	Ready(c *Conn, b *Batch)

	// GoAway tells that the peer wants no new streams. Streams which it did
	// not process have had their End. Client only.
	GoAway(c *Conn, b *Batch, code frame.Code)
}

// Head is a header block.
type Head struct {
	// Fields is valid during the call; its strings may be kept. Pseudo-header
	// fields come first.
	Fields []hpack.Field

	// Known is not nil for a block that comes often: Fields is then Known.List.Fields.
	Known *Known

	// EndStream says that nothing follows in this direction.
	EndStream bool

	// Over says that with this block the stream has ended in both directions, regularly: nothing is to be sent
	// on it any more.
	Over bool

	// Joined is what came with a stream's first block, or nil: an owner may take it, see there.
	Joined *Joined

	// TooLarge is not nil where the block went over the limits: it names the limit, and Fields
	// holds what came before. The owner must answer, or reset the stream.
	TooLarge error
}

// Known is a header list that comes often on a connection.
type Known struct {
	List *hpack.List

	// Note is what the owner made of the list, for the next time. Only the calls of [Events] that come
	// from the goroutine in [Conn.Serve] may use it.
	Note any

	checked uint8 // what it was found to be: knownRequest and the like
	length  int64 // of the content that it promises; -1: none
}

// What a known list was found to be. One that breaks a rule is checked each time.
const (
	knownRequest = 1 << iota
	knownResponse
	knownTrailers
)

// known returns what is known of a list, or nil without one.
func known(l *hpack.List) *Known {
	if l == nil {
		return nil
	}
	k, ok := l.Note.(*Known)
	if !ok {
		k = &Known{List: l}
		l.Note = k
	}
	return k
}

// is reports whether the list is known to be that.
func (k *Known) is(what uint8) bool { return k != nil && k.checked&what != 0 }

// found notes that the list was checked.
func (k *Known) found(what uint8, length int64) {
	if k != nil {
		k.checked |= what
		k.length = length
	}
}

// End is why a stream is over before its regular end.
type End struct {
	// Code is the peer's RST_STREAM, or the nearest to what happened.
	Code frame.Code

	// Unprocessed says that the peer provably did not act on the stream (RFC
	// 9113 section 8.7): it may be tried again elsewhere.
	Unprocessed bool

	// Err is nil for a RST_STREAM of the peer, a *[frame.Error] where the peer
	// broke a rule, else what became of the connection.
	Err error
}

// Errors of connections and of [Conn.Open].
var (
	// ErrFull: the peer's SETTINGS_MAX_CONCURRENT_STREAMS is reached.
	ErrFull = errors.New("http2: no stream left on this connection")
	// ErrGone: the connection takes no new streams: closed, GOAWAY, or no identifier left.
	ErrGone = errors.New("http2: connection takes no new streams")
	// ErrBudget: the memory budget for slow receivers is spent.
	ErrBudget = errors.New("http2: memory budget for slow receivers is spent")
	// ErrGoAway: the peer's GOAWAY left the stream out.
	ErrGoAway = errors.New("http2: peer's GOAWAY left out the stream")
	// ErrKeepalive: the peer did not answer in time.
	ErrKeepalive = errors.New("http2: no answer to keepalive PING")
	// ErrStalled: the socket accepted nothing for the write timeout.
	ErrStalled = errors.New("http2: peer reads nothing")
	// ErrSettings: no preface and SETTINGS in time.
	ErrSettings = errors.New("http2: no preface and SETTINGS in time")
	// ErrPartial: a header block, or the first octets of a frame, were not completed in time.
	ErrPartial = errors.New("http2: header block not complete in time")
	// ErrAge: the connection's age and grace are over.
	ErrAge = errors.New("http2: connection reached its maximum age")
	// ErrClosed: closed by this end.
	ErrClosed = errors.New("http2: connection closed")
	// ErrNotHTTP2: the client did not start with the connection preface.
	ErrNotHTTP2 = errors.New("http2: no connection preface")
)
