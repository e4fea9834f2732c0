// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package h2

import (
	"bytes"
	"errors"
	"io"
	"sync"
	"time"

	"github.com/manifold-grpc/manifold/internal/evloop"
	"github.com/manifold-grpc/manifold/internal/h2/frame"
	"github.com/manifold-grpc/manifold/internal/h2/hpack"
)

// lingerTime is how long a connection that we end is still read, and what it brings thrown
// away: closing it with unread input would reset it and lose our GOAWAY.
const lingerTime = 500 * time.Millisecond

// lingerPause is the longest pause between two reads meanwhile. The first is a hundredth of it, and they double: who closes is soon
// seen to, and who floods costs some ten reads, and comes again only after lingerTime.
const lingerPause = 100 * time.Millisecond

// Serve reads the connection until it ends, and tells the owner all that
// happens. It returns why it ended: io.EOF, a *[frame.Error] of the peer, an error of this package, or
// one of the socket. By then the socket is closed, every stream had its end,
// and no goroutine of the connection is left. Call it once.
func (c *Conn) Serve() error {
	var b Batch
	c.mu.Lock()
	b.touch(c)
	c.mu.Unlock()
	b.Flush()

	err := c.readAll()
	c.batch.now = time.Time{} // the last input may be long ago
	err = c.shut(err)
	c.endAll(err)
	c.linger(err)
	c.mu.Lock()
	c.broken = true
	c.late.stop()
	c.mu.Unlock()
	c.t.nc.Close() //nolint:errcheck // over either way
	c.writers.Wait()
	c.in.r = c.in.w
	c.in.release()
	c.mu.Lock()
	if c.served = true; c.ended != nil {
		close(c.ended)
	}
	c.mu.Unlock()
	return err
}

// readAll parses the input until it ends or breaks a rule.
func (c *Conn) readAll() error {
	if !c.cfg.Client {
		if err := c.readPreface(); err != nil {
			return err
		}
	}
	for {
		if ferr := c.parse(); ferr != nil {
			return ferr
		}
		c.batch.gather()
		c.endTurn()
		if c.yield(); c.more {
			continue
		}
		if shared, err := c.share(); err != nil {
			return err
		} else if shared {
			continue // with what is left in the buffer
		}
		if _, err := c.in.fill(); err != nil {
			return c.endOfInput(err)
		}
		if c.t.sock == nil || c.in.bulk {
			evloop.Elsewhere()
		}
		c.beginTurn(time.Now())
	}
}

// beginTurn notes that there is input, as of now.
func (c *Conn) beginTurn(now time.Time) {
	c.now, c.batch.now = now, now
	c.lastRead.Store(now.UnixNano())
}

// endTurn does what was left for when the input at hand is worked through.
func (c *Conn) endTurn() {
	c.batch.Flush()
	c.tellReleased()
	if c.runs != nil {
		c.runs.Turned()
	}
}

// tellReleased tells the owner which streams are gone for good. Between two
// batches no event of theirs is under way.
func (c *Conn) tellReleased() {
	c.mu.Lock()
	c.released, c.toTell = c.toTell[:0], c.released
	c.mu.Unlock()
	for i, s := range c.toTell {
		c.toTell[i] = nil
		c.events.Released(s)
	}
}

// endOfInput returns io.EOF only where the input ended between two frames.
func (c *Conn) endOfInput(err error) error {
	if errors.Is(err, io.EOF) && len(c.in.bytes()) > 0 {
		return io.ErrUnexpectedEOF
	}
	return err
}

// readPreface reads the client's connection preface (RFC 9113 section 3.4).
func (c *Conn) readPreface() error {
	for len(c.in.bytes()) < len(frame.ClientPreface) {
		got := c.in.bytes()
		if !bytes.HasPrefix([]byte(frame.ClientPreface), got) {
			return ErrNotHTTP2
		}
		if _, err := c.in.fill(); err != nil {
			return c.endOfInput(err)
		}
	}
	if string(c.in.bytes()[:len(frame.ClientPreface)]) != frame.ClientPreface {
		return ErrNotHTTP2
	}
	c.in.advance(len(frame.ClientPreface))
	c.now = time.Now()
	c.batch.now = c.now
	return nil
}

