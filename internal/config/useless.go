// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package config

import "github.com/manifold-grpc/manifold/fanout"

// useless fails a key that another one leaves without effect: a file that is accepted does what it says.
func (c *checker) useless(given bool, path, key, beside string) {
	if given {
		c.fail(path+"."+key, "%s with %s, expected one of them: it would have no effect", key, beside)
	}
}

// denied checks what a route that denies says of calls that go nowhere.
func (c *checker) denied(r *Route, path string) {
	if r.Deny == "" {
		return
	}
	c.useless(r.MaxDuration > 0, path, "max_duration", "deny")
	c.useless(r.IdleTimeout > 0, path, "idle_timeout", "deny")
	c.useless(r.MaxRequestMessage > 0, path, "max_request_message", "deny")
	c.useless(r.RequestHeaders != nil, path, "request_headers", "deny")
	c.useless(r.ResponseHeaders != nil, path, "response_headers", "deny")
}

// times checks the limits of a frontend that go together.
func (c *checker) times(l *Limits, path string) {
	c.useless(l.MaxAge < 0 && l.MaxAgeGrace != 0, path, "max_age_grace", "max_age: never")
	c.useless(l.KeepaliveTime < 0 && l.KeepaliveTimeout > 0, path, "keepalive_timeout", "keepalive_time: never")
}

// leastWindow is the window that HTTP/2 gives each stream before anything is said of it (RFC 9113, 6.9.2). None is begun with less.
const leastWindow = 1<<16 - 1

// windows checks those of a frontend's streams.
func (c *checker) windows(l *Limits, path string) {
	if w := l.StreamWindow; w > 0 && w < leastWindow {
		c.fail(path+".stream_window", "%d bytes, expected at least %d, what HTTP/2 begins with", w, leastWindow)
	}
	first := max(l.StreamWindow, leastWindow)
	if w := l.MaxStreamWindow; w > 0 && w < first {
		c.fail(path+".max_stream_window", "%d bytes, expected at least stream_window, %d", w, first)
	}
}

// fanUseless checks the keys of a one-to-many route that go together.
func (c *checker) fanUseless(f *FanOut, path string) {
	c.useless(f.Carrier == Envelope && f.Order == ByArrival, path, "order", "carrier: envelope")
	c.useless(f.Carrier == Envelope && f.MaxMetadataBytes > 0, path, "max_metadata_bytes", "carrier: envelope")
	c.useless(f.Overflow == Drop && f.StallTimeout > 0, path, "stall_timeout", "overflow: drop")
}

// enough checks that calls may have all the targets that they go to.
func (c *checker) enough(f *FanOut, path string, targets int) {
	limit := fanout.DefaultMaxTargets
	if f.MaxTargets > 0 {
		limit = int(f.MaxTargets)
	}
	if f.Select == "" && targets > limit {
		c.fail(path+".max_targets", "at most %d targets, and each call goes to %d, expected at least as many", limit, targets)
	}
}
