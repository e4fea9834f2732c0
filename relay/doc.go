// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

// Package relay is a gRPC reverse proxy that moves HTTP/2 frames instead of
// decoding calls: about the work of a TCP forwarder, with the knowledge of a
// gRPC proxy. It forwards every kind of call, with any content-subtype and any
// compression, and messages of any size, which it never holds whole. It knows nothing of what the messages
// mean.
//
//	backend := &relay.Backend{Name: "catalog", Endpoints: []*relay.Endpoint{
//		relay.NewEndpoint("10.0.0.1:50051", relay.EndpointConfig{}),
//		relay.NewEndpoint("10.0.0.2:50051", relay.EndpointConfig{}),
//	}}
//	srv := &relay.Server{Route: func(c *relay.Call) { c.Forward(backend) }}
//	err := srv.Serve(listener)
//
// # A call's journey
//
// A client's connection is accepted (accept.go) and read by one goroutine
// (internal/h2). A request's header block becomes a [Call] (downstream.go), is
// checked, and goes to the Route function, which decides at once or later:
// [Call.Forward] or [Call.Reject]. Forwarding picks an endpoint of the backend (backend.go), then
// a connection to it with room for one more stream (endpoint.go), and sends the request's
// header block there (call_request.go). From then on DATA frames go from one connection's read
// buffer to the other's write buffer: [Call] is the place that joins the two streams; the
// request's frames pass through downConn.Data, the response's through upConn.Data.
//
// # What it changes
//
// Nothing but this. On requests: te is set to trailers; content-length is dropped; forwarding
// headers (x-forwarded-for and its kin) of untrusted clients are dropped and own ones added as
// [Server.ForwardedFor] says; grpc-timeout is lessened by the time spent. On responses:
// content-length is dropped. An upstream's RST_STREAM, a lost connection or an answer that is
// no gRPC becomes a gRPC status; so do the relay's own failures, which carry a google.rpc.ErrorInfo of
// the domain "manifold" whose reason is one of the Reason constants.
//
// # Concurrency
//
// No goroutine per call: one per connection, plus one while a socket accepts
// nothing more. Each call has a lock, taken before that of an endpoint, taken before that of a connection; at most one of
// each kind is held.
package relay
