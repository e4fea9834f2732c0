// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package relay

import (
	"time"

	"google.golang.org/grpc/codes"

	"github.com/manifold-grpc/manifold/internal/h2"
	"github.com/manifold-grpc/manifold/internal/h2/frame"
)

// A target that a decided call needs no more may go on for a while (FanOut.LetFinish). It is loose then: for the call it
// is cancelled, its stream goes on, and what comes of it is dropped.

// letGoOn has the targets that still run be loose, where the request is complete: of one that is not, nobody reads the rest.
func (f *fanCall) letGoOn(b *h2.Batch) {
	c := f.c
	if f.cfg.LetFinish <= 0 || !c.reqEnd {
		return
	}
	for i := range f.targets {
		t := &f.targets[i]
		if t.stage != targetOpen || c.reqCount.bytes-t.sent > maxLooseQueue {
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
		t.cancelled()
		t.stage = targetLoose
		f.loose++
	}
	if f.loose > 0 {
		c.mayReuse = false // the timer may come late
		f.looseTimer = time.AfterFunc(f.cfg.LetFinish, f.endLoose)
	}
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
		if code != codes.OK && t.stage == targetLoose {
			t.looseEnd(b, frame.Cancel, codes.Canceled, ReasonCanceled)
		}
	}
}

// endLoose is what the timer does: whoever has not ended is cancelled now.
func (f *fanCall) endLoose() {
	var b h2.Batch
	f.c.mu.Lock()
	for i := range f.targets {
		if t := &f.targets[i]; t.stage == targetLoose {
			t.looseEnd(&b, frame.Cancel, codes.Canceled, ReasonCanceled)
		}
	}
	f.c.mu.Unlock()
	b.Flush()
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
	t.up.Reset(b, reset) // if it has not ended
	t.stage = targetEnded
	t.ep.inFlight.Add(-1)
	t.f.c.srv.loose.Add(-1)
	t.attemptEnded(true, code, reason)
	if t.f.loose--; t.f.loose == 0 {
		t.f.looseTimer.Stop()
	}
}
