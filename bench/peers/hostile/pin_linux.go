// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// pinned has start start processes that run on the last core, the attackers', or on all others.
func pinned(hostile bool, start func() error) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var all unix.CPUSet
	if err := unix.SchedGetaffinity(0, &all); err != nil {
		return err
	}
	if all.Count() < 2 {
		return errors.New("a core for the attackers alone takes two")
	}
	// A process that is started has the affinity of the thread that started it.
	own := split(all, hostile)
	if err := unix.SchedSetaffinity(0, &own); err != nil {
		return err
	}
	err := start()
	return errors.Join(err, unix.SchedSetaffinity(0, &all))
}

// split returns the last core of all, or all others.
func split(all unix.CPUSet, last bool) unix.CPUSet {
	var one unix.CPUSet
	for cpu := len(all)*64 - 1; cpu >= 0; cpu-- {
		if all.IsSet(cpu) {
			one.Set(cpu)
			all.Clear(cpu)
			break
		}
	}
	if last {
		return one
	}
	return all
}

// spend uses as much CPU as it is told, however long that takes.
func spend(d time.Duration) {
	if d <= 0 {
		return
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for end := threadCPU() + d; threadCPU() < end; {
	}
}

// threadCPU is the CPU time of this thread.
func threadCPU() time.Duration {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts) // there is one on every Linux
	return time.Duration(ts.Nano())
}
