// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

// Package channel makes gRPC calls over the endpoints of package relay: a [Channel] is a grpc.ClientConnInterface, for
// generated stubs and for package proxy, at a fraction of what a *grpc.ClientConn costs.
//
//	endpoint := relay.NewEndpoint("10.0.0.1:50051", relay.EndpointConfig{})
//	defer endpoint.Close()
//	upstream := &proxy.Upstream{Channel: channel.New(endpoint)}
//
// # Where the cost goes
//
// A call has no goroutine. Who makes it writes to the connection itself; a call with one request goes out in one
// write. What comes back is put together in the goroutine that reads the connection, which wakes the caller once for all that
// one read brought: for most unary calls header, message and status together. Streams of messages are gathered: from the
// second message in a row on, a goroutine that runs after those at work writes what came up meanwhile.
//
// # What it has in common with *grpc.ClientConn
//
// The contracts of Invoke, NewStream and grpc.ClientStream; statuses for all that an upstream can do; metadata, deadlines, cancellation;
// compression by registered compressors; codecs of both interfaces, with mem.BufferSlice; all of grpc-go's exported call
// options; transparent retries of calls that an upstream provably did nothing about.
//
// # What it has not
//
// Resolvers, balancers and service configurations: the endpoints of a relay.Backend, and who chooses among them, take
// their place. Retries by policy, hedging, interceptors, stats handlers, binary logs and channelz: wrap the channel. grpc.PreparedMsg
// and options that it does not know fail the call with INTERNAL rather than being left out.
//
// # Memory
//
// A stream holds at most its receive window of responses, and one message more while RecvMsg waits for that, up to
// grpc.MaxCallRecvMsgSize; of requests, 64 KiB and a message's piece of that size, which wait for the upstream's
// window, within relay.EndpointConfig.Buffer, and up to 64 KiB that are kept until a response begins.
package channel
