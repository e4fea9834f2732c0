// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"

	"google.golang.org/grpc/metadata"

	"github.com/manifold-grpc/manifold/fanout"
)

// NewMerger makes the [Merger] of one call to the targets of these names. ctx is the call's. It may be called by
// many calls at once.
type NewMerger func(ctx context.Context, fullMethodName string, targets []string) Merger

// Merger makes the answer of one call out of events, by sending any number of messages with send, which does not keep nor copy
// them: they must not change afterwards. A unary method needs exactly one.
//
// Events come one at a time: of each target at most one header, its messages, and one outcome, in this order; those of
// different targets interleave. When all have ended, or the call is decided without the others, and it succeeds, there is a last event with
// nothing but Last. A call that fails has no such event.
//
// An error at a message is that target's failure, with phase HOOK; an error at any other event ends the call with it. A
// panic is an error with codes.Internal.
type Merger func(e MergeEvent, send func(message []byte) error) error

// MergeEvent is one event of one call. Of Header, Message and Outcome at most one is not nil.
type MergeEvent struct {
	// Target is the name of the target that the event is of, Index its place in the order of the targets, from 0.
	Target string
	Index  int
	// Header is what the target sent before its messages; not nil, and perhaps empty, at its event.
	Header metadata.MD
	// Message is one message of the target; not nil at its event. It is valid until the merger returns and must not be changed.
	Message []byte
	// Outcome is how the target ended.
	Outcome *fanout.Outcome
	// Last says that there are no more events. Index is -1 then.
	Last bool
}

// merging is the carrier over a Merger.
type merging struct {
	outlet
	merge Merger
	send  func([]byte) error // for merge
	names []string
}

var _ carrier = (*merging)(nil)

// initMerger makes the program's merger the call's carrier.
func (f *fanCall) initMerger() (err error) {
	m := &merging{names: make([]string, len(f.targets))}
	m.init(f)

	for i := range f.targets {
		m.names[i] = f.targets[i].name()
	}

	m.send = func(message []byte) error { return m.sendMessage(buffersOf(message)) }
	f.answer = m

	defer f.recovered("the NewMerger", &err)

	m.merge = f.options.Merger(f.ctx, f.method, m.names)

	return nil
}

// event calls the merger. turn is held.
func (m *merging) event(e MergeEvent) (err error) {
	if m.closed || m.fan.ctx.Err() != nil {
		return nil
	}

	if e.Index >= 0 {
		e.Target = m.names[e.Index]
	}

	defer func() {
		if err != nil {
			err = hookError("Merger", err)
		}
	}()
	defer m.fan.recovered("the Merger", &err)

	return m.merge(e, m.send)
}

func (m *merging) header(t *fanTarget, md metadata.MD) {
	if md == nil {
		return
	}

	m.lock()
	defer m.unlock()

	if err := m.event(MergeEvent{Index: t.index, Header: md}); err != nil {
		m.fan.abort(err)
	}
}

func (m *merging) message(t *fanTarget, f *Frame) error {
	if err := t.bound(f.Len()); err != nil {
		return err
	}

	message := f.Bytes()
	if message == nil {
		message = []byte{}
	}

	m.lock()
	defer m.unlock()

	return m.event(MergeEvent{Index: t.index, Message: message})
}

func (m *merging) ended(t *fanTarget, _ Phase, _ error) telling {
	m.lock()
	defer m.unlock()

	if err := m.outcome(t); err != nil {
		m.fan.abort(err)
	}

	return telling{}
}

// outcome makes an event of a target's outcome, if that has not been done. turn is held.
func (m *merging) outcome(t *fanTarget) error {
	if t.told {
		return nil
	}

	t.told = true
	outcome := t.reported()

	return m.event(MergeEvent{Index: t.index, Outcome: &outcome})
}

func (m *merging) finish() error {
	m.lock()
	defer m.unlock()

	for i := range m.fan.targets {
		if err := m.outcome(&m.fan.targets[i]); err != nil {
			return err
		}
	}

	err := m.event(MergeEvent{Index: -1, Last: true})
	m.closed = true

	return err
}

func (m *merging) discard() {
	m.lock()
	defer m.unlock()

	m.closed = true
}
