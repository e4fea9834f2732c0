// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// ServerStreamWrapper makes the sending side of a [grpc.ServerStream] safe for concurrent use: all of its methods
// but RecvMsg may be called by many goroutines at once.
//
// The proxy does not need it for itself; it is here for programs that send to one stream from several goroutines.
type ServerStreamWrapper struct {
	grpc.ServerStream

	sendMu     sync.Mutex
	headerSent bool // guarded by sendMu; a header or a message went out through this wrapper
}

// SetHeader adds to the header that goes out with the first message or with SendHeader. Once it has gone out
// md is dropped without an error, because of several goroutines only the first can be in time.
func (w *ServerStreamWrapper) SetHeader(md metadata.MD) error {
	w.sendMu.Lock()
	defer w.sendMu.Unlock()

	if w.headerSent {
		return nil
	}

	return tolerateLateHeader(w.ServerStream.SetHeader(md))
}

// SendHeader sends the header, with md added to what SetHeader was given. Once it has gone out md is dropped
// without an error.
func (w *ServerStreamWrapper) SendHeader(md metadata.MD) error {
	w.sendMu.Lock()
	defer w.sendMu.Unlock()

	if w.headerSent {
		return nil
	}

	w.headerSent = true

	return tolerateLateHeader(w.ServerStream.SendHeader(md))
}

// SetTrailer adds to the trailer that goes out with the status.
func (w *ServerStreamWrapper) SetTrailer(md metadata.MD) {
	w.sendMu.Lock()
	defer w.sendMu.Unlock()

	w.ServerStream.SetTrailer(md)
}

// SendMsg sends one message. It blocks while flow control does, and callers queue up behind it meanwhile.
func (w *ServerStreamWrapper) SendMsg(m any) error {
	w.sendMu.Lock()
	defer w.sendMu.Unlock()

	w.headerSent = true

	return w.ServerStream.SendMsg(m)
}

// tolerateLateHeader returns nil for grpc-go's complaint about a header that comes too late, and any other error as it
// is. There is no exported value for it, and its text has changed once.
func tolerateLateHeader(err error) error {
	if err == nil {
		return nil
	}

	switch status.Convert(err).Message() {
	case "transport: SendHeader called multiple times", "transport: the stream is done or WriteHeader was already called":
		return nil
	default:
		return err
	}
}
