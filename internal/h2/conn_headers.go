// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package h2

import (
	"errors"

	"github.com/manifold-grpc/manifold/internal/h2/frame"
	"github.com/manifold-grpc/manifold/internal/h2/hpack"
)

// headerBlock is a header block on its way in over several frames.
type headerBlock struct {
	id     uint32
	end    bool // END_STREAM
	self   *frame.Error
	data   []byte
	frames int
}

// maxContinuations bounds the frames of one block: more only serve an attack
// (CVE-2024-27316 and its family).
const maxContinuations = 32

func (c *Conn) onHeaders(h frame.Header, p []byte) *frame.Error {
	if h.Flags&^frame.FlagEndStream == frame.FlagEndHeaders {
		return c.onBlock(h.StreamID, h.Flags.Has(frame.FlagEndStream), p, nil) // as most are: all of p is the block
	}
	fragment, _, _, ferr := frame.HeadersFragment(h, p)
	if ferr != nil && ferr.Connection() {
		return ferr
	}
	// A stream error must wait: the block has to be decoded first.
	if h.Flags.Has(frame.FlagEndHeaders) {
		return c.onBlock(h.StreamID, h.Flags.Has(frame.FlagEndStream), fragment, ferr)
	}
	c.block = &headerBlock{id: h.StreamID, end: h.Flags.Has(frame.FlagEndStream), self: ferr, data: append([]byte(nil), fragment...)}
	if len(fragment) == 0 {
		return c.glitch("empty_headers")
	}
	return nil
}

func (c *Conn) onContinuation(h frame.Header, p []byte) *frame.Error {
	b := c.block
	b.frames++
	b.data = append(b.data, p...)
	if b.frames > maxContinuations || len(b.data) > 2*int(c.cfg.MaxHeaderBytes) {
		return &frame.Error{Code: frame.EnhanceYourCalm, Reason: "continuation_flood",
			Detail: "header block goes over twice the limit of header lists"}
	}
	if !h.Flags.Has(frame.FlagEndHeaders) {
		if len(p) == 0 {
			return c.glitch("empty_continuation")
		}
		return nil
	}
	c.block = nil
	c.partial.Store(0)
	return c.onBlock(b.id, b.end, b.data, b.self)
}

// onBlock decodes a complete header block; self is an error of its frame that ends
// the stream only. Every block is decoded, also of dead streams: the table must keep step.
func (c *Conn) onBlock(id uint32, end bool, block []byte, self *frame.Error) *frame.Error {
	head := Head{EndStream: end}
	if list := c.dec.Known(block); list != nil {
		head.Fields, head.Known = list.Fields, known(list)
	} else if ferr := c.decode(&head, block); ferr != nil {
		return ferr
	}
	if !c.cfg.Client && id&1 == 1 && id > c.lastPeer {
		return c.openPeer(id, head, self)
	}
	return c.takeBlock(id, head, self)
}

// decode decodes a header block that is not known.
func (c *Conn) decode(head *Head, block []byte) *frame.Error {
	if c.fields == nil {
		c.fields = fieldPool.Get().(*[maxPooledFields]hpack.Field)
	}
	fields, list, err := c.dec.DecodeList(c.fields[:0], block)
	head.Fields, head.Known = fields, known(list)
	if err != nil {
		var tooLarge *hpack.ListError
		if !errors.As(err, &tooLarge) {
			return compressionError(err)
		}
		head.TooLarge = err
		c.oweTooLarge(len(block))
	}
	return nil
}

// takeBlock handles a header block for a stream that was opened before: a response or trailers.
func (c *Conn) takeBlock(id uint32, head Head, self *frame.Error) *frame.Error {
	c.mu.Lock()
	c.keepalive.heard = true
	s := c.streams.get(id)
	if s == nil || s.recvEnded {
		ferr := c.strayBlock(id)
		c.forgive()
		c.mu.Unlock()
		if ferr == nil {
			ferr = c.glitch("headers_of_closed_stream")
		}
		return ferr
	}
	first, interim, ferr := c.cfg.Client && !s.gotHeaders, false, self
	switch {
	case ferr != nil:
	case first:
		interim, ferr = s.takeResponse(head)
	default:
		ferr = s.takeTrailers(head)
	}
	var late *frame.Error
	switch {
	case ferr != nil:
	case head.EndStream:
		c.endRecv(&c.batch, s)
		head.Over = s.removed
	case first && !interim:
		head.Joined, late = c.join(s)
	}
	c.mu.Unlock()
	if ferr != nil {
		return ferr
	}
	if first && !interim {
		c.earn(2)
	}
	c.events.Headers(s, &c.batch, head)
	if head.Joined != nil {
		c.tellJoined(s, head.Joined)
	}
	if interim {
		return c.glitch("interim_response")
	}
	return late
}

// compressionError returns the connection error for a block that cannot be decoded (RFC 9113 section 4.3).
func compressionError(err error) *frame.Error {
	ferr := &frame.Error{Code: frame.CompressionError, Reason: "hpack", Detail: err.Error()}
	var derr *hpack.DecodeError
	if errors.As(err, &derr) {
		ferr.Reason = derr.Reason
	}
	return ferr
}

