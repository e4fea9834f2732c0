// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
)

// statusWriter is the method of grpc-go's server transport streams that ends a stream.
type statusWriter interface {
	WriteStatus(*status.Status) error
}

// finishEarly ends the caller's stream with err while the request pump may still be waiting for the caller's next
// message, and then waits for the pump.
//
// The pump waits in RecvMsg of the caller's stream, which returns when a message comes or when the stream ends. The stream ends
// when the status is written, which grpc-go does after the handler has returned. So either the handler returns while a
// goroutine of its own is inside of the stream, and inside of every wrapper that an interceptor put around it, or
// the status is written here. It is written here. The server then finds the stream done and
// writes nothing when the handler returns the same status.
//
// A stream of another server than grpc-go's, such as a tunnel's, may have no such method, and WithInterceptedStatus forbids
// its use. Then the pump stays behind until the stream ends, right after the handler returns: it is inside of RecvMsg,
// and when that returns it gives back the message, if any, and ends, without another call to the caller's stream.
func (c *call) finishEarly(err error, pump *sync.WaitGroup) {
	w := c.statusWriter()
	if w == nil {
		return
	}

	_ = w.WriteStatus(status.Convert(err)) // fails only when the caller is gone, which ends the stream too
	pump.Wait()
}

// awaitEnd waits for the request pump if the caller's stream has ended. Nothing holds the pump up then, and what
// it was told says why the stream ended.
func (c *call) awaitEnd(pump *sync.WaitGroup) {
	if c.stream.Context().Err() != nil {
		c.cancel()
		pump.Wait()
	}
}

// statusWriter returns what ends the caller's stream before the handler returns, or nil if nothing does.
func (c *call) statusWriter() statusWriter {
	if c.handler.options.interceptStatus {
		return nil
	}

	w, _ := grpc.ServerTransportStreamFromContext(c.stream.Context()).(statusWriter)

	return w
}
