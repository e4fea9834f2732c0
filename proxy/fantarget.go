// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"io"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
)

// fanTarget is one target of a fan-out.
type fanTarget struct {
	target
	fan   *fanout
	queue requestQueue
	claim claim

	// Owned by the goroutine of run.
	callCtx  context.Context // ends with the call, or when the target's part in it does
	cancel   context.CancelFunc
	startErr error // why there is no stream
	response Frame
	sender   sync.WaitGroup // the goroutine of sendRequests, if there is one

	// delivered counts the moments at which a header or a response set out for the caller, or was there: it is odd in between.
	delivered atomic.Int64

	request Frame // owned by whoever sends: run, or the sender

	errMu      sync.Mutex
	requestErr error // guarded by errMu; why the requests ended before their end

	part part // what the answer keeps of this target: guarded by concat.turn
}

func (t *fanTarget) init(f *fanout, b Backend, index int) {
	t.target.init(f.call, b, index)
	t.fan = f
	t.queue.init(f.handler.options.fanoutLimits, &t.requestMessages, &t.delivered)
	t.callCtx, t.cancel = context.WithCancel(f.ctx)
}

// run is the life of the target: connect, send, receive, report. It returns when nothing of the target is left.
func (t *fanTarget) run() {
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
	if _, ok := t.channel.(*grpc.ClientConn); ok && t.queue.whole() {
		desc = oneRequestDesc
	}

	if err := t.open(desc); err != nil {
		return err
	}

	t.startRequests()

	return nil
}

// rest is the life of the target from there on.
func (t *fanTarget) rest() {
	defer t.fan.running.Done()
	defer t.cancel()

	phase, err := t.exchange()

	t.cancel()
	t.queue.kill()
	t.sender.Wait()
	t.response.free()

	phase, err = t.settle(phase, err)
	t.finish(phase, err)
}

// exchange moves messages until the stream ends.
func (t *fanTarget) exchange() (Phase, error) {
	if t.startErr != nil {
		t.fan.answer.header(t, nil)

		return PhaseConnect, statusOr(codes.Unavailable, t.startErr)
	}

	return t.moveResponses()
}

// startRequests sends the requests here if they are all there and sending them cannot block, and else starts a goroutine.
//
// grpc-go lets each stream write 64 KiB, and the message that crosses that limit, before the transport must
// have taken any of it, so the first message of a stream never blocks. Nothing is known of other channels.
func (t *fanTarget) startRequests() {
	if _, ok := t.channel.(*grpc.ClientConn); ok {
		if batch, ok := t.queue.takeWhole(); ok {
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
	if err != nil && err != io.EOF { // io.EOF: the backend has ended the call, and its status says why
		t.endRequests(err)
	}

	return err == nil
}

func (t *fanTarget) closeRequests() {
	if err := t.halfClose(); err != nil {
		t.endRequests(err)
	}
}

// endRequests ends the target's part in the call because of its requests.
func (t *fanTarget) endRequests(err error) {
	t.errMu.Lock()
	if t.requestErr == nil {
		t.requestErr = err
	}
	t.errMu.Unlock()

	t.cancel()
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

		if t.responseMessages > 1 || t.response.Len() >= manyBytes {
			t.fan.hurry()
		}

		if err := t.deliver(); err != nil {
			return PhaseHook, err
		}

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

// settle finds out why the target ended and, when that is the target's own error, puts it into the answer.
func (t *fanTarget) settle(phase Phase, err error) (Phase, error) {
	if err == nil {
		return phase, nil
	}

	t.errMu.Lock()
	requestErr := t.requestErr
	t.errMu.Unlock()

	switch {
	case t.fan.ctx.Err() != nil || t.fan.callerGone() != nil:
		return PhaseCancelled, err
	case requestErr != nil && phase != PhaseHook:
		phase, err = PhaseRequest, requestErr
	}

	t.fan.answer.failure(t, err)

	return phase, err
}
