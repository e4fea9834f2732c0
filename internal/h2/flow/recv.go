// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package flow

import (
	"fmt"
	"time"

	"github.com/manifold-grpc/manifold/internal/h2/frame"
)

// creditPart is the part of a window that is consumed before the peer is told:
// few enough WINDOW_UPDATE frames (with a quarter half of all writes of bulk traffic were
// nothing else, for a sixth of its CPU), and early enough that a sender one round trip away does not
// stand still, since the window grows while it would.
const creditPart = 2

// growTrips is the number of round trips within which a whole window must have
// been consumed for it to be taken as the bottleneck. A sender that is bound by
// the window alone moves one window per round trip.
const growTrips = 2

// A window shorter than bulkWindow grows too if it lasts for no longer than bulkTime, although a round trip is far shorter: what
// comes that fast is bulk, of which a longer window takes fewer WINDOW_UPDATE frames and lets its sender do more at once.
const (
	bulkWindow = 256 << 10
	bulkTime   = 50 * time.Millisecond
)

// RecvWindow is what we let the peer send on a stream or on the connection. Each
// octet of its size is at any time in one of three places:
//
//   - available: the peer may send it;
//   - unread: it was received and is held here;
//   - owed: it was consumed, and the peer has not been told yet.
//
// So the size is the most memory that the peer can make us hold. It starts small
// and doubles while the window is what slows the peer down, or short for what comes, up to a maximum and
// within Budgets.
//
// The zero value accepts nothing; use Init.
type RecvWindow struct {
	available, owed uint32
	size, base, max uint32

	// Since from, measured octets were consumed.
	measured uint32
	from     time.Duration

	budget, also *Budget
}

// Init sets a new window, also over an old one whose Close was called. size is
// what the peer was told: our SETTINGS_INITIAL_WINDOW_SIZE or, for the
// connection, frame.InitialWindow. The window may grow to limit octets; the
// growth counts against b and also, size does not. A nil budget has no bound.
func (w *RecvWindow) Init(size, limit uint32, b, also *Budget) {
	limit = min(max(size, limit), frame.MaxWindow)
	*w = RecvWindow{available: size, size: size, base: size, max: limit, budget: b, also: also}
}

// Size returns the present size.
func (w *RecvWindow) Size() uint32 { return w.size }

// Available returns how many octets the peer may send.
func (w *RecvWindow) Available() uint32 { return w.available }

// Unread returns how many octets were received and not consumed.
func (w *RecvWindow) Unread() uint32 { return w.size - w.available - w.owed }

// Receive counts n octets of a DATA frame, padding included, that came on stream
// id, 0 being the connection. A peer that sends more than it may makes a
// FLOW_CONTROL_ERROR of the stream or of the connection (RFC 9113 section
// 6.9.1); nothing is counted then.
func (w *RecvWindow) Receive(id, n uint32) *frame.Error {
	if n > w.available {
		return &frame.Error{Code: frame.FlowControlError, StreamID: id, Reason: "window_exceeded",
			Detail: fmt.Sprintf("DATA frame of %d octets, the window has %d", n, w.available)}
	}
	w.available -= n
	return nil
}

// Consume says that n of the unread octets are held no longer, and returns the
// increment of a WINDOW_UPDATE that is to be sent, or 0 for none yet.
//
// now is the time since any fixed moment, and rtt the round-trip time to the
// peer; an rtt of 0 means unknown and stops growth. Both may be as coarse as one
// reading per batch.
func (w *RecvWindow) Consume(n uint32, now, rtt time.Duration) (increment uint32) {
	w.owed += n
	if w.measured == 0 {
		w.from = now
	}
	w.measured += n
	if w.measured >= w.size {
		within := growTrips * rtt
		if w.size < bulkWindow {
			within = max(within, bulkTime)
		}
		if now-w.from <= within && rtt > 0 {
			w.grow()
		}
		w.measured = 0
	}
	if w.owed < w.size/creditPart {
		return 0
	}
	return w.Credit()
}

// Credit returns what is owed to the peer without waiting for more, or 0. It is
// for moments at which a frame is cheap, and for peers that must not wait.
func (w *RecvWindow) Credit() (increment uint32) {
	increment = w.owed
	w.available += increment
	w.owed = 0
	return increment
}

// grow doubles the window as far as maximum and budget allow. The peer is told
// with the next credit.
func (w *RecvWindow) grow() {
	more := min(w.size, w.max-w.size)
	if more == 0 || !w.budget.Reserve(int64(more)) {
		return
	}
	if !w.also.Reserve(int64(more)) {
		w.budget.Release(int64(more))
		return
	}
	w.size += more
	w.owed += more
}

// Close gives back to the budgets what the window had grown by. Afterwards the
// window accepts nothing until Init. It is called once, when the stream or
// connection holds no more octets.
func (w *RecvWindow) Close() {
	if grown := w.size - w.base; grown > 0 {
		w.budget.Release(int64(grown))
		w.also.Release(int64(grown))
	}
	*w = RecvWindow{}
}
