// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package evloop

import "time"

const (
	// loadWindow is how long the loop looks at itself before it judges: longer than what a few connections begin with.
	loadWindow = 20 * time.Millisecond

	// restTime is how long it watches nothing new after it had too much to do; each time that it has again soon after that
	// doubles it, up to maxRestTime: under a lasting load sockets come to it and leave it at that pace.
	restTime    = time.Second
	maxRestTime = 16 * time.Second
)

// load says when a loop has too much to do: its thread runs for over two thirds of the time. What comes then waits about as long as it takes, and
// other processors could do it. The time that a turn takes by the clock would tell less: much of it may be other programs'.
// The zero value has seen nothing.
type load struct {
	begin  time.Time // of the window
	thread int       // that the loop ran on then
	used   time.Duration
	until  time.Time     // it had too much to do, and rests
	rest   time.Duration // the last such time

	patient bool // nothing is too much: for tests
}

// over reports whether the loop has too much to do as of now.
func (d *load) over(now time.Time) bool { return now.Before(d.until) }

// due reports whether note should be called.
func (d *load) due(now time.Time) bool { return now.Sub(d.begin) >= loadWindow }

// note notes that the loop runs on a thread that has used so much CPU time until now.
func (d *load) note(now time.Time, thread int, used time.Duration) {
	tooMuch := thread == d.thread && used-d.used > now.Sub(d.begin)*2/3
	d.begin, d.thread, d.used = now, thread, used
	if !tooMuch || d.patient || d.over(now) {
		return
	}
	if now.Sub(d.until) < d.rest {
		d.rest = min(2*d.rest, maxRestTime)
	} else {
		d.rest = restTime
	}
	d.until = now.Add(d.rest)
}
