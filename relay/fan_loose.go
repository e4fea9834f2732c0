// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package relay

import (
	"bytes"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/manifold-grpc/manifold/internal/h2"
	"github.com/manifold-grpc/manifold/internal/h2/frame"
)

// A target that a decided call needs no more may go on for a while (FanOut.LetFinish). It is loose then: for the call it
// is cancelled, its stream goes on, and what comes of it is dropped. One that waits for a stream goes on with that, and gets the whole
// request.

// letGoOn has the targets that still run be loose, where the request is complete: of one that is not, nobody reads the rest.
func (f *fanCall) letGoOn(b *h2.Batch) {
	c := f.c
	if f.cfg.LetFinish <= 0 || !c.reqEnd {
		return
	}
	for i := range f.targets {
		t := &f.targets[i]
		if !t.mayGoOn() {
			continue
		}
		if c.srv.loose.Add(1) > maxLoose {
			c.srv.loose.Add(-1)
			break
		}
		t.messages, t.octets = c.reqCount.messages, c.reqCount.bytes
		if n := t.in.ungranted; n > 0 {
			t.up.Consumed(b, n)
		}
		stage := targetLoose
		if t.stage == targetQueued {
			stage = targetLooseQueued
			f.unopened--
		}
		t.cancelled()
		t.stage = stage
		f.loose++
	}
	if f.loose == 0 {
		f.dropLooseRequest() // kept for one that may not after all
		return
	}
	c.mayReuse = false // the timer may come late
	now := time.Now()
	f.looseUntil = now.Add(f.cfg.LetFinish)
	if end := c.start.Add(c.timeout); c.timeout > 0 && end.Before(f.looseUntil) {
		f.looseUntil = end
	}
	f.looseTimer = time.AfterFunc(f.nextLoose().Sub(now), f.expireLoose)
}

// dropLooseRequest gives back what was kept of the request.
func (f *fanCall) dropLooseRequest() {
	f.c.srv.budget.Release(int64(len(f.looseRequest)))
	f.looseRequest = nil
}

// mayGoOn reports whether t can be loose: there is not too much of its request to go, and if it waits for a stream, all of it is here.
func (t *fanTarget) mayGoOn() bool {
	f, c := t.f, t.f.c
	switch t.stage {
	case targetOpen:
		return c.reqCount.bytes-t.sent <= maxLooseQueue
	case targetQueued:
		n := len(c.replay.p)
		if c.replay.over || n > maxLooseQueue {
			return false
		}
		if f.looseRequest == nil && n > 0 { // the call drops its own
			if !c.srv.budget.Reserve(int64(n)) {
				return false
			}
			f.looseRequest = bytes.Clone(c.replay.p)
		}
		return true
	}
	return false
}

// The client's limits on streams do not bound loose ones, as its call has ended. So there are at most maxLoose of a server, each with at most
// maxLooseQueue octets of its request to go; a target beyond that is cancelled as if it were not let.
const (
	maxLoose      = 4096
	maxLooseQueue = 64 << 10
)

// closeLoose is told of the end of the call. What the call kept of its answers is not kept with the streams; if it failed after
// all, these end as well.
func (f *fanCall) closeLoose(b *h2.Batch, code codes.Code) {
	for i := range f.targets {
		t := &f.targets[i]
		t.answer, t.in, t.header, t.trailer, t.wrap = nil, inbox{}, nil, nil, nil
		if code != codes.OK && t.stage >= targetLoose {
			t.looseEnd(b, frame.Cancel, codes.Canceled, ReasonCanceled)
		}
	}
}

// nextLoose returns when something is due of the loose targets: their end, or that of the time to connect of those that wait.
func (f *fanCall) nextLoose() time.Time {
	next := f.looseUntil
	for i := range f.targets {
		if t := &f.targets[i]; t.stage == targetLooseQueued && t.connectUntil().Before(next) {
			next = t.connectUntil()
		}
	}
	return next
}

// connectUntil returns when the target must have a stream.
func (t *fanTarget) connectUntil() time.Time {
	return t.since.Add(or(t.f.cfg.ConnectTimeout, defaultConnectTimeout))
}

// expireLoose is what the timer does: whoever has not ended by its time is cancelled.
func (f *fanCall) expireLoose() {
	var b h2.Batch
	f.c.mu.Lock()
	now := time.Now()
	for i := range f.targets {
		t := &f.targets[i]
		switch {
		case t.stage >= targetLoose && !now.Before(f.looseUntil):
			t.looseEnd(&b, frame.Cancel, codes.Canceled, ReasonCanceled)
		case t.stage == targetLooseQueued && !now.Before(t.connectUntil()):
			t.looseEnd(&b, frame.Cancel, codes.DeadlineExceeded, ReasonTargetTimeout)
		}
	}
	if f.loose > 0 {
		f.looseTimer.Reset(f.nextLoose().Sub(now))
	}
	f.c.mu.Unlock()
	b.Flush()
}

// sendLoose sends the request on the stream that a loose target has got.
func (t *fanTarget) sendLoose(b *h2.Batch) {
	t.stage = targetLoose
	if len(t.f.looseRequest) == 0 {
		return
	}
	if _, err := t.up.Send(b, t.f.looseRequest, true); err != nil {
		t.looseEnd(b, frame.Cancel, codes.ResourceExhausted, ReasonBufferBudget)
	}
}

// isLoose reports whether a is the stream of a loose target.
func (t *fanTarget) isLoose(a *attempt) bool { return t.up == a && t.stage == targetLoose }

// looseHeaders takes a header block of a loose target.
func (t *fanTarget) looseHeaders(b *h2.Batch, head h2.Head) {
	switch {
	case head.TooLarge != nil:
		t.looseEnd(b, frame.Cancel, codes.ResourceExhausted, ReasonUpstreamHeaders)
	case t.responded || head.EndStream:
		t.looseEnd(b, frame.NoError, statusOfFields(head.Fields).Code(), "")
	case head.Fields[0].Value[0] != '1': // no interim response
		t.responded = true
	}
}

// looseEnd ends the attempt of a loose target.
func (t *fanTarget) looseEnd(b *h2.Batch, reset frame.Code, code codes.Code, reason string) {
	f, opened := t.f, t.stage == targetLoose
	if opened {
		t.up.Reset(b, reset) // if it has not ended
	} else {
		t.ep.forget(t)
	}
	t.stage = targetEnded
	t.ep.inFlight.Add(-1)
	f.c.srv.loose.Add(-1)
	t.attemptEnded(opened, code, reason)
	if f.loose--; f.loose == 0 {
		f.looseTimer.Stop()
		f.dropLooseRequest()
	}
}
