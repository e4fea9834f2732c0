// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

// Package wire is the end of an HTTP/2 connection for both the load generator and
// the backend of the benchmark. What a proxy costs shows only if both of them cost
// less, so it knows gRPC as octets and nothing else:
//
//   - One goroutine reads a connection and works through all that one read brought;
//     what that produces, of however many streams, goes out in one write.
//   - Header blocks that do not change the compression tables are encoded and
//     decoded once and remembered (headers.go).
//   - Messages follow a pattern (message.go), so that they are checked octet by
//     octet as they come in, and echoed, without being held.
//
// It judges as it goes: a wrong octet, a reset stream, a GOAWAY or a broken rule is an
// error, which ends the connection. HPACK is that of golang.org/x/net, not the
// project's own, so that what the two disagree on shows.
package wire
