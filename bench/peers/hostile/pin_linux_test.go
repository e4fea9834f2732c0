// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func set(cpus ...int) (s unix.CPUSet) {
	for _, c := range cpus {
		s.Set(c)
	}
	return s
}

func TestSplit(t *testing.T) {
	for _, c := range []struct{ all, hostile, others unix.CPUSet }{
		{set(0, 1), set(1), set(0)},
		{set(3, 8, 100), set(100), set(3, 8)},
	} {
		if got := split(c.all, true); got != c.hostile {
			t.Errorf("of %v the attackers get %v, want %v", c.all, got, c.hostile)
		}
		if got := split(c.all, false); got != c.others {
			t.Errorf("of %v the others get %v, want %v", c.all, got, c.others)
		}
	}
}

// A process keeps the affinity that its starter had, and the starter gets its own back.
func TestPinned(t *testing.T) {
	var before, during, after unix.CPUSet
	if err := unix.SchedGetaffinity(0, &before); err != nil || before.Count() < 2 {
		t.Skip("one core", err)
	}
	err := pinned(true, func() error { return unix.SchedGetaffinity(0, &during) })
	if err != nil {
		t.Fatal(err)
	}
	if during != split(before, true) {
		t.Errorf("started with %v of %v", during, before)
	}
	if err := unix.SchedGetaffinity(0, &after); err != nil || after != before {
		t.Errorf("afterwards %v, before %v (%v)", after, before, err)
	}
}

func TestSpend(t *testing.T) {
	begin := processCPU(t)
	spend(20 * time.Millisecond)
	if got := processCPU(t) - begin; got < 20*time.Millisecond {
		t.Errorf("spent %v, want at least 20ms", got)
	}
	spend(0)
	spend(-1)
}

// processCPU is the CPU time of the process.
func processCPU(t *testing.T) time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &ts); err != nil {
		t.Fatal(err)
	}
	return time.Duration(ts.Nano())
}
