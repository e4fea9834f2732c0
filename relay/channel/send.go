// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package channel

import (
	"encoding/binary"
	"io"
	"math"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"

	"github.com/manifold-grpc/manifold/internal/h2"
	"github.com/manifold-grpc/manifold/internal/h2/frame"
)

// prefixLen is the length of a message's prefix: a flag and the length of what follows.
const prefixLen = 5

// maxQueued is how many octets of a stream may wait for the upstream before SendMsg does. grpc-go has the same bound.
const maxQueued = 64 << 10

// A message is one message of the request, as it goes out.
type message struct {
	prefix [prefixLen]byte
	data   mem.BufferSlice // a reference of its own
}

func (m *message) len() int { return prefixLen + int(binary.BigEndian.Uint32(m.prefix[1:])) }

// SendMsg sends m. It waits while 64 KiB of the stream wait for the upstream. The error is io.EOF where the call is
// over, whose status RecvMsg returns, and else a status of this side's making, which ends the call.
func (s *stream) SendMsg(m any) error {
	err := s.sendMessage(m)
	switch {
	case err == io.EOF && !s.clientStreams:
		return nil // as grpc-go has it: RecvMsg tells
	case err != nil && err != io.EOF:
		s.finish(err, false)
	}
	return err
}

func (s *stream) sendMessage(m any) error {
	if s.sentLast {
		return status.Error(codes.Internal, "SendMsg called after CloseSend")
	}
	s.sentLast = !s.clientStreams
	out, err := s.encode(m)
	if err != nil {
		return err
	}
	var b h2.Batch
	s.origin.Lock()
	err = s.send(&b, out)
	s.streak++
	soon := s.clientStreams && s.streak > 1
	s.origin.Unlock()
	if soon {
		b.FlushSoon()
	} else {
		b.Flush()
	}
	return err
}

// encode makes a message of m.
func (s *stream) encode(m any) (out message, err error) {
	if _, ok := m.(*grpc.PreparedMsg); ok {
		return out, status.Error(codes.Internal, "channel: grpc.PreparedMsg is not supported")
	}
	if m != nil {
		if out.data, err = s.info.codec.Marshal(m); err != nil {
			return out, status.Errorf(codes.Internal, "grpc: error while marshaling: %v", err)
		}
	}
	n := out.data.Len()
	if uint64(n) > math.MaxUint32 {
		out.data.Free()
		return out, status.Errorf(codes.ResourceExhausted, "grpc: message too large (%d bytes)", n)
	}
	if s.info.compressor != nil && n > 0 {
		if err = s.compress(&out); err != nil {
			return out, err
		}
		n = out.data.Len()
	}
	if n > s.info.maxSend {
		out.data.Free()
		return out, status.Errorf(codes.ResourceExhausted, "trying to send message larger than max (%d vs. %d)", n, s.info.maxSend)
	}
	binary.BigEndian.PutUint32(out.prefix[1:], uint32(n))
	return out, nil
}

// compress replaces the message by its compressed form.
func (s *stream) compress(m *message) error {
	var out mem.BufferSlice
	in := m.data
	defer in.Free()
	z, err := s.info.compressor.Compress(mem.NewWriter(&out, mem.DefaultBufferPool()))
	for i := 0; err == nil && i < len(in); i++ {
		_, err = z.Write(in[i].ReadOnlyData())
	}
	if err == nil {
		err = z.Close()
	}
	if err != nil {
		out.Free()
		return status.Errorf(codes.Internal, "grpc: error while compressing: %v", err)
	}
	m.data, m.prefix[0] = out, 1
	return nil
}

// send sends m, which it owns, or has it wait for a stream. The lock is held, and released while it waits.
func (s *stream) send(b *h2.Batch, m message) error {
	for !s.over && (s.queued >= maxQueued || s.started && !s.origin.Open() && s.keptBytes >= maxKeep) {
		s.wait(b)
	}
	if s.over {
		m.data.Free()
		return io.EOF
	}
	if s.keptBytes+m.len() > s.info.keep && s.origin.Open() || m.len() > maxKeep {
		return s.sendLarge(b, m)
	}
	s.halfClosed = !s.clientStreams
	keep := !s.keptOver
	if keep {
		s.kept = append(s.kept, m) // and belongs to it from here on
		s.keptBytes += m.len()
	}
	switch {
	case !s.started:
		s.started = true
		s.origin.Connect(b)
	case s.origin.Open():
		s.put(b, &m, s.halfClosed)
	}
	if !keep {
		m.data.Free()
	}
	return nil
}

// sendLarge sends a message that is not to be kept: from here on the call is not tried again. It needs a stream, and waits
// whenever maxQueued octets wait for the upstream.
func (s *stream) sendLarge(b *h2.Batch, m message) error {
	defer m.data.Free()
	s.large = true
	s.connect(b)
	for !s.over && !s.origin.Open() {
		s.wait(b)
	}
	s.large = false
	s.halfClosed = !s.clientStreams
	s.dropKept()
	s.keptOver = true
	scratch := scratchPool.Get().(*[]byte)
	defer scratchPool.Put(scratch)
	r := reader{m: &m}
	for more := true; more && !s.over; {
		for !s.over && s.queued >= maxQueued {
			s.wait(b)
		}
		p := r.next((*scratch)[:0])
		more = r.left > 0 || r.at == 0
		if !s.over {
			s.give(b, p, s.halfClosed && !more)
		}
	}
	if s.over {
		return io.EOF
	}
	return nil
}

