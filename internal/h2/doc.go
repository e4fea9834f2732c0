// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

// Package h2 is one HTTP/2 connection (RFC 9113), seen from either end, for
// programs that move streams between connections rather than serve them. It
// knows nothing of gRPC.
//
// # How a frame travels
//
// One goroutine reads a connection: [Conn.Serve]. It parses frames in place
// in the read buffer (conn_read.go), checks each against the state of its stream,
// and tells the owner by calling [Events]. The owner answers by calling methods
// of streams, most of them on another connection: [Stream.SendHeaders],
// [Stream.Send], [Stream.Reset]. Those append to the write buffer of that
// connection under its lock and never block; they mark the connection dirty in
// the [Batch] that the reading goroutine carries. When the input is drained the
// batch is flushed: one write per connection, however many frames of however
// many streams went in (write.go).
//
// The line that moves a DATA frame is in [Conn.appendData].
//
// # Back-pressure
//
// What a receiver's windows, or a full write buffer, do not let pass waits in
// the queue of its stream (queue.go) and leaves round robin as room comes.
// [Stream.Send] says how many octets passed; [Events.Credit] tells of the rest as it
// leaves. The owner grants just as much to the sender ([Stream.Consumed]), so
// a stream holds at most its receive window. The connection's own window is granted
// on receipt: one stalled stream must not hold up the others.
//
// # Goroutines and locks
//
// Serve's goroutine owns all read state. At most one further goroutine per
// connection exists, while the socket accepts no more octets: it writes the rest
// (write.go, Conn.drainOut) and ends with it. Conn.mu guards the write side and the table
// of streams. No method calls Events with mu held, and no goroutine ever holds
// the locks of two connections.
package h2
