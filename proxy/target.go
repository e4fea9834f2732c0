// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"math"
	"strings"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// target is one backend's part in one call.
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

	// Counted by the goroutine that sends. Atomic because the outcome may be read while that goroutine is still
	// waiting for the caller (see finishEarly).
	requestMessages, requestBytes atomic.Int64

	// Owned by the goroutine that receives.
	responseMessages, responseBytes int64
	firstResponse                   time.Time
	header, trailer                 metadata.MD
}

func (t *target) init(c *call, b Backend, index int) {
	t.call, t.backend, t.index = c, b, index
	if _, ok := b.(DoneBackend); ok {
		t.begin = time.Now()
	}
}

var upstreamDesc = &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}

// connect asks the backend for the connection and its options.
func (t *target) connect(ctx context.Context) error {
	out, channel, err := t.connection(ctx)
	if err != nil {
		return err
	}

	if out.Done() != ctx.Done() {
		out = t.tie(ctx, out)
	}

	opts, err := t.callOptions(out)
	if err != nil {
		return err
	}

	t.ctx, t.channel, t.options = withoutHopKeys(out), channel, t.call.upstreamOptions(opts)

	return nil
}

// open opens the stream to the backend. It blocks until there is a connection, as the connection's own settings
// say: by default a backend known to be down is reported at once.
func (t *target) open() (err error) {
	t.stream, err = t.channel.NewStream(t.ctx, upstreamDesc, t.call.method, t.options...)

	return err
}

// tie makes a context that the backend made end with the call's, whether it derives from that or not.
func (t *target) tie(ctx, out context.Context) context.Context {
	out, cancel := context.WithCancel(out)
	context.AfterFunc(ctx, cancel) // stops by itself: ctx ends when the handler returns

	return out
}

// finish reports the outcome. No goroutine but the caller uses t any more, save the one that finishEarly describes.
func (t *target) finish(phase Phase, err error) {
	if t.begin.IsZero() {
		return
	}

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

	t.done(o)
}

// sent counts a request message that was handed to the stream.
func (t *target) sent(bytes int) {
	t.requestMessages.Add(1)
	t.requestBytes.Add(int64(bytes))
}

// received counts a response message.
func (t *target) received(bytes int) {
	if t.responseMessages == 0 && !t.begin.IsZero() {
		t.firstResponse = time.Now()
	}

	t.responseMessages++
	t.responseBytes += int64(bytes)
}

// upstreamOptions returns the call options of every upstream stream of the call, and extra after them.
//
// They come after the connection's default call options and so prevail: the codec must be the proxy's, the
// content-subtype the caller's, and a hop adds no limit to the size of messages.
func (c *call) upstreamOptions(extra []grpc.CallOption) []grpc.CallOption {
	own := subtypeOptions(c.contentSubtype())
	if len(extra) == 0 {
		return own
	}

	return append(own[:len(own):len(own)], extra...)
}

// contentSubtype returns what follows "application/grpc+" in the caller's content-type, in lower case, and "" for
// plain "application/grpc".
func (c *call) contentSubtype() string {
	ct := metadata.ValueFromIncomingContext(c.stream.Context(), "content-type")
	if len(ct) == 0 {
		return ""
	}

	subtype := strings.TrimPrefix(strings.ToLower(ct[0]), "application/grpc")
	if subtype == "" || (subtype[0] != '+' && subtype[0] != ';') {
		return ""
	}

	return subtype[1:]
}

// The options for the usual content-subtypes are made once. They are not to be appended to.
var (
	plainOptions = makeSubtypeOptions("")
	protoOptions = makeSubtypeOptions(proto.Name)
)

func subtypeOptions(subtype string) []grpc.CallOption {
	switch subtype {
	case "":
		return plainOptions
	case proto.Name:
		return protoOptions
	default:
		return makeSubtypeOptions(subtype)
	}
}

func makeSubtypeOptions(subtype string) []grpc.CallOption {
	// The codec's name is what grpc-go puts into the content-type when the content-subtype is empty.
	return []grpc.CallOption{
		grpc.ForceCodecV2(&codec{parent: encoding.GetCodecV2(proto.Name), name: subtype}),
		grpc.CallContentSubtype(subtype),
		grpc.MaxCallRecvMsgSize(math.MaxInt),
		grpc.MaxCallSendMsgSize(math.MaxInt),
	}
}