// connect opens the stream if nobody has begun to. The lock is held.
func (s *stream) connect(b *h2.Batch) {
	if !s.started && !s.over {
		s.started = true
		s.origin.Connect(b)
	}
}

// wait waits until the sender may go on. What is in b is written before. The lock is held, and released meanwhile.
func (s *stream) wait(b *h2.Batch) {
	s.origin.Unlock()
	b.Flush()
	s.origin.Lock()
	if !s.over && (s.queued >= maxQueued || !s.origin.Open()) {
		s.sendReady.Wait()
	}
}

// put sends a message that fits into the scratch buffer in one piece: prefix and payload share a frame.
func (s *stream) put(b *h2.Batch, m *message, end bool) {
	scratch := scratchPool.Get().(*[]byte)
	p := append((*scratch)[:0], m.prefix[:]...)
	for _, part := range m.data {
		p = append(p, part.ReadOnlyData()...)
	}
	s.give(b, p, end)
	scratchPool.Put(scratch)
}

// give hands octets to the stream, which copies them. The lock is held.
func (s *stream) give(b *h2.Batch, p []byte, end bool) {
	passed, err := s.origin.Send(b, p, end)
	if err != nil {
		s.conclude(b, status.New(codes.ResourceExhausted, "channel: "+err.Error()), frame.Cancel)
		return
	}
	s.queued += len(p) - passed
}

// scratchPool holds the buffers in which messages are put together.
var scratchPool = sync.Pool{New: func() any {
	p := make([]byte, 0, maxKeep+prefixLen)
	return &p
}}

// A reader reads a message piece by piece.
type reader struct {
	m    *message
	at   int // octets read
	part int
	off  int // in the part
	left int
}

// next appends as much as fits into dst.
func (r *reader) next(dst []byte) []byte {
	if r.at == 0 {
		dst = append(dst, r.m.prefix[:]...)
		r.at, r.left = prefixLen, r.m.len()-prefixLen
	}
	for r.part < len(r.m.data) && len(dst) < cap(dst) {
		p := r.m.data[r.part].ReadOnlyData()[r.off:]
		n := min(len(p), cap(dst)-len(dst))
		dst = append(dst, p[:n]...)
		r.off += n
		r.at += n
		r.left -= n
		if n == len(p) {
			r.part, r.off = r.part+1, 0
		}
	}
	return dst
}

// CloseSend ends the request. The error is always nil: RecvMsg tells how the call ends.
func (s *stream) CloseSend() error {
	if s.sentLast {
		return nil
	}
	s.sentLast = true
	var b h2.Batch
	s.origin.Lock()
	if !s.over {
		s.halfClosed = true
		if s.started && s.origin.Open() {
			s.give(&b, nil, true)
		}
		s.connect(&b)
	}
	s.origin.Unlock()
	b.Flush()
	return nil
}

// openSoon opens the stream of a call that waited for its request to do so, where a response is waited for.
func (s *stream) openSoon() {
	var b h2.Batch
	s.origin.Lock()
	begun := s.started
	s.connect(&b)
	s.origin.Unlock()
	if !begun {
		b.Flush()
	}
}

// openNow opens the stream and waits until that is done, or returns why it cannot be.
func (s *stream) openNow() error {
	var b h2.Batch
	s.origin.Lock()
	s.connect(&b)
	for !s.over && !s.opened {
		s.wait(&b)
	}
	defer b.FlushSoon()
	defer s.origin.Unlock()
	if !s.opened {
		return s.endError()
	}
	return nil // though it may be over by now, which RecvMsg tells
}

// restart has a call that was refused for want of an endpoint begin anew.
func (s *stream) restart() error {
	s.origin.Lock()
	defer s.origin.Unlock()
	if err := s.ctx.Err(); err != nil {
		return status.FromContextError(err).Err()
	}
	s.over, s.started, s.refused, s.status, s.keptOver = false, false, false, nil, false
	s.origin.Restart()
	return nil
}

// Opened sends what is kept of the request.
func (s *stream) Opened(b *h2.Batch) {
	s.queued = 0
	s.opened = true
	for i := range s.kept {
		if s.over {
			break
		}
		s.put(b, &s.kept[i], s.halfClosed && !s.large && i == len(s.kept)-1)
	}
	s.sendReady.Signal()
}

// Again reports whether all of the request is kept, and nothing came of the response.
func (s *stream) Again() bool { return !s.keptOver && !s.large && !s.headed && s.foreign == nil }

// dropKept gives back what is kept of the request.
func (s *stream) dropKept() {
	for i := range s.kept {
		s.kept[i].data.Free()
	}
	s.kept, s.keptBytes = nil, 0
	s.keptOver = true
}

// Credit tells that octets left that waited for the upstream's window.
func (s *stream) Credit(_ *h2.Batch, n int) {
	if s.queued -= n; s.queued < maxQueued {
		s.sendReady.Signal()
	}
}

// Refused tells that there is no endpoint for the call.
func (s *stream) Refused(b *h2.Batch, code codes.Code, msg string) {
	s.refused = code == codes.Unavailable && !s.headed && !s.keptOver
	s.conclude(b, status.New(code, msg), frame.Cancel)
}