// parse works through the complete frames in the read buffer, as far as one turn goes.
func (c *Conn) parse() *frame.Error {
	begin := c.in.r
	c.work = 0
	incomplete := false // what is there of the next frame must not wait for its rest for long
	for c.more = false; ; {
		p := c.in.bytes()
		if len(p) < frame.HeaderLen {
			incomplete = len(p) > 0
			break
		}
		h := frame.ParseHeader(p)
		bad := h.Check(frame.MinMaxFrameSize)
		if bad != nil && bad.Connection() {
			return bad
		}
		n := frame.HeaderLen + int(h.Length)
		if len(p) < n {
			incomplete = h.Type == frame.TypeHeaders || h.Type == frame.TypeContinuation
			break
		}
		if h.Type == taken && c.taken > 0 {
			c.taken--
			c.in.advance(n)
			continue
		}
		c.ahead = n
		c.work += turnWork(h)
		if ferr := c.frame(h, p[frame.HeaderLen:n], bad); ferr != nil {
			if ferr.Connection() {
				return ferr
			}
			if ferr = c.streamError(ferr); ferr != nil {
				return ferr
			}
		}
		c.in.advance(c.ahead)
		if c.work >= maxTurn {
			c.more = len(c.in.bytes()) > 0
			break
		}
	}
	c.notePartial(incomplete, c.in.r > begin)
	c.in.release()
	c.forgetFields()
	c.forgetJoined()
	return nil
}

// maxTurn is the work that a connection's input may be in one turn: after it what it led to is written, the streams that
// are over are given back, and others run. A read buffer has room for 20,000 refused calls, whose memory
// would be in use at once; a hundred calls with a message each, and what comes with them, are one turn.
const maxTurn = 512

// joinedWork is what the frames count that are joined to another: at most two, short or known.
const joinedWork = 2

// turnWork is what a frame counts of a turn: one, and one more for each 64 octets of a header block.
func turnWork(h frame.Header) int {
	if h.Type == frame.TypeHeaders || h.Type == frame.TypeContinuation {
		return 1 + int(h.Length)/64
	}
	return 1
}

// notePartial keeps the time since which a header block, or a frame's first octets, are incomplete: a client
// that sends them octet by octet is cut off after the settings timeout (see overdue). Each CONTINUATION frame
// is no progress, or 32 of them would be worth as many timeouts.
func (c *Conn) notePartial(incomplete, progress bool) {
	since := c.partial.Load()
	switch {
	case !incomplete && c.block == nil:
		if since != 0 {
			c.partial.Store(0)
		}
	case since == 0 || progress && c.block == nil:
		c.partial.Store(c.now.UnixNano())
	}
}

// forgetFields lets go of the fields of the last header blocks: an idle connection holds none.
func (c *Conn) forgetFields() {
	if c.fields == nil {
		return
	}
	clear(c.fields[:])
	fieldPool.Put(c.fields)
	c.fields = nil
}

// maxPooledFields is the number of fields for which connections share memory; a block with more of them gets
// its own.
const maxPooledFields = 32

var fieldPool = sync.Pool{New: func() any { return new([maxPooledFields]hpack.Field) }}

// frame handles one frame. bad is what its header alone got wrong, and is told where a frame of
// its type may come at all.
func (c *Conn) frame(h frame.Header, p []byte, bad *frame.Error) *frame.Error {
	if ferr := c.sequence(h); ferr != nil {
		return ferr
	}
	if bad != nil {
		return bad
	}
	switch h.Type {
	case frame.TypeData:
		return c.onData(h, p)
	case frame.TypeHeaders:
		return c.onHeaders(h, p)
	case frame.TypeContinuation:
		return c.onContinuation(h, p)
	case frame.TypeWindowUpdate:
		return c.onWindowUpdate(h, p)
	case frame.TypeRSTStream:
		return c.onReset(h, p)
	case frame.TypeSettings:
		return c.onSettings(h, p)
	case frame.TypePing:
		return c.onPing(h, p)
	case frame.TypeGoAway:
		return c.onGoAway(p)
	case frame.TypePriority:
		return c.onPriority(h, p)
	case frame.TypePushPromise:
		// Section 8.4: a client cannot push; and we, as a client, said ENABLE_PUSH 0.
		return &frame.Error{Code: frame.ProtocolError, Reason: "push_promise", Detail: "PUSH_PROMISE frame, which no setting allows"}
	}
	// Section 4.1: "Implementations MUST ignore and discard frames of unknown types."
	return c.glitch("unknown_frame")
}

