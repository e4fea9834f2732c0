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
	open   bool
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
	fragment, _, _, ferr := frame.HeadersFragment(h, p)
	if ferr != nil && ferr.Connection() {
		return ferr
	}
	// A stream error must wait: the block has to be decoded first.
	if h.Flags.Has(frame.FlagEndHeaders) {
		return c.onBlock(h.StreamID, h.Flags.Has(frame.FlagEndStream), fragment, ferr)
	}
	b := &c.block
	*b = headerBlock{open: true, id: h.StreamID, end: h.Flags.Has(frame.FlagEndStream), self: ferr, data: append(b.data[:0], fragment...)}
	if len(fragment) == 0 {
		return c.glitch("empty_headers")
	}
	return nil
}

func (c *Conn) onContinuation(h frame.Header, p []byte) *frame.Error {
	b := &c.block
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
	b.open = false
	c.partial.Store(0)
	data := b.data
	b.data = nil // long blocks are rare, and idle connections many
	return c.onBlock(b.id, b.end, data, b.self)
}

// onBlock decodes a complete header block; self is an error of its frame that ends
// the stream only. Every block is decoded, also of dead streams: the table must keep step.
func (c *Conn) onBlock(id uint32, end bool, block []byte, self *frame.Error) *frame.Error {
	fields, err := c.dec.Decode(c.fields[:0], block)
	c.fields = fields
	head := Head{Fields: fields, EndStream: end}
	if err != nil {
		var tooLarge *hpack.ListError
		if !errors.As(err, &tooLarge) {
			return compressionError(err)
		}
		head.TooLarge = err
	}
	c.mu.Lock()
	c.keepalive.heard = true
	s := c.streams[id]
	if s == nil && !c.cfg.Client && id&1 == 1 && id > c.lastPeer {
		return c.openPeer(id, head, self) // unlocks
	}
	var ferr *frame.Error
	if s == nil || s.recvEnded {
		ferr = c.strayBlock(id)
		c.mu.Unlock()
		if ferr == nil {
			ferr = c.glitch("headers_of_closed_stream")
		}
		return ferr
	}
	c.mu.Unlock()
	if self != nil {
		return self
	}
	if c.cfg.Client && !s.gotHeaders {
		return c.onResponse(s, head)
	}
	return c.onTrailers(s, head)
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
		if c.streams[id] == nil && !ferr.Connection() {
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

// openPeer opens the peer's stream id. mu is held, and released.
func (c *Conn) openPeer(id uint32, head Head, self *frame.Error) *frame.Error {
	c.lastPeer = id
	if c.drain.final {
		// Section 6.8: frames on streams above the GOAWAY's last identifier are ignored.
		c.mu.Unlock()
		return c.glitch("stream_after_goaway")
	}
	if c.writing && len(c.out) > maxBacklog {
		c.mu.Unlock()
		return &frame.Error{Code: frame.EnhanceYourCalm, Reason: "control_flood",
			Detail: "new streams, while the answers to earlier ones wait to be read"}
	}
	full, suspect := c.active >= int(c.cfg.MaxConcurrentStreams), c.suspect()
	c.opening = true // until it is registered, refused or reset
	c.mu.Unlock()
	if self != nil {
		return self
	}
	length, ferr := requestContent(head, id)
	if ferr != nil {
		return ferr
	}
	var s *Stream
	if !full && !suspect {
		s = c.events.NewStream(c)
	}
	if s == nil {
		return c.refuse(id, suspect)
	}
	c.welcome(s, id, head, length)
	return nil
}

// requestContent checks a request and returns the length of the content that it promises, or -1.
func requestContent(head Head, id uint32) (int64, *frame.Error) {
	if head.TooLarge == nil {
		if ferr := checkRequest(head.Fields, id); ferr != nil {
			return 0, ferr
		}
	}
	return contentOf(head, id)
}

// welcome puts a stream of the peer into the table and tells the owner of its request.
func (c *Conn) welcome(s *Stream, id uint32, head Head, length int64) {
	c.mu.Lock()
	c.register(s, id)
	c.opening = false
	if head.EndStream {
		s.recvEnded = true
	}
	c.abuse.pingStrikes = 0
	c.mu.Unlock()
	s.gotHeaders = true
	s.bodyLeft = length
	c.earn(2)
	c.abuse.opened++
	c.events.Headers(s, &c.batch, head)
}

// refuse answers one stream too many (section 5.1.2). That of a suspect counts as one more that was reset.
func (c *Conn) refuse(id uint32, suspect bool) *frame.Error {
	c.mu.Lock()
	c.opening = false
	c.resets.add(id)
	c.put(frame.AppendRST(c.buffer(), id, frame.RefusedStream))
	c.control++
	c.batch.touch(c)
	c.mu.Unlock()
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

// onResponse handles the header block that opens a response, or an interim one.
func (c *Conn) onResponse(s *Stream, head Head) *frame.Error {
	if head.TooLarge == nil {
		interim, ferr := checkResponse(head.Fields, s.id)
		if ferr == nil && interim && head.EndStream {
			ferr = malformed(s.id, "interim_end", "interim response with END_STREAM")
		}
		if ferr != nil {
			return ferr
		}
		if interim {
			c.events.Headers(s, &c.batch, head)
			return c.glitch("interim_response")
		}
	}
	if !s.bodyless(head) {
		var ferr *frame.Error
		if s.bodyLeft, ferr = contentOf(head, s.id); ferr != nil {
			return ferr
		}
	}
	s.gotHeaders = true
	c.earn(2)
	c.deliver(s, head)
	return nil
}

// bodyless reports whether content-length tells nothing of the octets that follow: in the answer to HEAD,
// and with status 304 (RFC 9113 section 8.1.1).
func (s *Stream) bodyless(head Head) bool {
	return s.toHead || head.TooLarge == nil && head.Fields[0].Value == "304"
}

// onTrailers handles the header block that ends a message.
func (c *Conn) onTrailers(s *Stream, head Head) *frame.Error {
	if !head.EndStream {
		// Section 8.1: the block after DATA has END_STREAM.
		return malformed(s.id, "trailers_without_end", "second header block without END_STREAM")
	}
	if head.TooLarge == nil {
		if ferr := checkTrailers(head.Fields, s.id); ferr != nil {
			return ferr
		}
	}
	if s.bodyLeft > 0 {
		return lengthError(s.id)
	}
	c.deliver(s, head)
	return nil
}

// deliver tells the owner of a checked block.
func (c *Conn) deliver(s *Stream, head Head) {
	if head.EndStream {
		c.mu.Lock()
		c.endRecv(&c.batch, s)
		c.mu.Unlock()
	}
	c.events.Headers(s, &c.batch, head)
}
