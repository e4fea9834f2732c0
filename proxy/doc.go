// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

/*
Package proxy is a transparent gRPC proxy inside of a [grpc.Server]: a handler for the methods that the server does not
know, which forwards their messages as bytes to backends over connections of grpc-go. It knows nothing of the messages.

	conn, err := grpc.NewClient("dns:///shop.internal:50051", grpc.WithTransportCredentials(creds))
	upstream := &proxy.Upstream{Channel: conn}
	server := grpc.NewServer(proxy.ServerOptions(upstream.Direct)...)

A call passes through two functions of the program: a [StreamDirector] says where it goes, and the [Backend] that it names has
the connection. There are ready-made ones: [Upstream], [RoundRobin], [Router]. The server may have services of
its own beside the proxy.

The package is source-compatible with github.com/siderolabs/grpc-proxy v0.5.1: change the import path.

# One to one

In [One2One] a call goes to one backend, and nothing of it is changed: neither messages nor status, details, header or trailer. The
header goes out when the backend's comes, not with the first message, and an answer that has none but only a trailer goes on as that.
When a backend ends the call while the caller still sends, its status is the status at once.

# One to many

In [One2Many] a call goes to any number of backends at the same time, and they make one answer. It asks something of the
messages: the answer of a unary method must be a protobuf message of repeated fields, and each element needs a
place for its source and for an error. [Backend.AppendInfo] writes the source, [Backend.BuildError] makes an answer of an error; package
proxy/splice has both for any layout, by field numbers. Then:

  - The answers of a unary call are joined, byte after byte in the order of the director, which protobuf reads as one message with all
    elements. It goes out when all backends have ended. If a backend sends more than one message all of
    them are joined, and if it sends some and then fails, its error follows them.
  - The messages of a streaming call go out as they come, those of one backend in their order.
  - A backend that cannot be reached, or fails, costs its own answer. BuildError makes a message of the error, and then the call
    ends well even if all have failed: that is the point of the hook. Where it returns nil the call fails, now:
    the other backends are cancelled once those that are failing too had a moment to say so.
  - The status of a failed call has the code that most of the failed backends share, the first one's of several in the director's
    order. Its message is a line that names them, and their details follow one another. A call to a single backend has its status.
  - Headers of a unary call are joined and go out when the last backend's has come; a streaming call has the header of the
    backend that answers first. Trailers are joined. Both are in the director's order.

Whether a method is unary or streaming is what [WithStreamedMethodNames] and [WithStreamedDetector] are for. Without them it is taken
for unary until something shows that it is not: a second message of one backend, or a message before the caller has half-closed. What had
been held back goes out then, and the call goes on as streaming. Of a stream that begins with one message
and then pauses that message is held back meanwhile: say which methods stream.

[WithFanout], and [SetFanout] for one call, replace these rules: a policy says when the call has succeeded (all, any, a quorum, a primary
one, best effort), the outcome of each backend is told in the trailer or in an envelope around each message, a
[Merger] of the program's may make the answer, and there are time limits for each backend, hedging, order, and bounds: see [Fanout]. With [Choice]
callers name the backends, within an allow-list.

Each backend has a queue of requests, so that one which is slow, or not connected yet, does not hold up the others. [FanoutLimits] bounds it,
and says what happens to a backend that takes nothing for long.

# Metadata

The caller's metadata does not reach a backend by itself: GetConnection copies it, or not. Upstream does. Keys that belong to a connection or to the transport
are dropped in both directions, whoever copied them: connection and what it names, te, host, content-length, content-type, content-encoding,
accept-encoding, grpc-encoding, grpc-accept-encoding, grpc-timeout, user-agent, pseudo-headers and the like. The backend's hop has its own. The
caller's deadline goes on as that of the upstream call. [WithForwarded] tells backends the caller's address, authority and user-agent.

# Messages, codecs, compression

A message is a [Frame]: references to the buffers into which grpc-go read it. It is not copied on its way, not even for several
backends. Interceptors of the server and of connections see it as *Frame. Only AppendInfo gets a copy, for it may write to it.

The server should have the proxy's codec, [Codec]. A server without it still works, at the price of a copy of each message. Upstream connections need none. The
content-subtype of a call is the caller's, from end to end: application/grpc+json stays what it is, whether or not
a codec is registered for it. Services of the server itself speak protobuf, or with [CodecWithParent] something else, or
with [RegisterCodec] whatever the caller's content-subtype says.

Compression ends at each hop, since grpc-go's public interface hands out messages decompressed. A request in an encoding that no compressor is
registered for ends in codes.Unimplemented: import google.golang.org/grpc/encoding/gzip for gzip. The
answer to a compressed request is compressed likewise. Upstream, requests are compressed if the call options of the backend or its
connection say so, and answers may be in any registered encoding. So the bytes of a message are untouched, and its encoding on the wire is not.

The proxy adds no limit to the size of messages. The server's own applies, 4 MiB unless [grpc.MaxRecvMsgSize] says
otherwise, as [ServerOptions] does. A limit among the default call options of an upstream connection does not: a [CallOptionsBackend] can set one.

# Status

What the caller does to its own call is reported as that, to the caller and to interceptors, stats handlers and logs: a cancel is Canceled,
the end of the deadline DeadlineExceeded, a message above a limit ResourceExhausted. A backend without a connection is Unavailable. A panic in the
director or in a hook is logged with its stack (grpclog, component "proxy") and is Internal, for that call or that backend's part in it.

# Life of a call

A request that is there already is read before the backend is asked for its connection, and in One2One up to two are. No call waits for its
caller, though: if the next request, or the half-close, is not there, the stream is opened in another goroutine than the handler's. So
GetConnection and the interceptors of connections may run in either, with the same context. A panic there that is not a hook's is
raised again in the handler's goroutine.

The handler returns when all that it has started has ended, so [grpc.Server.GracefulStop] waits for nothing but calls. See
[WithInterceptedStatus] for the one choice there is.

The limits of connections, keepalive and windows are options of grpc.Server and grpc.NewClient. For many small calls, fixed windows
(grpc.InitialWindowSize and grpc.InitialConnWindowSize, and their WithInitial… twins) spare grpc-go the pings by which it estimates
them; for large messages on long ways they had better grow. [DirectSockets] saves more of small calls: put it around the credentials of the
server and of the connections to backends.
*/
package proxy
