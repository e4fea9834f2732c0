// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package channel

import (
	"context"
	"io"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/manifold-grpc/manifold/internal/h2"
	"github.com/manifold-grpc/manifold/internal/h2/frame"
	"github.com/manifold-grpc/manifold/internal/h2/hpack"
	"github.com/manifold-grpc/manifold/relay"
)

// A stream is a call, and its grpc.ClientStream. What comes of it is told in the goroutine that reads the upstream's
// connection, or in whichever opens a connection; both only note it, and wake who waits.
type stream struct {
	// Immutable once begun.
	ctx                          context.Context //nolint:containedctx // as the interface has it
	stop                         func() bool     // of expire, at the end of ctx; nil: it never ends
	method, authority, userAgent string
	info                         callInfo
	fields                       []hpack.Field // of the metadata
	clientStreams, serverStreams bool

	// Owned by the goroutine that sends.
	sentLast bool

	// Owned by the goroutine that receives.
	gotMessage bool

	telling sync.Mutex // held while the options are filled in, and taken with no other

	origin relay.Origin // its lock guards what follows

	// Requests, see send.go.
	sendReady  sync.Cond
	started    bool
	opened     bool // there was a stream
	halfClosed bool
	large      bool      // a message that is not kept is about to be sent
	kept       []message // of the request, in case it is to be sent again, or there is no stream yet
	keptBytes  int
	keptOver   bool // not all of the request is kept
	queued     int  // octets that wait for the upstream's window
	streak     int  // messages sent since one was received

	// Responses, see receive.go.
	recvReady sync.Cond
	waits     waits // of those who wait and were not woken
	headed    bool  // the header block of the response came
	header    []hpack.Field
	trailer   []hpack.Field
	in        inbox

	// The end.
	over    bool           // nothing more comes; what came of messages may still be received
	status  *status.Status // nil: OK
	refused bool           // for want of an endpoint, of which there may be one later
	foreign *foreign       // what came is no gRPC
	done    bool           // finish was called
	end     context.CancelFunc
	own     context.Context //nolint:containedctx // of Context; nil: nobody asked
}

// waits says what is waited for: Header may be called beside RecvMsg.
type waits uint8

const (
	waitsHeader  waits = 1 << iota // or the end
	waitsMessage                   // or the end
	waitsEnd                       // or a second message
)

var (
	_ grpc.ClientStream  = (*stream)(nil)
	_ relay.OriginEvents = (*stream)(nil)
	_ h2.Waker           = (*stream)(nil)
)

func (s *stream) init() { s.sendReady.L, s.recvReady.L = &s.origin, &s.origin }

// Wake wakes who waits.
func (s *stream) Wake() {
	s.recvReady.Broadcast()
	s.sendReady.Signal()
}

// notify wakes who receives once the input at hand is worked through, if it brought what one of them waits for, and the sender
// where the call is over. The lock is held.
func (s *stream) notify(b *h2.Batch) {
	var ready waits
	if s.headed || s.over {
		ready |= waitsHeader
	}
	if s.in.any() || s.over {
		ready |= waitsMessage
	}
	if s.in.more() || s.over {
		ready |= waitsEnd
	}
	if s.waits&ready != 0 {
		s.waits = 0 // all are woken, and who is too early says again what it waits for
		b.Wake(s)
	}
}

// await waits for what w says. The lock is held, and released meanwhile.
func (s *stream) await(w waits) {
	s.waits |= w
	s.recvReady.Wait()
}

// Header waits for the header of the response. It is nil for a response that has none, or a call that failed, whose
// status RecvMsg returns. The error is always nil.
func (s *stream) Header() (metadata.MD, error) {
	s.openSoon()
	s.origin.Lock()
	for !s.headed && !s.over {
		s.await(waitsHeader)
	}
	fields, headed := s.header, s.headed
	s.origin.Unlock()
	if !headed {
		return nil, nil
	}
	return toMetadata(fields), nil
}

// Trailer returns the trailer, once RecvMsg has returned an error.
func (s *stream) Trailer() metadata.MD {
	s.origin.Lock()
	fields := s.trailer
	s.origin.Unlock()
	return toMetadata(fields)
}

