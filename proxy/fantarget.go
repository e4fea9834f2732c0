// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"errors"
	"io"
	"math"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"

	"github.com/manifold-grpc/manifold/fanout"
)

// fanTarget is one target of a fan-out.
type fanTarget struct {
	target
	fan   *fanCall
	queue requestQueue
	claim claim

	// Owned by the goroutine of run.
	callCtx  context.Context // ends with the call, or when the target's part in it does
	cancel   context.CancelCauseFunc
	clocks   clocks // zero without options
	startErr error  // why there is no stream
	prompt   bool   // the channel is a PromptChannel
	response Frame
	sender   sync.WaitGroup // the goroutine of sendRequests, if there is one

	// delivered counts the moments at which a header or a response set out for the caller, or was there: it is odd in between.
	delivered atomic.Int64

	request Frame // owned by whoever sends: run, or the sender

	over   atomic.Bool    // all that follows is set and does not change, and so is the trailer
	result fanout.Outcome // for calls whose options ask for it
	told   bool           // its outcome has been an event of the answer: guarded by outlet.turn
	part   part           // what the answer keeps of this target: guarded by concat.turn
}

func (t *fanTarget) init(f *fanCall, b Backend, index int) {
	t.target.init(f.call, b, index)
	t.fan = f
	t.queue.init(f.handler.options.fanoutLimits, &t.requestMessages, &t.delivered)

	if o := f.options; o != nil {
		if o.DropSlow {
			t.queue.stallAfter = noWait
		}

		if o.tells() {
			t.begin = f.begin
		}
	}

	t.callCtx, t.cancel = context.WithCancelCause(f.base)
}

// run is the life of the target: connect, send, receive, report. It returns when nothing of the target is left.
func (t *fanTarget) run() {
	if t.fan.options != nil {
		t.startClocks()
	}

	if t.startErr = t.connect(t.callCtx); t.startErr == nil {
		t.startErr = t.openStream()
	}

	t.rest()
}

// openAndRest is run for a target that is connected already.
func (t *fanTarget) openAndRest() {
	t.startErr = t.openStream()
	t.rest()
}

// openStream opens the stream and sees to the requests.
func (t *fanTarget) openStream() error {
	desc := upstreamDesc
	if _, t.prompt = prompt(t.channel); t.prompt && t.queue.whole() {
		desc = oneRequestDesc
	}

	if err := t.open(desc); err != nil {
		return err
	}

	t.connected()
	t.startRequests()

	return nil
}

// rest is the life of the target from there on.
func (t *fanTarget) rest() {
	defer t.fan.running.Done()

	phase, err := t.exchange()

	t.cancel(nil)
	t.stopClocks()
	t.queue.kill()
	t.sender.Wait()
	t.response.free()

	if err != nil {
		phase, err = t.reason(phase, err)
	}

	var o Outcome

	if !t.begin.IsZero() {
		o = t.outcome(phase, err)
		t.result = o.report(t.index)
	}

	t.over.Store(true)
	told := t.fan.answer.ended(t, phase, err)

	if !t.begin.IsZero() {
		t.done(o)
	}

	if t.fan.options != nil {
		t.fan.targetEnded(t, phase, err, told)
	}
}

// exchange moves messages until the stream ends.
func (t *fanTarget) exchange() (Phase, error) {
	if t.startErr != nil {
		t.fan.answer.header(t, nil)

		return PhaseConnect, statusOr(codes.Unavailable, t.startErr)
	}

	return t.moveResponses()
}

// promptBytes is the largest message that a PromptChannel takes without waiting: 64 KiB with its prefix.
const promptBytes = 64<<10 - 5

// startRequests sends the requests here if they are all there and sending them cannot block, and else starts a goroutine.
//
// grpc-go lets each stream write 64 KiB, and the message that crosses that limit, before the transport must
// have taken any of it, so the first message of a stream never blocks. Another PromptChannel promises that for
// messages of up to promptBytes only. Nothing is known of other channels.
func (t *fanTarget) startRequests() {
	if t.prompt {
		limit := promptBytes
		if _, ok := t.channel.(*grpc.ClientConn); ok {
			limit = math.MaxInt
		}

		if batch, ok := t.queue.takeWhole(limit); ok {
			if t.sendBatch(batch) {
				t.closeRequests()
			}

			return
		}
	}

	t.sender.Go(t.sendRequests) // ends with the requests, or when the queue is killed
}

// sendRequests sends what the queue gives.
func (t *fanTarget) sendRequests() {
	for {
		batch, complete := t.queue.take()
		if len(batch) == 0 {
			if complete {
				t.closeRequests()
			}

			return
		}

		if !t.sendBatch(batch) {
			t.queue.kill()

			return
		}
	}
}

// sendBatch sends and frees the messages. It reports false when no more can be sent.
func (t *fanTarget) sendBatch(batch []mem.BufferSlice) bool {
	ok := true

	for i, data := range batch {
		t.request.data = data
		ok = ok && t.sendOne(&t.request)
		t.request.free()

		batch[i] = nil
	}

	return ok
}

func (t *fanTarget) sendOne(f *Frame) bool {
	err := t.send(f)
	switch {
	case err == nil:
		t.active()
	case err != io.EOF: // then the backend has ended the call, and its status says why
		t.end(PhaseRequest, err)
	}

	return err == nil
}

func (t *fanTarget) closeRequests() {
	if err := t.halfClose(); err != nil {
		t.end(PhaseRequest, err)
	}
}

// moveResponses takes the header, the messages and the trailer.
func (t *fanTarget) moveResponses() (Phase, error) {
	header, err := t.receiveHeader()

	t.delivered.Add(1)
	t.fan.answer.header(t, header)
	t.delivered.Add(1)

	if err != nil {
		return PhaseComplete, statusOr(codes.Unavailable, err)
	}

	for {
		if err := t.receive(&t.response); err == io.EOF {
			return PhaseComplete, nil
		} else if err != nil {
			return PhaseComplete, statusOr(codes.Unknown, err)
		}

		t.active()

		if t.responseMessages > 1 || t.response.Len() >= manyBytes {
			t.fan.hurry()
		}

		if err := t.deliver(); err != nil {
			var end *targetEnd
			if errors.As(err, &end) {
				return end.phase, end.err
			}

			return PhaseHook, err
		}

		t.active()

		if err := t.callCtx.Err(); err != nil { // or all that the stream has buffered would still come
			return PhaseCancelled, status.FromContextError(err).Err()
		}
	}
}

// deliver puts the response into the answer.
func (t *fanTarget) deliver() error {
	t.delivered.Add(1)
	defer t.delivered.Add(1)
	defer t.response.free()

	return t.fan.answer.message(t, &t.response)
}
