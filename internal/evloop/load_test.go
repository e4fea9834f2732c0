// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package evloop

import (
	"testing"
	"time"
)

func TestLoad(t *testing.T) {
	start := time.Now()
	now, used, own, others := start, time.Duration(0), int64(loadWindow/ownTime)+1, int64(0)
	var d load
	// step lets a window pass, of which the thread ran for a part in percent.
	step := func(percent int) {
		now = now.Add(loadWindow)
		used += loadWindow * time.Duration(percent) / 100
		if !d.due(now) {
			t.Fatal("a window has passed and nothing is due")
		}
		d.note(now, 7, used, own, others)
	}
	check := func(what string, want bool) {
		t.Helper()
		if got := d.over(now); got != want {
			t.Errorf("%s: too much is %t, want %t", what, got, want)
		}
	}
	step(100)
	check("the first window, of which the begin is not known", false)
	step(60)
	check("60 %", false)
	if d.due(now.Add(loadWindow - 1)) {
		t.Error("due within a window")
	}
	step(70)
	check("70 %", true)
	for rest := restTime; ; rest = min(2*rest, maxRestTime) {
		if got := d.until.Sub(now); got != rest {
			t.Fatalf("rests for %v, want %v", got, rest)
		}
		if rest == maxRestTime && d.rest == rest && now.Sub(start) > 5*maxRestTime {
			break
		}
		until := d.until
		step(100)
		if d.until != until {
			t.Error("a rest grows by what comes meanwhile")
		}
		now = until
		check("after the rest", false)
		d.begin, d.used = now, used
		step(100)
		check("again at once", true)
	}
	now = d.until.Add(2 * maxRestTime)
	step(10)
	check("long after", false)
	step(90)
	check("and again", true)
	if got := d.until.Sub(now); got != restTime {
		t.Errorf("rests for %v after a long time, want %v", got, restTime)
	}

	now = d.until.Add(2 * maxRestTime)
	d.begin, d.used = now, used
	own = int64(loadWindow / ownTime)
	step(90)
	check("90 %, but for little", false)
	step(91)
	check("91 % for little", true)
	now = d.until.Add(2 * maxRestTime)
	d.begin, d.used = now, used
	own, others = 0, int64(loadWindow/othersTime)
	step(10)
	check("others, now and then", false)
	own, others = 100*ownOfOther, 100
	step(10)
	check("others, but the loop far more often", false)
	others++
	step(10)
	check("others all the time", true)
}

// What a thread has used before the loop came to it is not the loop's.
func TestLoadOfAnotherThread(t *testing.T) {
	start := time.Now()
	var d load
	d.note(start, 1, 0, 0, 0)
	d.note(start.Add(loadWindow), 2, time.Hour, 0, 0)
	if d.over(start.Add(loadWindow)) {
		t.Error("the time of another thread counts")
	}
}