// Context returns the context of the call, with the peer in it once there is one. It ends with the call.
func (s *stream) Context() context.Context {
	p := s.peer()
	s.origin.Lock()
	defer s.origin.Unlock()
	if s.own == nil {
		s.own, s.end = context.WithCancel(s.ctx)
		if s.done {
			s.end()
		}
	}
	if p == nil {
		return s.own
	}
	return peer.NewContext(s.own, p)
}

// peer returns whom the call is at, or nil.
func (s *stream) peer() *peer.Peer {
	s.origin.Lock()
	local, remote, tlsState := s.origin.Peer()
	s.origin.Unlock()
	if remote == nil {
		return nil
	}
	p := &peer.Peer{Addr: remote, LocalAddr: local}
	if tlsState != nil {
		p.AuthInfo = credentials.TLSInfo{State: *tlsState,
			CommonAuthInfo: credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity}}
	}
	return p
}

// RecvMsg receives a message into m, or returns io.EOF for a call that ended with OK, and else its status.
func (s *stream) RecvMsg(m any) error {
	s.openSoon()
	err := s.receive(m)
	received := err == nil
	if received && !s.serverStreams {
		err = s.expectEnd()
	}
	if err != nil {
		s.finish(err, true)
	}
	if err == io.EOF && received {
		return nil
	}
	return err
}

// expectEnd is for calls with one response, which is received. It returns io.EOF or the status.
func (s *stream) expectEnd() error {
	s.origin.Lock()
	var b h2.Batch
	for !s.in.any() && !s.over {
		if !s.want(&b) {
			s.await(waitsMessage)
		}
	}
	if s.in.any() {
		s.origin.Unlock()
		return status.Error(codes.Internal, "cardinality violation: expected <EOF> for non server-streaming RPCs, but received another message")
	}
	defer s.origin.Unlock()
	return s.endError()
}

// endError returns what the call ended with: io.EOF for OK. The lock is held.
func (s *stream) endError() error {
	if s.status == nil {
		return io.EOF
	}
	return s.status.Err()
}

// conclude notes the end of the call: nothing of it follows. The lock is held.
func (s *stream) conclude(b *h2.Batch, st *status.Status, reset frame.Code) {
	if s.over {
		return
	}
	s.over = true
	if st.Code() != codes.OK {
		s.status = st
	}
	s.dropKept()
	s.origin.End(b, reset, st.Code(), "")
	if s.waits != 0 {
		s.notify(b)
	}
	s.sendReady.Signal()
}

// expire ends the call with its context. One that ended with OK before stays so, for its responses are all there.
func (s *stream) expire() {
	st := status.FromContextError(s.ctx.Err())
	if s.abandon(st) == nil {
		st = nil
	}
	s.finish(st.Err(), false)
}

// abandon ends the call from this side, and drops what came of responses. A call that is over already keeps them.
// It returns what the call ended with.
func (s *stream) abandon(st *status.Status) *status.Status {
	var b h2.Batch
	s.origin.Lock()
	if !s.over {
		s.conclude(&b, st, frame.Cancel)
		s.in.drop()
	}
	st = s.status
	s.origin.Unlock()
	b.Flush()
	return st
}

// finish is told of the end of the call as the application sees it. An error of this side's making ends it here. received
// says that RecvMsg told the application; before, what is there of a call that is over can still be received.
func (s *stream) finish(err error, received bool) {
	if err == io.EOF {
		err = nil
	}
	s.origin.Lock()
	if s.done {
		s.origin.Unlock()
		s.telling.Lock() // what the options ask for is there when RecvMsg returns
		defer s.telling.Unlock()
		return
	}
	s.done = true
	s.telling.Lock()
	over, end := s.over, s.end
	if over && received {
		s.in.drop()
	}
	s.origin.Unlock()
	if !over {
		s.abandon(status.Convert(err))
	}
	if s.stop != nil {
		s.stop()
	}
	s.tell()
	s.telling.Unlock()
	s.info.finished(err)
	if end != nil {
		end()
	}
}

// tell fills in what the call's options ask for. telling is held.
func (s *stream) tell() {
	for _, o := range s.info.after {
		switch o := o.(type) {
		case grpc.HeaderCallOption:
			*o.HeaderAddr, _ = s.Header()
		case grpc.TrailerCallOption:
			*o.TrailerAddr = s.Trailer()
		case grpc.PeerCallOption:
			if p := s.peer(); p != nil {
				*o.PeerAddr = *p
			}
		}
	}
}
