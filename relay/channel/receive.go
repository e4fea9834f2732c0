// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package channel

import (
	"io"
	"slices"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"

	"github.com/manifold-grpc/manifold/internal/h2"
	"github.com/manifold-grpc/manifold/internal/h2/frame"
)

// grantAt is how many octets are granted to the upstream at a time: less than half of any window, so that it
// never waits for those that are not granted yet.
const grantAt = 16 << 10

// Headers takes a header block of the response.
func (s *stream) Headers(b *h2.Batch, head h2.Head) {
	switch {
	case head.TooLarge != nil:
		s.conclude(b, status.New(codes.Internal, "peer header list size exceeded limit: "+head.TooLarge.Error()), frame.FrameSizeError)
	case s.foreign != nil:
		s.conclude(b, s.foreign.status(), frame.ProtocolError)
	case head.EndStream:
		s.trailers(b, head)
	default:
		s.responseHeader(b, head)
	}
}

// responseHeader takes the header block that opens a response.
func (s *stream) responseHeader(b *h2.Batch, head h2.Head) {
	if interim(head.Fields) {
		return // has no place in gRPC
	}
	if !isGRPC(head.Fields) {
		s.foreign = newForeign(head.Fields)
		return
	}
	if st := malformed(head.Fields); st != nil {
		s.conclude(b, st, frame.ProtocolError)
		return
	}
	s.headed = true
	s.header = head.Fields
	if head.Known == nil {
		s.header = slices.Clone(head.Fields)
	}
	s.dropKept()
	s.notify(b)
}

// trailers takes the header block that ends a response.
func (s *stream) trailers(b *h2.Batch, head h2.Head) {
	if !s.headed && !isGRPC(head.Fields) {
		s.conclude(b, newForeign(head.Fields).bare(), frame.ProtocolError)
		return
	}
	if st := malformed(head.Fields); st != nil {
		s.conclude(b, st, frame.ProtocolError)
		return
	}
	s.trailer = head.Fields
	if head.Known == nil {
		s.trailer = slices.Clone(head.Fields)
	}
	st := statusOf(head.Fields)
	if s.in.partial() {
		st = status.New(codes.Internal, io.ErrUnexpectedEOF.Error())
	}
	s.conclude(b, st, frame.NoError)
}

// Data takes octets of the response.
func (s *stream) Data(b *h2.Batch, p []byte, end bool) (passed int) {
	n := len(p)
	switch {
	case s.foreign != nil:
		if s.foreign.add(p) || end {
			s.conclude(b, s.foreign.status(), frame.ProtocolError)
		}
		return n
	case !s.headed:
		s.conclude(b, status.New(codes.Internal, "DATA frame before the header block"), frame.ProtocolError)
		return n
	}
	wanted := s.in.wanted
	if st := s.in.feed(p, s.info.maxRecv); st != nil {
		s.conclude(b, st, frame.Cancel)
		return n
	}
	if end {
		st := status.New(codes.Internal, "server closed the stream without sending trailers")
		if s.in.partial() {
			st = status.New(codes.Internal, io.ErrUnexpectedEOF.Error())
		}
		s.conclude(b, st, frame.NoError)
		return n
	}
	if s.waits != 0 {
		s.notify(b)
	}
	if wanted {
		return n
	}
	s.in.held += n
	return 0
}

// Lost takes the early end of the stream.
func (s *stream) Lost(b *h2.Batch, e h2.End) {
	s.conclude(b, statusOfEnd(s.ctx, e), frame.Cancel)
}

// receive receives one message into m.
func (s *stream) receive(m any) error {
	in, err := s.next()
	if err != nil {
		return err
	}
	data := in.data
	defer func() { data.Free() }()
	switch {
	case in.flag == 0:
	case in.flag == 1:
		if data, err = s.decompress(data); err != nil {
			return err
		}
	default:
		return status.Errorf(codes.Internal, "grpc: received unexpected payload format %d", in.flag)
	}
	if err := s.info.codec.Unmarshal(data, m); err != nil {
		return status.Errorf(codes.Internal, "grpc: failed to unmarshal the received message: %v", err)
	}
	s.gotMessage = true
	return nil
}

// next waits for a message: for the end too, where it is to be the only one.
func (s *stream) next() (inMessage, error) {
	var b h2.Batch
	s.origin.Lock()
	for !s.over && !(s.in.any() && (s.serverStreams || s.in.more())) {
		switch {
		case s.want(&b):
		case s.serverStreams:
			s.await(waitsMessage)
		default:
			s.await(waitsEnd)
		}
	}
	s.in.wanted = false
	s.streak = 0
	if !s.in.any() {
		defer s.origin.Unlock()
		err := s.endError()
		if err == io.EOF && !s.serverStreams && !s.gotMessage {
			err = status.Error(codes.Internal, "cardinality violation: received no response message from non-server-streaming RPC")
		}
		return inMessage{}, err
	}
	m := s.in.pop()
	n := min(m.data.Len()+prefixLen, s.in.held)
	s.in.held -= n
	s.in.owed += n
	if s.in.owed >= grantAt {
		s.grant(&b, 0)
	}
	s.origin.Unlock()
	b.Flush()
	return m, nil
}

// want has the upstream send on while a message is waited for, however large it is. The lock is held. If something is to be
// written it is released meanwhile, and want returns true: what is waited for may have come.
func (s *stream) want(b *h2.Batch) (released bool) {
	if s.in.any() {
		return false
	}
	s.in.wanted = true
	if s.in.held+s.in.owed < grantAt/4 {
		return false
	}
	s.grant(b, s.in.held)
	s.in.held = 0
	s.origin.Unlock()
	b.Flush()
	s.origin.Lock()
	return true
}

// grant lets the upstream send what is owed to it, and n octets more. The lock is held.
func (s *stream) grant(b *h2.Batch, n int) {
	s.origin.Consumed(b, s.in.owed+n)
	s.in.owed = 0
}

// decompress returns the decompressed message, and gives the other back.
func (s *stream) decompress(in mem.BufferSlice) (mem.BufferSlice, error) {
	name := find(s.header, "grpc-encoding")
	if name == "" || name == encoding.Identity {
		return in, status.Error(codes.Internal, "grpc: compressed flag set with identity or empty encoding")
	}
	c := encoding.GetCompressor(name)
	if c == nil {
		return in, status.Errorf(codes.Internal, "grpc: Decompressor is not installed for grpc-encoding %q", name)
	}
	defer in.Free()
	from := in.Reader()
	defer from.Close() //nolint:errcheck // always nil
	r, err := c.Decompress(from)
	if err != nil {
		return nil, status.Errorf(codes.Internal, "grpc: failed to decompress the message: %v", err)
	}
	if closer, ok := r.(io.Closer); ok {
		defer closer.Close() //nolint:errcheck // all of it was read, or its error is told
	}
	if limit := int64(s.info.maxRecv); limit < 1<<62 {
		r = io.LimitReader(r, limit+1) // one more, to see that it is too much
	}
	out, err := mem.ReadAll(r, mem.DefaultBufferPool())
	if err != nil {
		out.Free()
		return nil, status.Errorf(codes.Internal, "grpc: failed to read decompressed data: %v", err)
	}
	if out.Len() > s.info.maxRecv {
		out.Free()
		return nil, status.Errorf(codes.ResourceExhausted, "grpc: received message after decompression larger than max %d", s.info.maxRecv)
	}
	return out, nil
}
