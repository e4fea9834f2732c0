// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"io"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// handler serves the calls of one registration. It does not change after newHandler, and so serves any number at once.
type handler struct {
	director StreamDirector
	options  handlerOptions
}

func newHandler(director StreamDirector, serviceName string, options []Option) *handler {
	h := &handler{director: director, options: handlerOptions{serviceName: serviceName}}
	for _, o := range options {
		o(&h.options)
	}

	h.options.fanoutLimits = h.options.fanoutLimits.withDefaults()

	return h
}

// call is one call of a caller, from the moment the server hands it over until the handler returns.
type call struct {
	// Set by serve, and not changed afterwards.
	handler *handler
	stream  grpc.ServerStream
	method  string
	ctx     context.Context // of all that is done for the call; ends when the handler returns
	cancel  context.CancelFunc
	options []grpc.CallOption // of every upstream stream; not to be appended to

	// Set by the director, and not changed afterwards.
	fanout *Fanout // nil: as the library always had it
	via    string  // what fanout.ViaKey says on requests, if not empty
	hide   string  // a key of the caller's metadata that is for this proxy only

	// The request side: owned by serve until the mode's handler starts its request pump, then by that.
	directing bool   // the director runs
	first     *Frame // read by FirstMessage and not yet forwarded
	firstErr  error  // what reading first gave, io.EOF included; every later read gives it again
}

// callKey is the key of the *call in the context that the director and the backends get.
type callKey struct{}

// callContext carries the *call. It is a type of its own because it costs one allocation less than
// a value context around a cancel context, on every call.
type callContext struct {
	context.Context
	call *call
}

func (c callContext) Value(key any) any {
	if key == (callKey{}) {
		return c.call
	}

	return c.Context.Value(key)
}

// serve is the grpc.StreamHandler. When it returns, every goroutine that it started has ended, but for the one case
// that finishEarly describes.
func (h *handler) serve(_ any, stream grpc.ServerStream) error {
	method, ok := grpc.MethodFromServerStream(stream)
	if !ok {
		return status.Error(codes.Internal, "proxy: the server stream's context does not name a method")
	}

	if !strings.HasPrefix(method, "/") {
		method = "/" + method // some servers other than grpc-go's leave it out
	}

	c := &call{handler: h, stream: stream, method: method, options: subtypeOptions(contentSubtype(stream.Context())), fanout: h.options.fanout}

	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()

	c.ctx, c.cancel = callContext{ctx, c}, cancel

	mode, backends, err := c.direct()
	if err != nil {
		return err
	}

	if h.options.modeFixed && mode != h.options.mode {
		return status.Errorf(codes.Internal, "proxy: the director answered with mode %v, this handler serves %v only", mode, h.options.mode)
	}

	switch mode {
	case One2One:
		if len(backends) != 1 {
			return status.Errorf(codes.Internal, "proxy: one-to-one needs exactly one backend, the director named %d", len(backends))
		}

		return c.one2one(backends[0])
	case One2Many:
		if len(backends) == 0 {
			return status.Error(codes.Unavailable, "proxy: one-to-many needs a backend, the director named none")
		}

		return c.one2many(backends)
	default:
		return status.Errorf(codes.Internal, "proxy: the director answered with the unknown mode %d", int(mode))
	}
}

// direct asks the director.
func (c *call) direct() (mode Mode, backends []Backend, err error) {
	defer c.recovered("the director", &err)

	if c.handler.director == nil {
		return 0, nil, status.Error(codes.Unimplemented, "proxy: no director")
	}

	c.directing = true
	defer func() { c.directing = false }()

	return c.handler.director(c.ctx, c.method)
}

// String names the mode in messages.
func (m Mode) String() string {
	switch m {
	case One2One:
		return "One2One"
	case One2Many:
		return "One2Many"
	default:
		return "unknown"
	}
}

// FirstMessage returns the first request message of the call that ctx belongs to. A [StreamDirector] may call it with
// its own context, in its own goroutine, before it returns; the message is forwarded all the same.
//
// It blocks until the message is there. A caller who waits for an answer before it sends anything, as the
// caller of a bidirectional stream may, waits for ever: look only into methods that begin with a request.
//
// The error is io.EOF when the caller has ended its side without a message, and else a gRPC status, that
// of the call. The frame is valid until the director returns.
func FirstMessage(ctx context.Context) (*Frame, error) {
	c, _ := ctx.Value(callKey{}).(*call)
	if c == nil || !c.directing {
		return nil, status.Error(codes.Internal, "proxy: FirstMessage is for directors, with the context that they were called with")
	}

	if c.first == nil && c.firstErr == nil {
		f := &Frame{}
		if err := c.receiveRequest(f); err != nil {
			c.firstErr = err
		} else {
			c.first = f
		}
	}

	return c.first, c.firstErr
}

// nextRequest reads the caller's next message into f, the one that FirstMessage read included.
func (c *call) nextRequest(f *Frame) error {
	switch {
	case c.first != nil:
		f.free()
		f.data, c.first = c.first.data, nil

		return nil
	case c.firstErr != nil:
		return c.firstErr
	default:
		return c.receiveRequest(f)
	}
}

// receiveRequest reads from the caller's stream. The error is io.EOF at the end of the requests, else a status.
func (c *call) receiveRequest(f *Frame) error {
	err := c.stream.RecvMsg(f)
	if err != nil && err != io.EOF {
		err = c.callerError(err)
	}

	return err
}
