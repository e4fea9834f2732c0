// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"math"
	"runtime"

	"google.golang.org/grpc"
)

// Mode says how many backends serve one call, and what becomes of their answers.
type Mode int

const (
	// One2One forwards a call to exactly one backend and changes nothing in either direction.
	One2One Mode = iota
	// One2Many forwards a call to any number of backends. The answers of a unary call are joined into one,
	// those of a streaming call are interleaved, and a backend's error becomes an answer (see [Backend]).
	One2Many
)

// StreamedDetectorFunc reports whether a method streams its responses. It matters for [One2Many] only, and it
// may be called by many calls at once.
//
// Return true for every method with more than one response message: server streaming and bidirectional.
type StreamedDetectorFunc func(fullMethodName string) bool

// RegisterService registers the handler on server for the named methods of one service, as generated code
// would. Methods of the service that [WithMethodNames] does not list stay unknown to the server, and so go to its
// handler for unknown methods, if any.
//
// The server should have the proxy's codec: [grpc.ForceServerCodecV2]([Codec]()), or [RegisterCodec].
// It ends the process, as grpc-go does for generated code, when the service is registered already.
func RegisterService(server grpc.ServiceRegistrar, director StreamDirector, serviceName string, options ...Option) {
	h := newHandler(director, serviceName, options)

	desc := &grpc.ServiceDesc{
		ServiceName: serviceName,
		HandlerType: (*any)(nil),
	}

	for _, name := range h.options.methodNames {
		desc.Streams = append(desc.Streams, grpc.StreamDesc{
			StreamName:    name,
			Handler:       h.serve,
			ServerStreams: true,
			ClientStreams: true,
		})
	}

	server.RegisterService(desc, h)
}

// TransparentHandler returns the handler that forwards every method which the server itself does not know.
// Give it to [grpc.UnknownServiceHandler], or use [ServerOptions].
//
// The server should have the proxy's codec: [grpc.ForceServerCodecV2]([Codec]()), or [RegisterCodec].
func TransparentHandler(director StreamDirector, options ...Option) grpc.StreamHandler {
	return newHandler(director, "", options).serve
}

// ServerOptions returns what makes a [grpc.Server] a transparent proxy: [Codec], [TransparentHandler], no limit to the
// size of messages, which is for the caller and the backend to set, and [grpc.NumStreamWorkers], which saves the growth of a
// new stack for each call: the workers are goroutines of the server, which end when it is stopped, also if it was only
// made, and calls for which none is free get a goroutine of their own. Options that follow them prevail:
//
//	grpc.NewServer(append(proxy.ServerOptions(director), grpc.MaxRecvMsgSize(16<<20))...)
func ServerOptions(director StreamDirector, options ...Option) []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.ForceServerCodecV2(Codec()),
		grpc.UnknownServiceHandler(TransparentHandler(director, options...)),
		grpc.MaxRecvMsgSize(math.MaxInt),
		grpc.NumStreamWorkers(uint32(max(32, 8*runtime.GOMAXPROCS(0)))),
	}
}
