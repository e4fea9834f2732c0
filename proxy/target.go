// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"io"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// target is one backend's part in one call. One goroutine may send while another receives.
type target struct {
	// Set when it is made.
	call    *call
	backend Backend
	index   int       // in the order that the director gave
	begin   time.Time // zero when nobody asks for the outcome

	// Set by connect.
	ctx     context.Context // of the upstream stream
	channel grpc.ClientConnInterface
	options []grpc.CallOption

	stream grpc.ClientStream // set by open

	// Owned by the goroutine that sends. The counters are atomic because the outcome may be read while that goroutine still
	// waits for the caller (see finishEarly).
	firstSent                     bool
	requestMessages, requestBytes atomic.Int64

	// Owned by the goroutine that receives.
	responseMessages, responseBytes int64
	firstResponse                   time.Time
	header, trailer                 metadata.MD // without hop keys
}

func (t *target) init(c *call, b Backend, index int) {
	t.call, t.backend, t.index = c, b, index
	if _, ok := b.(DoneBackend); ok {
		t.begin = time.Now()
	}
}

// upstreamDesc describes every upstream stream, because the proxy does not know better.
var upstreamDesc = &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}

// oneRequestDesc describes a stream of which it is known that it has exactly one request. grpc-go sends that and
// the end of the requests in one frame.
var oneRequestDesc = &grpc.StreamDesc{ServerStreams: true}

// connect asks the backend for the connection and its options.
func (t *target) connect(ctx context.Context) error {
	if u, ok := t.backend.(*Upstream); ok && u.Channel != nil {
		// What GetChannel does, with one copy of the metadata less.
		if md := mergeOutgoing(ctx); md != nil {
			t.channel = u.Channel
			t.ctx, t.options = t.call.outgoing(ctx, md, true, nil)

			return nil
		}
	}

	out, channel, err := t.connection(ctx)
	if err != nil {
		return err
	}

	if out.Done() != ctx.Done() {
		out = tie(ctx, out)
	}

	extra, err := t.callOptions(out)
	if err != nil {
		return err
	}

	md, _ := metadata.FromOutgoingContext(out) // a copy
	t.channel = channel
	t.ctx, t.options = t.call.outgoing(out, md, false, extra)

	return nil
}

// tie makes a context that the backend made end with the call's, whether it derives from that or not.
func tie(ctx, out context.Context) context.Context {
	out, cancel := context.WithCancel(out)
	context.AfterFunc(ctx, cancel) // runs for certain: ctx ends when the handler returns

	return out
}

// open opens the stream. It blocks until there is a connection, as the connection's own settings say: by
// default a backend known to be down is reported at once.
func (t *target) open(desc *grpc.StreamDesc) (err error) {
	t.stream, err = t.channel.NewStream(t.ctx, desc, t.call.method, t.options...)

	return err
}

// send hands a request to the stream; the frame stays the caller's. It returns io.EOF when the backend has ended the call.
func (t *target) send(f *Frame) error {
	m := f

	if !t.firstSent {
		t.firstSent = true

		var err error
		if m, err = t.rewriteFirst(f); err != nil {
			return err
		}
	}

	n := m.Len()
	if err := t.stream.SendMsg(m); err == io.EOF {
		return err
	} else if err != nil {
		return statusOr(codes.Internal, err)
	}

	t.requestMessages.Add(1)
	t.requestBytes.Add(int64(n))

	return nil
}

// halfClose says that there are no more requests.
func (t *target) halfClose() error {
	if err := t.stream.CloseSend(); err != nil && err != io.EOF {
		return statusOr(codes.Internal, err)
	}

	return nil
}

// receiveHeader waits for the header. It returns nil and no error when there is none, which is
// how grpc-go reports an answer that consists of a trailer, and a stream that has failed: receive tells which.
func (t *target) receiveHeader() (metadata.MD, error) {
	header, err := t.stream.Header()
	dropHopKeys(header)
	t.header = header

	return header, err
}

// receive takes the next response into f. After an error, which is io.EOF for the status OK, the trailer is there.
func (t *target) receive(f *Frame) error {
	if err := t.stream.RecvMsg(f); err != nil {
		t.trailer = t.stream.Trailer()
		dropHopKeys(t.trailer)

		return err
	}

	if t.responseMessages == 0 && !t.begin.IsZero() {
		t.firstResponse = time.Now()
	}

	t.responseMessages++
	t.responseBytes += int64(f.Len())

	return nil
}

// outcome returns what became of the target. No other goroutine uses t any more, save the one that finishEarly describes.
func (t *target) outcome(phase Phase, err error) Outcome {
	o := Outcome{
		Backend:          t.name(),
		FullMethod:       t.call.method,
		Status:           status.Convert(err),
		Phase:            phase,
		Header:           t.header,
		Trailer:          t.trailer,
		Duration:         time.Since(t.begin),
		RequestMessages:  t.requestMessages.Load(),
		RequestBytes:     t.requestBytes.Load(),
		ResponseMessages: t.responseMessages,
		ResponseBytes:    t.responseBytes,
	}
	if !t.firstResponse.IsZero() {
		o.FirstResponse = t.firstResponse.Sub(t.begin)
	}

	return o
}
