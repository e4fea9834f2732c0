// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"slices"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
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
//
// It is the only thing that sends to the caller's stream while the targets run. Whatever else is to carry answers,
// such as an envelope for each message, takes its place behind the same methods: header, message, failure, finish.
// header is called once for each target, message and failure by the target's own goroutine, finish at the end.
type concat struct {
	fan *fanout

	// turn is a lock that may be held for long, by whoever sends to a caller that does not read. It guards the
	// sending side of the caller's stream and what follows.
	turn       chan struct{}
	kind       kind
	headersDue int  // targets that may still bring a header
	headerSent bool // or a message, which brings an empty one
	merged     int  // bytes in the parts of all targets
	out        Frame
}

func (a *concat) lock()   { a.turn <- struct{}{} }
func (a *concat) unlock() { <-a.turn }

// part is what concat holds of one target of a call that is not streaming. It is guarded by concat.turn.
type part struct {
	header   metadata.MD        // nil if there is none
	spoiled  bool               // a hook failed on it from another target's goroutine; the answer has that error already
	messages []mem.BufferSlice  // with their information, to be joined
	one      [1]mem.BufferSlice // the first array of messages

	// For kindUnknown, which may turn out to be streaming: the same as the backend sent it.
	raw      Frame
	hasRaw   bool
	rawError error // nil if there is no error, else what the last of messages tells of
}

func (a *concat) init(f *fanout) {
	a.fan, a.headersDue = f, len(f.targets)
	a.turn = make(chan struct{}, 1)

	if detect := f.handler.options.streamedDetector; detect != nil {
		a.kind = f.detectKind(detect)
	}
}

// detectKind asks the detector. A panic there leaves the kind unknown.
func (f *fanout) detectKind(detect StreamedDetectorFunc) (k kind) {
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

	if md == nil && a.headersDue > 0 || a.headerSent {
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

// message takes a response. The frame stays the caller's. An error means that the target's part in the call is over.
func (a *concat) message(t *fanTarget, f *Frame) error {
	a.lock()
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

	m, err := t.appendInfo(kind == kindStreaming, f)
	if err != nil {
		return err
	}

	a.lock()
	defer a.unlock()

	if kind == kindStreaming {
		return a.sendMessage(m)
	}

	if a.kind != kind { // another target showed that it is a stream while the hook ran
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

	return a.sendMessage(m)
}

// sendMessage sends and frees m. turn is held, so that a caller who does not read makes all targets wait.
func (a *concat) sendMessage(m mem.BufferSlice) error {
	a.out.data = m
	defer a.out.free()

	a.headerSent = true

	if err := a.fan.stream.SendMsg(&a.out); err != nil {
		err = a.fan.callerError(err)
		a.fan.abort(err)

		return err
	}

	return nil
}

// keep holds m until the answers are joined. turn is held.
func (a *concat) keep(t *fanTarget, m mem.BufferSlice) error {
	limit, n := a.fan.handler.options.fanoutLimits.MergedBytes, m.Len()

	if n > limit-a.merged {
		m.Free()

		err := status.Errorf(codes.ResourceExhausted, "proxy: the joined answers of the backends exceed the limit of %d bytes (MergedBytes)", limit)
		a.fan.abort(err)

		return err
	}

	a.merged += n
	if t.part.messages == nil {
		t.part.messages = t.part.one[:0]
	}

	t.part.messages = append(t.part.messages, m)

	return nil
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
				t.cancel()
				a.report(t, err)
			}

			held.raw.free()
		}

		if held.rawError != nil {
			a.report(t, held.rawError)
		}
	}
}

// failure takes the error that ended a target.
func (a *concat) failure(t *fanTarget, err error) {
	a.lock()
	defer a.unlock()

	if !t.part.spoiled {
		a.report(t, err)
	}
}

// report puts an error into the answer, or ends the call with it when the backend makes no message of it. turn is held.
func (a *concat) report(t *fanTarget, cause error) {
	if a.fan.ctx.Err() != nil {
		return
	}

	m, made, err := t.buildError(a.kind == kindStreaming, cause)
	if err != nil {
		cause = err
	}

	if !made {
		a.fan.fail(t, cause)

		return
	}

	if a.kind == kindStreaming {
		_ = a.sendMessage(m) // which has aborted the call

		return
	}

	if a.kind == kindUnknown {
		t.part.rawError = cause
	}

	_ = a.keep(t, m) // likewise
}

// finish sends the joined answer of a call that is not streaming. The targets have ended, all of them well enough.
func (a *concat) finish() error {
	a.lock()
	defer a.unlock()

	joined, found := a.join()

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

	joined, _ := a.join()
	joined.Free()
}

// join moves the messages of all targets into one, in their order. It reports whether there was any. turn is held.
func (a *concat) join() (joined mem.BufferSlice, found bool) {
	joined = make(mem.BufferSlice, 0, len(a.fan.targets))

	for i := range a.fan.targets {
		p := &a.fan.targets[i].part

		for _, m := range p.messages {
			joined = append(joined, m...) // with their references
			found = true
		}

		p.raw.free()
		p.messages = nil
	}

	return joined, found
}
