// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"

	"github.com/manifold-grpc/manifold/fanout"
)

// envelopes is the carrier that wraps all that targets send, and their outcomes, into messages of FanoutMessage, each as
// soon as it is there.
type envelopes struct {
	outlet
	of []fanout.Envelope // by the target's index
}

var _ carrier = (*envelopes)(nil)

func newEnvelopes(f *fanCall) *envelopes {
	e := &envelopes{of: make([]fanout.Envelope, len(f.targets))}
	e.init(f)

	for i := range f.targets {
		e.of[i] = fanout.NewEnvelope(f.targets[i].name(), i)
	}

	return e
}

func (e *envelopes) header(t *fanTarget, md metadata.MD) {
	if md == nil {
		return
	}

	e.lock()
	defer e.unlock()

	if !e.closed {
		_ = e.sendMessage(buffersOf(e.of[t.index].Header(md))) // which has aborted the call
	}
}

func (e *envelopes) message(t *fanTarget, f *Frame) error {
	if err := t.bound(f.Len()); err != nil {
		return err
	}

	m := make(mem.BufferSlice, 0, 1+len(f.data))
	m = append(m, buffersOf(e.of[t.index].AppendPrefix(nil, f.Len()))...)
	m = append(m, f.data...)

	e.lock()
	defer e.unlock()

	if e.closed {
		return nil
	}

	f.data.Ref()

	return e.sendMessage(m)
}

func (e *envelopes) ended(t *fanTarget, _ Phase, _ error) telling {
	e.lock()
	defer e.unlock()

	e.outcome(t)

	return telling{} // the status is to say that all have failed, whatever the messages tell
}

// outcome sends a target's outcome, if that has not been done. turn is held.
func (e *envelopes) outcome(t *fanTarget) {
	if t.told || e.closed || e.fan.ctx.Err() != nil {
		return
	}

	t.told = true
	_ = e.sendMessage(buffersOf(e.of[t.index].Outcome(t.reported(), e.fan.options.Report.Metadata))) // which has aborted the call
}

func (e *envelopes) finish() error {
	e.discard()

	return nil
}

// discard sends the outcomes of targets that the call was decided without. Those that failed tell more than a status.
func (e *envelopes) discard() {
	e.lock()
	defer e.unlock()

	for i := range e.fan.targets {
		e.outcome(&e.fan.targets[i])
	}

	e.closed = true
}

// bound checks the size of a message of a call that streams.
func (t *fanTarget) bound(n int) error {
	if o := t.fan.options; o != nil && n > o.TargetBytes {
		return &targetEnd{PhaseResponse, t.fan.tooLarge()}
	}

	return nil
}
