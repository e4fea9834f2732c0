// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"errors"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// targetEnd is the cause of a target's context that ends before the target does, and so what the target ends with.
type targetEnd struct {
	phase Phase
	err   error // a status
}

func (e *targetEnd) Error() string { return e.err.Error() }

// errDecided is the cause for a target that the call needs no more.
var errDecided = &targetEnd{PhaseCancelled, status.Error(codes.Canceled, "proxy: the call was decided without this backend")}

// end ends the target's part in the call. The first reason counts.
func (t *fanTarget) end(phase Phase, err error) { t.cancel(&targetEnd{phase, err}) }

// clocks are the timers of one target. Its deadline is that of its context.
type clocks struct {
	connect, idle *time.Timer // nil: none
	deadline      time.Time   // zero: none
	late          *targetEnd  // what the deadline ends the target with
	release       context.CancelFunc
}

// startClocks begins the target's time. It is called before anything is done for it, and only with options.
func (t *fanTarget) startClocks() {
	o := t.fan.options
	now := time.Now()

	if o.TotalTimeout > 0 {
		t.clocks.deadline = now.Add(o.TotalTimeout)
		t.clocks.late = lateEnd("the backend's part in the call took longer than %v (TotalTimeout)", o.TotalTimeout)
	}

	if deadline, ok := t.fan.ctx.Deadline(); ok {
		// What the caller gave counts from the call's begin, also for a target that is started later.
		reserve := o.reserve(deadline.Sub(t.fan.begin))
		if end := deadline.Add(-reserve); reserve > 0 && (t.clocks.late == nil || end.Before(t.clocks.deadline)) {
			t.clocks.deadline = end
			t.clocks.late = lateEnd("the backend had not ended %v before the caller's deadline (Reserve)", reserve.Round(time.Millisecond))
		}
	}

	if t.clocks.late != nil {
		t.callCtx, t.clocks.release = context.WithDeadlineCause(t.callCtx, t.clocks.deadline, t.clocks.late)
	}

	if o.ConnectTimeout > 0 {
		t.clocks.connect = time.AfterFunc(o.ConnectTimeout, func() {
			t.end(PhaseConnect, status.Errorf(codes.DeadlineExceeded, "proxy: no stream to the backend within %v (ConnectTimeout)", o.ConnectTimeout))
		})
	}
}

func lateEnd(format string, d time.Duration) *targetEnd {
	return &targetEnd{PhaseResponse, status.Errorf(codes.DeadlineExceeded, "proxy: "+format, d)}
}

// connected ends the time to connect and begins that for the first message.
func (t *fanTarget) connected() {
	if t.clocks.connect != nil {
		t.clocks.connect.Stop()
	}

	if o := t.fan.options; o != nil && o.IdleTimeout > 0 {
		t.clocks.idle = time.AfterFunc(time.Hour, t.idle)
		t.clocks.idle.Reset(o.IdleTimeout) // apart, for idle reads the field
	}
}

// active begins the idle time anew.
func (t *fanTarget) active() {
	if t.clocks.idle != nil {
		t.clocks.idle.Reset(t.fan.options.IdleTimeout)
	}
}

// idle ends a target that is, but not while it is the caller who does not take an answer.
func (t *fanTarget) idle() {
	if t.delivered.Load()%2 == 1 {
		t.active()

		return
	}

	t.end(PhaseResponse, status.Errorf(codes.DeadlineExceeded, "proxy: no message to or from the backend for %v (IdleTimeout)", t.fan.options.IdleTimeout))
}

// stopClocks ends the target's time.
func (t *fanTarget) stopClocks() {
	for _, timer := range []*time.Timer{t.clocks.connect, t.clocks.idle} {
		if timer != nil {
			timer.Stop()
		}
	}

	if t.clocks.release != nil {
		t.clocks.release()
	}
}

// reason finds out why the target ended with err, which is not nil.
func (t *fanTarget) reason(phase Phase, err error) (Phase, error) {
	if t.fan.ended() {
		return PhaseCancelled, err
	}

	var cause *targetEnd

	found := errors.As(context.Cause(t.callCtx), &cause)
	echo := isEcho(err)

	switch {
	case phase == PhaseHook && !isCancel(err):
		return phase, err
	case found && (cause.phase == PhaseRequest || echo):
		return cause.phase, cause.err
	case echo && t.clocks.late != nil && time.Until(t.clocks.deadline) < deadlineSlack:
		// The backend knows the deadline as well, and its clock may be the first to ring.
		return t.clocks.late.phase, t.clocks.late.err
	}

	return phase, err
}

// isEcho reports whether err may be what grpc-go, or a backend, makes of the end of a context.
func isEcho(err error) bool {
	switch status.Code(err) {
	case codes.Canceled, codes.DeadlineExceeded:
		return true
	default:
		return false
	}
}

func isCancel(err error) bool { return status.Code(err) == codes.Canceled }
