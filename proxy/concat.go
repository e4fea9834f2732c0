// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"slices"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/manifold-grpc/manifold/fanout"
)

// kind is what is known of a method: whether the caller expects one message or many.
type kind int

const (
	// kindUnknown is taken for unary until something shows that it is not: see concat.message.
	kindUnknown kind = iota
	kindUnary
	kindStreaming
)

// concat makes one answer of those of all targets. Of a unary call the messages are joined, byte after byte in the
// order of the targets, which protobuf reads as one message whose repeated fields hold all elements. Of a streaming
// call they are passed on as they come.
type concat struct {
	outlet

	// Guarded by turn.
	kind       kind
	headersDue int                                    // targets that may still bring a header
	merged     int                                    // bytes in the parts of all targets
	arrivals   int                                    // targets that have ended
	order      *fanout.Merge[string, mem.BufferSlice] // nil: messages of a stream go out as they come
}

var _ carrier = (*concat)(nil)

// part is what concat holds of one target of a call that is not streaming. It is guarded by concat.turn.
type part struct {
	header   metadata.MD        // nil if there is none
	ended    bool               // nothing more comes of it
	spoiled  bool               // a hook failed on it from another target's goroutine; the answer has that error already
	messages []mem.BufferSlice  // with their information, to be joined
	one      [1]mem.BufferSlice // the first array of messages

	// For calls with options.
	arrival int    // the target was the n-th to end
	joins   bool   // it ended in such a way that messages belong into the joined answer
	key     string // the last one in the ordered stream

	// For kindUnknown, which may turn out to be streaming: the same as the backend sent it.
	raw      Frame
	hasRaw   bool
	rawError error // nil if there is no error, else what the last of messages tells of
}

func (a *concat) init(f *fanCall) {
	a.outlet.init(f)
	a.headersDue = len(f.targets)

	if o := f.options; o != nil && o.OrderKey != nil {
		a.order = fanout.NewMerge[string, mem.BufferSlice](len(f.targets), o.OrderWindow, o.OrderBytes)
	}

	if detect := f.handler.options.streamedDetector; detect != nil {
		a.kind = f.detectKind(detect)
	}
}

// detectKind asks the detector. A panic there leaves the kind unknown.
func (f *fanCall) detectKind(detect StreamedDetectorFunc) (k kind) {
	var err error
	defer f.recovered("the streamed detector", &err)

	if detect(f.method) {
		return kindStreaming
	}

	return kindUnary
}

// header takes note of a target's header, or that it brings none. A streaming call gets the header that comes first; to
// a call whose answers are joined all of them matter, and go out together as soon as no other can come.
func (a *concat) header(t *fanTarget, md metadata.MD) {
	a.lock()
	defer a.unlock()

	t.part.header = md
	a.headersDue--

	if md == nil && a.headersDue > 0 || a.headerSent || a.closed {
		return
	}

	if a.kind == kindStreaming || a.headersDue == 0 {
		a.sendHeader()
	}
}

// sendHeader sends the headers that are there, in the order of the targets. turn is held.
func (a *concat) sendHeader() {
	var joined metadata.MD

	found := false

	for i := range a.fan.targets {
		header := a.fan.targets[i].part.header
		found = found || header != nil

		if len(header) > 0 && joined == nil {
			joined = make(metadata.MD, len(header))
		}

		for key, values := range header {
			joined[key] = append(slices.Clip(joined[key]), values...)
		}
	}

	if !found || a.headerSent {
		return
	}

	a.headerSent = true

	if err := tolerateLateHeader(a.fan.stream.SendHeader(joined)); err != nil {
		a.fan.abort(a.fan.callerError(err))
	}
}

func (a *concat) message(t *fanTarget, f *Frame) error {
	a.lock()
	if a.closed {
		a.unlock()

		return nil
	}

	kind := a.kind

	// A second message of one backend shows a stream. So does a message that comes before the caller has half-closed: to
	// hold it back would leave the caller of a conversation, who waits for it, waiting for ever.
	if kind == kindUnknown && (t.part.hasRaw || !a.fan.requestsOver.Load()) {
		a.becomeStreaming()
		kind = kindStreaming
	}

	spoiled := t.part.spoiled
	a.unlock()

	if spoiled {
		return errSpoiled
	}

	if err := t.boundOf(kind, f); err != nil {
		return err
	}

	m, err := t.appendInfo(kind == kindStreaming, f)
	if err != nil {
		return err
	}

	a.lock()
	defer a.unlock()

	if a.closed {
		m.Free()

		return nil
	}

	if kind == kindStreaming {
		return a.emit(t, f, m)
	}

	if a.kind != kind { // another target showed that it is a stream while the hook ran
		m.Free()

		return a.resend(t, f)
	}

	if kind == kindUnknown {
		f.data.Ref()
		t.part.raw.data, t.part.hasRaw = f.data, true
	}

	return a.keep(t, m)
}

