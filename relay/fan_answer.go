// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package relay

import (
	"encoding/binary"
	"fmt"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/manifold-grpc/manifold/fanout"
	"github.com/manifold-grpc/manifold/internal/h2"
	"github.com/manifold-grpc/manifold/internal/h2/frame"
)

// maxWaiting is how many octets may wait for a client before the targets' messages wait in their inboxes. With
// it what is held for a client that reads nothing is that, a message, and the receive window of each target.
const maxWaiting = 32 << 10

// blocked reports whether the client has enough to read.
func (f *fanCall) blocked() bool { return f.cfg.streams() && f.waiting > maxWaiting }

// receive takes octets of the target's response, and returns how many it can be granted again.
func (t *fanTarget) receive(b *h2.Batch, p []byte) (passed int) {
	if t.in.empty() && !t.f.blocked() {
		passed = t.direct(b, p)
		p = p[passed:]
		if len(p) == 0 || t.stage != targetOpen {
			return passed
		}
	}
	if !t.f.hold(b, t, len(p)) {
		return passed
	}
	t.in.add(p)
	t.pump(b) // first: what is whole has its place before what is too large
	if t.stage != targetOpen || !t.checkSize(b) {
		return passed
	}
	return passed + t.in.grants()
}

// checkSize has the target fail whose next message is too large to be held.
func (t *fanTarget) checkSize(b *h2.Batch) bool {
	p := t.in.buf[t.in.scanned:]
	limit := or(t.f.cfg.Limits.TargetBytes, defaultTargetBytes)
	if len(p) < prefixLen || int64(binary.BigEndian.Uint32(p[1:prefixLen])) <= int64(limit) {
		return true
	}
	t.fail(b, phaseReceive, codes.ResourceExhausted, ReasonFanLimit,
		fmt.Sprintf("message of %d bytes, at most %d allowed (TargetBytes)", binary.BigEndian.Uint32(p[1:prefixLen]), limit))
	return false
}

// direct takes the whole messages that p starts with, and returns how many octets they are.
func (t *fanTarget) direct(b *h2.Batch, p []byte) int {
	done := 0
	if t.plain() {
		if done = plainRun(p); done > 0 && !t.f.send(b, p[:done]) {
			return len(p)
		}
	}
	for !t.f.blocked() {
		n, ok := wholeMessage(p[done:])
		if !ok {
			break
		}
		if !t.message(b, p[done:done+n:done+n]) {
			return len(p)
		}
		done += n
	}
	return done
}

// plain reports whether messages of the target need no touch.
func (t *fanTarget) plain() bool {
	return t.f.cfg.Streaming && !t.f.cfg.Envelope && t.f.merge == nil && t.f.order == nil && t.target().Annotator == nil
}

// pump passes on the whole messages in the inbox, while the client has room.
func (t *fanTarget) pump(b *h2.Batch) {
	for t.in.messages > 0 && !t.f.blocked() {
		if !t.pumpOne(b) {
			return
		}
	}
}

func (t *fanTarget) pumpOne(b *h2.Batch) bool {
	m := t.in.pop()
	t.f.unhold(t, len(m)) // what of it is kept is held anew
	return t.message(b, m)
}

// message takes a whole message with its prefix. It returns false if the target's part is over by it.
func (t *fanTarget) message(b *h2.Batch, m []byte) bool {
	payload := m[prefixLen:]
	if m[0] != 0 {
		var err error
		if payload, err = t.inflate(m[0], payload); err != nil {
			st := status.Convert(err)
			t.forgo()
			t.fail(b, phaseReceive, st.Code(), ReasonEncoding, st.Message())
			return false
		}
	}
	switch {
	case t.f.merge != nil:
		return t.mergeMessage(b, payload)
	case t.f.cfg.Envelope:
		return t.f.sendEnvelope(b, t, payload)
	case t.f.order != nil:
		return t.sort(b, payload)
	case t.f.cfg.Streaming:
		return t.stream(b, payload)
	}
	return t.keep(b, payload)
}

// keep adds a message to the target's answer, which waits for those of the others.
func (t *fanTarget) keep(b *h2.Batch, payload []byte) bool {
	if !t.f.hold(b, t, len(payload)) {
		return false
	}
	start := len(t.answer)
	t.answer = append(t.answer, payload...)
	a := t.target().Annotator
	if a == nil {
		t.answered = true
		return true
	}
	out, err := appendInfo(a, false, t.answer[start:len(t.answer):len(t.answer)])
	if err != nil {
		t.spoiled(b, err)
		return false
	}
	if grown := len(out) - len(payload); grown > 0 && !t.f.hold(b, t, grown) {
		return false
	}
	if start == 0 && len(out) > keepInbox {
		t.answer = out
	} else {
		t.answer = append(t.answer[:start], out...)
	}
	t.answered = true
	return true
}

// forgo drops what waits of t, which has failed by a message before it.
func (t *fanTarget) forgo() { t.f.unhold(t, t.in.drop()) }

// spoiled has the target fail because of its annotator.
func (t *fanTarget) spoiled(b *h2.Batch, err error) {
	st := status.Convert(err)
	t.forgo()
	t.leave(b, frame.Cancel, codes.Canceled, ReasonHook)
	t.phase, t.reason, t.status = phaseHook, ReasonHook, st
	t.end(b)
}

