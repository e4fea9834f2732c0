// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
)

// carrier makes one answer of those of all targets. It is the only thing that sends to the caller's stream
// while the targets run.
//
// header is called once for each target that is begun, with nil if it brings none, then message and at last ended, by the target's own
// goroutine. finish or discard, one of them, is called once, by another goroutine, when all targets have ended or
// the call is decided without those that have not; what these still bring is thrown away.
type carrier interface {
	header(t *fanTarget, md metadata.MD)
	// message takes a response. The frame stays the caller's. An error means that the target's part in the call is over.
	message(t *fanTarget, f *Frame) error
	// ended takes the end of a target's part in the call: err is nil, or a status.
	ended(t *fanTarget, phase Phase, err error) telling
	// finish ends the answer of a call that succeeded. Its error is what the call ends with after all.
	finish() error
	// discard ends the answer of a call that failed.
	discard()
}

// telling says how an answer tells of a failed target.
type telling struct {
	inAnswer bool // by a message that a hook made of the error
	veto     bool // not at all, and the hook wants the call to fail for that
}

// outlet is the way to the caller.
type outlet struct {
	fan *fanCall

	// turn is a lock that may be held for long, by whoever sends to a caller that does not read. It guards the
	// sending side of the caller's stream and what follows.
	turn       chan struct{}
	headerSent bool // or a message, which brings an empty one
	closed     bool // finish or discard has been called
	out        Frame
}

func (o *outlet) init(f *fanCall) { o.fan, o.turn = f, make(chan struct{}, 1) }

func (o *outlet) lock()   { o.turn <- struct{}{} }
func (o *outlet) unlock() { <-o.turn }

// sendMessage sends and frees m. turn is held, so that a caller who does not read makes all targets wait.
func (o *outlet) sendMessage(m mem.BufferSlice) error {
	o.out.data = m
	defer o.out.free()

	o.headerSent = true

	if err := o.fan.stream.SendMsg(&o.out); err != nil {
		err = o.fan.callerError(err)
		o.fan.abort(err)

		return err
	}

	return nil
}