// strayBlock judges a header block for a stream that takes none. mu is held.
func (c *Conn) strayBlock(id uint32) *frame.Error {
	if !c.cfg.Client && id&1 == 0 {
		// Section 5.1.1: clients use odd identifiers.
		return &frame.Error{Code: frame.ProtocolError, Reason: "even_stream_id", Detail: "HEADERS frame of a client on an even stream"}
	}
	if ferr := c.stray(frame.Header{Type: frame.TypeHeaders, StreamID: id}); ferr != nil {
		if c.streams.get(id) == nil && !ferr.Connection() {
			// Section 5.1.1: "An endpoint that receives an unexpected stream identifier MUST
			// respond with a connection error ... of type PROTOCOL_ERROR."
			ferr.StreamID, ferr.Code, ferr.Reason = 0, frame.ProtocolError, "stream_id_reused"
		}
		return ferr
	}
	return nil
}

// maxBacklog is how much may wait for a socket that takes nothing when the peer opens another
// stream. DATA stops at the high-water mark; answers of header blocks alone do not.
const maxBacklog = 2 << 20

// openPeer opens the peer's stream id. What can be decided before is, so that the lock is taken once.
func (c *Conn) openPeer(id uint32, head Head, ferr *frame.Error) *frame.Error {
	var length int64
	if ferr == nil {
		length, ferr = requestContent(head, id)
	}
	s, suspect := c.spare, c.suspect()
	if s == nil && ferr == nil && !suspect {
		s = c.events.NewStream(c)
	}
	c.spare = nil
	c.mu.Lock()
	c.lastPeer = id
	c.keepalive.heard = true
	switch {
	case c.drain.final:
		// Section 6.8: frames on streams above the GOAWAY's last identifier are ignored.
		c.spare = s
		c.mu.Unlock()
		return c.glitch("stream_after_goaway")
	case c.writing && len(c.out) > maxBacklog:
		c.mu.Unlock()
		return &frame.Error{Code: frame.EnhanceYourCalm, Reason: "control_flood",
			Detail: "new streams, while the answers to earlier ones wait to be read"}
	case ferr != nil:
		c.spare = s
		c.opening = true // until it is reset
		c.mu.Unlock()
		return ferr
	case s == nil || suspect || c.active >= int(c.cfg.MaxConcurrentStreams):
		c.spare = s
		return c.refuse(id, suspect) // unlocks
	}
	c.register(s, id)
	s.gotHeaders, s.bodyLeft = true, length
	s.recvEnded = head.EndStream
	c.abuse.pingStrikes = 0
	if !head.EndStream {
		head.Joined, ferr = c.join(s)
	}
	c.mu.Unlock()
	c.earn(2)
	c.abuse.opened++
	c.events.Headers(s, &c.batch, head)
	if head.Joined != nil {
		c.tellJoined(s, head.Joined)
	}
	return ferr
}

// requestContent checks a request and returns the length of the content that it promises, or -1.
func requestContent(head Head, id uint32) (int64, *frame.Error) {
	if head.Known.is(knownRequest) {
		return head.Known.length, head.checkLength(head.Known.length, id)
	}
	if head.TooLarge == nil {
		if ferr := checkRequest(head.Fields, id); ferr != nil {
			return 0, ferr
		}
	}
	n, ferr := contentOf(head, id)
	if ferr == nil {
		head.Known.found(knownRequest, n)
	}
	return n, ferr
}

// refuse answers one stream too many (section 5.1.2). That of a suspect counts as one more that was reset.
// mu is held, and released.
func (c *Conn) refuse(id uint32, suspect bool) *frame.Error {
	c.noteReset(id)
	c.put(frame.AppendRST(c.buffer(), id, frame.RefusedStream))
	c.control++
	c.batch.touch(c)
	c.mu.Unlock()
	c.oweRefused()
	if ferr := c.glitch("refused_stream"); ferr != nil {
		return ferr
	}
	if suspect {
		if ferr := c.countReset(true, "a stream refused for that"); ferr != nil {
			return ferr
		}
	}
	return c.settleControl()
}

// takeResponse holds the header block that opens a response, or an interim one, against the rules.
func (s *Stream) takeResponse(head Head) (interim bool, ferr *frame.Error) {
	if head.Known.is(knownResponse) && !s.toHead {
		if ferr := head.checkLength(head.Known.length, s.id); ferr != nil {
			return false, ferr
		}
		s.bodyLeft, s.gotHeaders = head.Known.length, true
		return false, nil
	}
	if head.TooLarge == nil {
		interim, ferr = checkResponse(head.Fields, s.id)
		if ferr == nil && interim && head.EndStream {
			ferr = malformed(s.id, "interim_end", "interim response with END_STREAM")
		}
		if ferr != nil || interim {
			return interim, ferr
		}
	}
	if !s.bodyless(head) {
		if s.bodyLeft, ferr = contentOf(head, s.id); ferr != nil {
			return false, ferr
		}
		head.Known.found(knownResponse, s.bodyLeft)
	}
	s.gotHeaders = true
	return false, nil
}

// bodyless reports whether content-length tells nothing of the octets that follow: in the answer to HEAD,
// and with status 304 (RFC 9113 section 8.1.1).
func (s *Stream) bodyless(head Head) bool {
	return s.toHead || head.TooLarge == nil && head.Fields[0].Value == "304"
}

// takeTrailers holds the header block that ends a message against the rules.
func (s *Stream) takeTrailers(head Head) *frame.Error {
	if !head.EndStream {
		// Section 8.1: the block after DATA has END_STREAM.
		return malformed(s.id, "trailers_without_end", "second header block without END_STREAM")
	}
	if head.TooLarge == nil && !head.Known.is(knownTrailers) {
		if ferr := checkTrailers(head.Fields, s.id); ferr != nil {
			return ferr
		}
		head.Known.found(knownTrailers, -1)
	}
	if s.bodyLeft > 0 {
		return lengthError(s.id)
	}
	return nil
}