// stream sends a message to the client, with the target's source.
func (t *fanTarget) stream(b *h2.Batch, payload []byte) bool {
	s := scratchPool.Get().(*scratch)
	defer s.free()
	s.p = append(append(s.p[:0], make([]byte, prefixLen)...), payload...)
	out := s.p[prefixLen:]
	if a := t.target().Annotator; a != nil {
		var err error
		if out, err = appendInfo(a, true, out); err != nil {
			t.spoiled(b, err)
			return false
		}
	}
	return t.f.sendOwn(b, s, out)
}

// sendOwn sends a message that is behind the room for its prefix in s, or elsewhere.
func (f *fanCall) sendOwn(b *h2.Batch, s *scratch, out []byte) bool {
	n := len(out)
	if n > 0 && cap(s.p) > prefixLen && &out[0] == &s.p[:prefixLen+1][prefixLen] {
		s.p = s.p[:prefixLen+n]
	} else {
		s.p = append(s.p[:prefixLen], out...)
	}
	putPrefix(s.p, n)
	return f.send(b, s.p)
}

// putPrefix writes the prefix of a message of n octets without compression.
func putPrefix(p []byte, n int) {
	p[0] = 0
	binary.BigEndian.PutUint32(p[1:prefixLen], uint32(n))
}

// send sends whole messages to the client. If it returns false the call is over.
func (f *fanCall) send(b *h2.Batch, p []byte) bool {
	f.sendHead(b)
	c := f.c
	c.resCount.feed(p, 0)
	passed, err := c.down.Send(b, p, false)
	if err != nil {
		c.overBudget(b)
		return false
	}
	f.waiting += len(p) - passed
	return true
}

// clientCredit is told that octets left that the client had no room for: those that wait have their turn.
func (f *fanCall) clientCredit(b *h2.Batch, n int) {
	f.waiting -= n
	if !f.cfg.streams() {
		return
	}
	resumed := false
	for idle := 0; idle < len(f.targets) && f.running() && !f.blocked(); {
		t := &f.targets[f.turn]
		f.turn = (f.turn + 1) % len(f.targets)
		if t.stage != targetOpen && t.stage != targetDraining || t.in.messages == 0 {
			idle++
			continue
		}
		idle, resumed = 0, true
		t.resume(b)
	}
	if resumed && f.running() {
		f.arm(time.Now()) // while they waited for the client, theirs was none of the times
	}
}

// resume passes on one message that waited.
func (t *fanTarget) resume(b *h2.Batch) {
	if !t.pumpOne(b) || !t.f.running() {
		return
	}
	if n := t.in.grants(); n > 0 && t.stage == targetOpen {
		t.up.Consumed(b, n)
	}
	t.touch()
	if t.stage == targetDraining && t.in.messages == 0 {
		t.settle(b)
	}
}

// tell puts the end of a target into the answer: a failure as a message that the annotator makes of
// it, any end as an outcome in an envelope.
func (t *fanTarget) tell(b *h2.Batch) (inAnswer, veto bool) {
	switch {
	case t.f.merge != nil:
		t.f.mergeOutcome(b, t)
		return false, false
	case t.f.cfg.Envelope:
		t.f.sendOutcome(b, t)
		return false, false
	case t.status == nil:
		t.arrive()
		return false, false
	}
	// Half an answer must not look like a whole one. Best effort has always had it, with the failure behind it.
	if t.f.cfg.Policy != fanout.BestEffort() || t.phase != phaseComplete {
		t.answer, t.answered = t.answer[:0], false
	}
	a := t.target().Annotator
	if a == nil {
		return false, true
	}
	m, err := buildError(a, t.f.cfg.Streaming, t.status.Err())
	switch {
	case err != nil:
		t.phase, t.reason, t.status = phaseHook, ReasonHook, status.Convert(err)
		return false, true
	case m == nil:
		return false, true
	case t.f.order != nil:
		t.sortFailure(b, m)
		return true, false
	case t.f.cfg.Streaming:
		s := scratchPool.Get().(*scratch)
		defer s.free()
		s.p = append(s.p[:0], make([]byte, prefixLen)...)
		return t.f.sendOwn(b, s, m), false
	}
	t.answer, t.answered = append(t.answer, m...), true
	t.arrive()
	return true, false
}

func (t *fanTarget) arrive() {
	if t.answered {
		t.f.arrivals++
		t.arrival = t.f.arrivals
	}
}

// appendInfo calls the annotator's method, and has a panic be an error.
func appendInfo(a Annotator, streaming bool, resp []byte) (out []byte, err error) {
	defer recovered("AppendInfo", &err)
	return a.AppendInfo(streaming, resp)
}

// buildError calls the annotator's method, and has a panic be an error.
func buildError(a Annotator, streaming bool, cause error) (out []byte, err error) {
	defer recovered("BuildError", &err)
	return a.BuildError(streaming, cause)
}

func recovered(where string, err *error) {
	if r := recover(); r != nil {
		*err = status.Errorf(codes.Internal, "relay: panic in %s: %v", where, r)
	}
}