// sequence checks what may follow what.
func (c *Conn) sequence(h frame.Header) *frame.Error {
	if c.block != nil {
		// Section 6.10: "any other frame ... MUST be treated as a connection error of type PROTOCOL_ERROR."
		if h.Type != frame.TypeContinuation || h.StreamID != c.block.id {
			return &frame.Error{Code: frame.ProtocolError, Reason: "header_block_interrupted",
				Detail: h.Type.String() + " frame inside of a header block, expected CONTINUATION of the same stream"}
		}
		return nil
	}
	if h.Type == frame.TypeContinuation {
		return &frame.Error{Code: frame.ProtocolError, Reason: "continuation_without_headers", Detail: "CONTINUATION frame without an open header block"}
	}
	if !c.gotSettings && (h.Type != frame.TypeSettings || h.Flags.Has(frame.FlagAck)) {
		// Section 3.4: the preface ends with a SETTINGS frame.
		return &frame.Error{Code: frame.ProtocolError, Reason: "no_settings", Detail: "first frame is " + h.Type.String() + ", expected SETTINGS"}
	}
	return nil
}

// streamError resets the stream that broke a rule; it may be the one too many.
func (c *Conn) streamError(ferr *frame.Error) *frame.Error {
	c.mu.Lock()
	c.opening = false
	s := c.streams.get(ferr.StreamID)
	premature := s != nil && !s.answered
	switch {
	case s != nil:
		c.resetLocked(&c.batch, s, ferr.Code)
	case c.idle(ferr.StreamID):
		// Section 6.4: "RST_STREAM frames MUST NOT be sent for a stream in the "idle" state."
		c.mu.Unlock()
		return &frame.Error{Code: ferr.Code, Reason: ferr.Reason, Detail: ferr.Detail}
	case c.resets.has(ferr.StreamID):
		// Section 5.4.2: "an endpoint SHOULD NOT send more than one RST_STREAM frame for any stream".
		c.mu.Unlock()
		return c.glitch("errors_on_reset_stream")
	default:
		c.noteReset(ferr.StreamID)
		c.put(frame.AppendRST(c.buffer(), ferr.StreamID, ferr.Code))
		c.control++
		c.batch.touch(c)
	}
	c.mu.Unlock()
	if s != nil {
		c.events.End(s, &c.batch, End{Code: ferr.Code, Err: ferr})
	}
	if over := c.countReset(premature || s == nil, ferr.Reason); over != nil {
		return over
	}
	return c.settleControl()
}

// shut notes why the connection ends, and tells the peer where it broke a rule. It returns the first reason.
func (c *Conn) shut(err error) error {
	var b Batch
	c.mu.Lock()
	if c.err != nil {
		err = c.err
	}
	c.err = err
	c.gone = true
	var ferr *frame.Error
	if errors.As(err, &ferr) && !c.closed {
		c.put(frame.AppendGoAway(c.buffer(), c.lastTaken(), ferr.Code, []byte(ferr.Reason)))
	}
	c.mu.Unlock()
	c.batch.Flush()
	c.flush(&b) // whoever else was to flush: now
	b.Flush()
	return err
}

// endAll tells the owner that every stream left is over.
func (c *Conn) endAll(err error) {
	c.mu.Lock()
	c.closed = true
	left := c.removeAbove(0)
	sent := c.flushed
	if c.writing {
		// A write is under way: all of it may have left already.
		sent = c.appended - int64(len(c.out))
	}
	c.mu.Unlock()
	for _, s := range left {
		c.events.End(s, &c.batch, End{Code: frame.InternalError, Unprocessed: s.mark >= sent, Err: err})
	}
	c.batch.Flush()
}

// linger lets our last words reach the peer.
func (c *Conn) linger(err error) {
	var ferr *frame.Error
	if !errors.As(err, &ferr) && !errors.Is(err, errDrained) {
		return
	}
	end := time.Now().Add(lingerTime)
	c.t.nc.SetDeadline(end) //nolint:errcheck // at worst the peer misses the reason
	c.writers.Wait()
	c.t.closeWrite()
	for pause := lingerPause / 100; ; pause = min(2*pause, lingerPause) {
		c.in.attach()
		n, err := c.t.nc.Read(c.in.data)
		c.in.r = c.in.w
		c.in.release()
		left := time.Until(end)
		if err != nil || n == 0 || left <= 0 {
			return
		}
		time.Sleep(min(pause, left))
	}
}