// errSpoiled ends a target whose answer was spoiled by a hook that ran on another goroutine, which has reported it.
var errSpoiled = status.Error(codes.Internal, "proxy: a hook failed")

// resend passes a message on in its streaming form after all. turn is held.
func (a *concat) resend(t *fanTarget, f *Frame) error {
	m, err := t.appendInfo(true, f)
	if err != nil {
		return err
	}

	return a.emit(t, f, m)
}

// becomeStreaming sends what was held back, each message for itself. turn is held.
func (a *concat) becomeStreaming() {
	a.kind = kindStreaming
	a.sendHeader()

	for i := range a.fan.targets {
		t := &a.fan.targets[i]
		held := t.part
		t.part.messages, t.part.raw, t.part.hasRaw, t.part.rawError = nil, Frame{}, false, nil

		for _, m := range held.messages {
			m.Free()
		}

		if held.hasRaw {
			if err := a.resend(t, &held.raw); err != nil {
				t.part.spoiled = true
				t.end(PhaseHook, err)

				if a.fan.options == nil {
					a.report(t, err)
				}
			}

			held.raw.free()
		}

		if held.rawError != nil {
			a.report(t, held.rawError)
		}
	}

	// Only now that what they sent is in the order too.
	for i := range a.fan.targets {
		if a.fan.targets[i].part.ended {
			a.endOrdered(i)
		}
	}
}

// endOrdered has an order not wait for a target any more. turn is held.
func (a *concat) endOrdered(index int) {
	if a.order != nil {
		_ = a.sendAll(a.order.End(index)) // which has aborted the call
	}
}

// ended puts what became of the target into the answer.
func (a *concat) ended(t *fanTarget, phase Phase, err error) (told telling) {
	a.lock()
	defer a.unlock()

	if a.closed {
		return telling{}
	}

	t.part.arrival = a.arrivals
	a.arrivals++
	failed := err != nil && phase != PhaseCancelled

	if a.fan.options != nil {
		t.part.joins = !(err != nil && phase == PhaseCancelled)

		// Half an answer must not look like a whole one. Only best effort has always had it so.
		if err != nil && a.fan.options.Policy != fanout.BestEffort() {
			a.drop(t)
		}
	}

	// What was spoiled by another target's goroutine is in the answer already, but for calls with options.
	if failed && (!t.part.spoiled || a.fan.options != nil) {
		told = a.report(t, err)
	}

	t.part.ended = true
	if a.kind == kindStreaming {
		a.endOrdered(t.index)
	}

	return told
}

// report puts an error into the answer. Without options it ends the call with it when the backend makes no message
// of it. turn is held.
func (a *concat) report(t *fanTarget, cause error) telling {
	if a.fan.ctx.Err() != nil {
		return telling{}
	}

	m, made, err := t.buildError(a.kind == kindStreaming, cause)
	if err != nil {
		cause = err
	}

	if !made {
		if a.fan.options == nil {
			a.fan.fail(t, cause)
		}

		// A backend that has no hook does not say that its failure is to end the call.
		return telling{veto: !appendsNothing(t.backend)}
	}

	if a.kind == kindStreaming {
		_ = a.emit(t, nil, m) // which has aborted the call

		return telling{inAnswer: true}
	}

	if a.kind == kindUnknown {
		t.part.rawError = cause
	}

	_ = a.keep(t, m) // likewise

	return telling{inAnswer: true}
}

// finish sends the joined answer of a call that is not streaming.
func (a *concat) finish() error {
	a.lock()
	defer a.unlock()

	a.closed = true
	joined, found := a.join()

	// Headers of targets that the call was decided without come no more.
	if a.headersDue > 0 {
		a.sendHeader()
	}

	if a.order != nil {
		if err := a.sendAll(a.order.Drain()); err != nil {
			joined.Free()

			return err
		}
	}

	// No message at all is no message for the caller either: an empty one would look like success.
	if a.kind == kindStreaming || !found {
		return nil
	}

	return a.sendMessage(joined)
}

// discard frees what finish would have sent.
func (a *concat) discard() {
	a.lock()
	defer a.unlock()

	a.closed = true
	joined, _ := a.join()
	joined.Free()

	if a.order != nil {
		for _, m := range a.order.Drain() {
			m.Free()
		}
	}
}

// boundOf checks what a target has sent by now, of a call that is not streaming, or else the message.
func (t *fanTarget) boundOf(k kind, f *Frame) error {
	if k == kindStreaming || t.fan.options == nil {
		return t.bound(f.Len())
	}

	return t.bound(int(t.responseBytes))
}
