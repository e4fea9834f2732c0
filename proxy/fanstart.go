// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"sync/atomic"
	"time"

	"google.golang.org/grpc/connectivity"
)

// A target of a call whose requests are all here needs no goroutine of its own as long as nothing makes it wait. The
// handler's goroutine opens the streams of all such targets, one after another, and then receives from them,
// one after another: what the others answer meanwhile waits in grpc-go's buffers, at most a window each. On a fresh
// goroutine per target, most of the time would go into growing its stack.
//
// What could make it wait is not known beforehand: a hook that dials, a connection that has no stream to spare, a
// backend that takes its time. So a timer watches. When it fires, each target that the handler has not come to
// yet gets its own goroutine, and no target has waited for another for longer than the timer.

// claim says how far a target is, and so who may take it on. Whoever moves it owns what comes next.
type claim struct{ atomic.Int32 }

const (
	claimNone   int32 = iota // not begun
	claimOpen                // somebody opens it
	claimOpened              // open, and nobody receives yet
	claimTaken               // somebody takes it to its end
)

func (c *claim) take(from, to int32) bool { return c.CompareAndSwap(from, to) }

const (
	// openGrace is how long the handler may take to open all streams before the rest of them are opened in parallel.
	openGrace = time.Millisecond
	// receiveGrace is how long the handler may receive from one target after another. Until then a failure that is to
	// end the call, and an answer that is larger than a window, may have to wait.
	receiveGrace = 20 * time.Millisecond
	// manyBytes is an answer that suggests that others are larger than a window.
	manyBytes = 16 << 10
)

// runTargets runs all targets to their ends, or, if they may outlive the answer, until the call is decided.
func (f *fanCall) runTargets() {
	if f.endBase != nil {
		f.runDetached()

		return
	}

	f.runAll()
}

// runAll runs all targets to their ends.
func (f *fanCall) runAll() {
	if f.options != nil && f.options.Hedge > 0 && f.options.Hedge < len(f.targets) {
		f.runHedged()

		return
	}

	f.running.Add(len(f.targets))
	f.course.begun, f.course.live = len(f.targets), len(f.targets)

	switch {
	case f.endBase != nil:
		f.spread()
	case f.targets[0].queue.whole():
		f.runInline()
	default:
		for i := range f.targets[1:] {
			go f.targets[1+i].run() // ends with its upstream stream, which ends with the call at the latest
		}

		f.targets[0].run()
	}

	f.running.Wait()
}

// runInline runs as many of the targets as it can in the handler's goroutine.
func (f *fanCall) runInline() {
	// What comes is to be passed on at once, or may decide the call: then no target may wait for another. Read
	// here, while nobody else can change it.
	atOnce := f.concat.kind == kindStreaming || f.options != nil
	f.watch = time.AfterFunc(time.Hour, f.spread)
	f.watch.Reset(openGrace) // apart from making it, for what spread starts reads f.watch
	defer f.watch.Stop()

	for i := range f.targets {
		if t := &f.targets[i]; t.claim.take(claimNone, claimOpen) {
			t.startInline()
		}
	}

	if atOnce {
		f.spread()
	} else {
		f.watch.Reset(receiveGrace)
	}

	for i := range f.targets {
		if t := &f.targets[i]; t.claim.take(claimOpened, claimTaken) {
			t.rest()
		}
	}
}

// spread gives each target that nobody has taken on a goroutine of its own.
func (f *fanCall) spread() {
	for i := range f.targets {
		t := &f.targets[i]

		switch {
		case t.claim.take(claimNone, claimTaken):
			go t.run() // ends with its upstream stream, which ends with the call at the latest
		case t.claim.take(claimOpened, claimTaken):
			go t.rest() // likewise
		}
	}
}

// startInline starts the target in the handler's goroutine, and leaves one that would wait for its connection to
// a goroutine of its own. One that fails ends here.
func (t *fanTarget) startInline() {
	if t.fan.options != nil {
		t.startClocks()
	}

	t.startErr = t.connect(t.callCtx)

	switch state, ok := t.state(); {
	case t.startErr != nil:
	case !ok || state != connectivity.Ready:
		t.claim.Store(claimTaken)
		go t.openAndRest() // ends with its upstream stream, which ends with the call at the latest

		return
	default:
		t.startErr = t.openStream()
	}

	if t.startErr != nil {
		t.claim.Store(claimTaken)
		t.rest()

		return
	}

	t.claim.Store(claimOpened)
}

// state returns the state of the target's channel, if that is one whose streams open at once.
func (t *fanTarget) state() (state connectivity.State, ok bool) {
	if t.startErr == nil {
		state, t.prompt = prompt(t.channel)
	}

	return state, t.prompt
}

// hurry makes the targets that wait for their turn go on: an answer is as large as to need more than one window, or
// is a stream.
func (f *fanCall) hurry() {
	if f.watch != nil && f.hurried.CompareAndSwap(false, true) {
		f.watch.Reset(0)
	}
}
