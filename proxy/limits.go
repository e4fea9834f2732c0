// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package proxy

import "time"

// FanoutLimits bounds what one one-to-many call may hold in memory and how long it waits for one backend. A zero field
// means the default, a negative one no limit.
type FanoutLimits struct {
	// MergedBytes caps the joined answer of a unary call, the messages of all backends together. A call that exceeds
	// it ends in codes.ResourceExhausted. Default: 64 MiB.
	MergedBytes int

	// QueuedMessages and QueuedBytes bound the requests that wait for one backend which is slower than the caller. The
	// backends share the bytes of a request, and a request of any size is taken while the queue has room at all. When a
	// queue is full the caller has to wait; the other backends meanwhile get what is in their own queues. Default: 4096
	// messages, 4 MiB.
	QueuedMessages, QueuedBytes int

	// StallTimeout is how long a backend whose queue is full may take not a single request before the others go on
	// without it. Its part in the call then ends in codes.ResourceExhausted. A slow backend that takes some is waited for.
	// Default: 10 s.
	StallTimeout time.Duration
}

// The defaults of FanoutLimits.
const (
	defaultMergedBytes    = 64 << 20
	defaultQueuedMessages = 4096
	defaultQueuedBytes    = 4 << 20
	defaultStallTimeout   = 10 * time.Second
)

// withDefaults replaces zero by the default and anything negative by what means no limit to the code that reads it.
func (l FanoutLimits) withDefaults() FanoutLimits {
	limit := func(n *int, byDefault int) {
		switch {
		case *n == 0:
			*n = byDefault
		case *n < 0:
			*n = int(^uint(0) >> 1)
		}
	}

	limit(&l.MergedBytes, defaultMergedBytes)
	limit(&l.QueuedMessages, defaultQueuedMessages)
	limit(&l.QueuedBytes, defaultQueuedBytes)

	if l.StallTimeout == 0 {
		l.StallTimeout = defaultStallTimeout
	}

	return l
}

// WithFanoutLimits sets the bounds of one-to-many calls. Without it they have the defaults of [FanoutLimits].
func WithFanoutLimits(limits FanoutLimits) Option {
	return func(o *handlerOptions) {
		o.fanoutLimits = limits
	}
}
