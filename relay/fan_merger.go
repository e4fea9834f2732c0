// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package relay

import (
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/manifold-grpc/manifold/fanout"
	"github.com/manifold-grpc/manifold/internal/h2"
)

// NewMerger makes the [Merger] of one call to the targets of these names. It may be called by many calls at once, with locks
// of the relay held: it must neither block nor call the relay, save for the getters of the call other than Context.
type NewMerger func(c *Call, targets []string) Merger

// Merger makes the answer of one call out of events, by sending any number of messages with send, which copies them. A
// unary method needs exactly one. It is called as NewMerger is, for one event at a time.
//
// Of each target come at most one header, its messages, and one outcome, in this order; events of different
// targets interleave. When all have ended, or the call is decided without the others, and it succeeds, there is a last event with
// nothing but Last. A call that fails has no such event.
//
// An error at a message is that target's failure, with phase HOOK; an error at any other event ends the call with it. A
// panic is an error with INTERNAL.
type Merger func(e MergeEvent, send func(message []byte)) error

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

// initMerger makes the call's merger, if it has one.
func (f *fanCall) initMerger() (err error) {
	if f.cfg.Merger == nil {
		return nil
	}
	defer recovered("NewMerger", &err)
	if f.merge = f.cfg.Merger(f.c, f.names); f.merge == nil {
		return status.Error(codes.Internal, "relay: NewMerger returned no Merger")
	}
	return nil
}

// event calls the merger and sends what it made. What it made of an event at which it returns an error is not sent.
func (f *fanCall) event(b *h2.Batch, e MergeEvent) error {
	if e.Index >= 0 {
		e.Target = f.names[e.Index]
	}
	s := scratchPool.Get().(*scratch)
	defer s.free()
	s.p = s.p[:0]
	err := f.callMerger(e, func(m []byte) {
		start := len(s.p)
		s.p = append(append(s.p, make([]byte, prefixLen)...), m...)
		putPrefix(s.p[start:], len(m))
	})
	if err == nil && len(s.p) > 0 {
		f.send(b, s.p) // if it fails, the call is over
	}
	return err
}

func (f *fanCall) callMerger(e MergeEvent, send func([]byte)) (err error) {
	defer recovered("Merger", &err)
	return f.merge(e, send)
}

// mergeMessage gives the merger a message of t. It returns false if t has failed by it, or the call is over.
func (t *fanTarget) mergeMessage(b *h2.Batch, payload []byte) bool {
	if err := t.f.event(b, MergeEvent{Index: t.index, Message: payload}); err != nil {
		t.spoiled(b, err)
		return false
	}
	return t.f.running()
}

// mergeOther gives the merger an event that is no message. If it returns false the call is over.
func (f *fanCall) mergeOther(b *h2.Batch, e MergeEvent) bool {
	if err := f.event(b, e); err != nil && f.running() {
		f.cancelAll(b)
		f.c.fail(b, status.Convert(err), ReasonHook)
	}
	return f.running()
}

// mergeHeader gives the merger what t sent before its messages.
func (f *fanCall) mergeHeader(b *h2.Batch, t *fanTarget, came bool) {
	if !came {
		return
	}
	md := mdOf(t.header)
	if md == nil {
		md = metadata.MD{}
	}
	f.mergeOther(b, MergeEvent{Index: t.index, Header: md})
}

// mergeOutcome tells the merger how t ended, once.
func (f *fanCall) mergeOutcome(b *h2.Batch, t *fanTarget) bool {
	if t.merged {
		return true
	}
	t.merged = true
	outcome := t.outcome()
	return f.mergeOther(b, MergeEvent{Index: t.index, Outcome: &outcome})
}

// mergeEnd tells the merger of the targets that were not needed, and that nothing comes any more. If it returns false the call is over.
func (f *fanCall) mergeEnd(b *h2.Batch) bool {
	if f.merge == nil {
		return true
	}
	for i := range f.targets {
		if !f.mergeOutcome(b, &f.targets[i]) {
			return false
		}
	}
	return f.mergeOther(b, MergeEvent{Index: -1, Last: true})
}
