// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

// Package evloop waits for the input of sockets that have little of it: one goroutine with an epoll descriptor of its own
// for all of them, where Go's poller would wake a goroutine for each, and with it, when several sockets have input at about the
// same time, another thread. A program that mostly waits, for one call at a time and its answers, takes a sixth less CPU that way.
//
// It is for plaintext on Linux and for more than one processor: the goroutine that waits keeps one from
// others for some milliseconds at most. It knows when it has too much to do, and when it saves nothing as connections that are not for it, with TLS, wake threads all the same. From then on for some time every socket that has input is given back to
// its owner, who waits for it as for any other socket and so has all processors at its service.
package evloop

import "time"

// A Handler owns a socket that the loop watches.
type Handler interface {
	// Ready is called by the loop's goroutine when there may be something to read, or the socket was closed or its read
	// deadline has passed. It must read with more room than there is input, or return false: it is told of the same input once. At the end it
	// must return false too. It must not block: all sockets wait for it. now is about the time. False has the loop watch
	// the socket no longer.
	Ready(now time.Time) (stay bool)

	// Left is called once, by the loop's goroutine, when it watches the socket no longer: because Ready said so, or because
	// there is too much to do. The loop knows nothing of the handler after that.
	Left()
}
