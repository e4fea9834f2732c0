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

	// ownTime is how often sockets of the loop must have something to do at least when two thirds of its thread's time are too much: some long turns,
	// or a machine that is slow for a moment, are no lasting load.
	ownTime = 200 * time.Microsecond

	// Where connections that are not for the loop have something to do, more than once in othersTime and for each ownOfOther times that those of the
	// loop have, it wakes one thread more in place of some less.
	othersTime = 10 * time.Millisecond
	ownOfOther = 4
)

// load says when a loop is of no use. It has too much to do when its thread runs for over two thirds of the time, or nine tenths where it does little in that. What comes then waits about as long as it takes, and
// other processors could do it. The time that a turn takes by the clock would tell less: much of it may be other programs'.
// And it saves nothing when others wake threads all the same.
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

// stop has the loop take a rest.
func (d *load) stop(now time.Time) { d.until = now.Add(restTime) }

// due reports whether note should be called.
func (d *load) due(now time.Time) bool { return now.Sub(d.begin) >= loadWindow }

// note notes that the loop runs on a thread that has used so much CPU time until now, and how often sockets of the loop, and connections that are not
// for it, had something to do since the last time.
func (d *load) note(now time.Time, thread int, used time.Duration, own, others int64) {
	span := now.Sub(d.begin)
	cpu := used - d.used
	if thread != d.thread {
		cpu = 0 // it is another's
	}
	tooMuch := cpu > span*9/10 || cpu > span*2/3 && own > int64(span/ownTime) ||
		others > own/ownOfOther && others > int64(span/othersTime)
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
