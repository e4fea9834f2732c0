// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package relay

import (
	"github.com/manifold-grpc/manifold/fanout"
	"github.com/manifold-grpc/manifold/internal/h2"
)

// An orderedMessage waits in the merge of a call whose messages go out in the order of a key.
type orderedMessage struct {
	t *fanTarget
	p []byte // with its prefix
}

// initOrder makes the merge, if the call has one.
func (f *fanCall) initOrder() {
	if f.cfg.OrderKey == nil || !f.cfg.Streaming || f.cfg.Envelope || f.merge != nil {
		return
	}
	// Half of what the call may hold, as a full merge is to let the least go, not to end the call.
	limit := min(or(f.cfg.OrderBytes, defaultOrderBytes), or(f.cfg.Limits.MergedBytes, defaultMergedBytes)/2)
	f.order = fanout.NewMerge[string, orderedMessage](len(f.targets), f.cfg.OrderWindow, limit)
}

// sort has a message wait for its place in the order, and sends what may go out now. If it returns false, t has failed or the
// call is over.
func (t *fanTarget) sort(b *h2.Batch, payload []byte) bool {
	key, err := orderKey(t.f.cfg.OrderKey, payload)
	out := make([]byte, prefixLen, prefixLen+len(payload))
	out = append(out, payload...)
	if a := t.target().Annotator; a != nil && err == nil {
		var m []byte
		if m, err = appendInfo(a, true, out[prefixLen:]); err == nil {
			out = append(out[:prefixLen], m...)
		}
	}
	if err != nil {
		t.spoiled(b, err)
		return false
	}
	t.key = key
	return t.pushOrdered(b, out)
}

// sortFailure has the message that tells of a failure come after those that t has sent.
func (t *fanTarget) sortFailure(b *h2.Batch, m []byte) {
	t.pushOrdered(b, append(make([]byte, prefixLen, prefixLen+len(m)), m...))
}

func (t *fanTarget) pushOrdered(b *h2.Batch, out []byte) bool {
	putPrefix(out, len(out)-prefixLen)
	if !t.f.hold(b, t, len(out)) {
		return false
	}
	return t.f.sendOrdered(b, t.f.order.Push(t.index, t.key, len(out), orderedMessage{t, out}))
}

// endOrdered is told that no more comes of t: others need not wait for it.
func (t *fanTarget) endOrdered(b *h2.Batch) {
	if t.f.order != nil {
		t.f.sendOrdered(b, t.f.order.End(t.index))
	}
}

// drainOrdered sends all that waits.
func (f *fanCall) drainOrdered(b *h2.Batch) bool {
	return f.order == nil || f.sendOrdered(b, f.order.Drain())
}

func (f *fanCall) sendOrdered(b *h2.Batch, messages []orderedMessage) bool {
	for _, m := range messages {
		f.unhold(m.t, len(m.p))
		if !f.send(b, m.p) {
			return false
		}
	}
	return true
}

// orderKey calls the program's function, and has a panic be an error.
func orderKey(key func([]byte) string, message []byte) (k string, err error) {
	defer recovered("OrderKey", &err)
	return key(message), nil
}
