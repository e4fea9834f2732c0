// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Package usage tells what processes cost, from outside: the kernel's accounts of a
// process and all that descend from it.
package usage

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Process is what a process and its descendants have used.
type Process struct {
	CPU      time.Duration // user and system time so far, in nanoseconds' resolution
	RSS      int64         // resident memory now, in octets
	Switches int64         // times that a thread gave up the CPU to wait, so far
}

// Of returns what the process and its descendants have used. A descendant that has
// ended before is not counted.
func Of(pid int) (Process, error) {
	family, err := descendants(pid)
	if err != nil {
		return Process{}, err
	}
	var sum Process
	for _, pid := range family {
		cpu, err := cpuTime(pid)
		if err != nil {
			return Process{}, fmt.Errorf("process %d: %w", pid, err)
		}
		rss, err := resident(pid)
		if err != nil {
			return Process{}, err
		}
		switches, err := switches(pid)
		if err != nil {
			return Process{}, err
		}
		sum.CPU += cpu
		sum.RSS += rss
		sum.Switches += switches
	}
	return sum, nil
}

// cpuTime reads the CPU-time clock of a process. /proc/PID/stat tells the same in
// hundredths of a second.
func cpuTime(pid int) (time.Duration, error) {
	// What clock_getcpuclockid(3) does.
	const scheduled = 2
	var t unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|scheduled), &t); err != nil {
		return 0, err
	}
	return time.Duration(t.Nano()), nil
}

func resident(pid int) (int64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(text))
	if len(fields) < 2 {
		return 0, fmt.Errorf("/proc/%d/statm is %q", pid, text)
	}
	pages, err := strconv.ParseInt(fields[1], 10, 64)
	return pages * int64(os.Getpagesize()), err
}

// switches counts the voluntary context switches of a process' threads.
func switches(pid int) (int64, error) {
	dir := fmt.Sprintf("/proc/%d/task", pid)
	threads, err := os.ReadDir(dir)
	if err != nil {
		return 0, err
	}
	var sum int64
	for _, thread := range threads {
		text, err := os.ReadFile(dir + "/" + thread.Name() + "/status")
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) {
			continue // it ended meanwhile
		}
		if err != nil {
			return 0, err
		}
		_, rest, _ := bytes.Cut(text, []byte("\nvoluntary_ctxt_switches:"))
		line, _, _ := bytes.Cut(rest, []byte("\n"))
		n, err := strconv.ParseInt(string(bytes.TrimSpace(line)), 10, 64)
		if err != nil {
			return 0, err
		}
		sum += n
	}
	return sum, nil
}

// descendants returns the process and all that descend from it.
func descendants(pid int) ([]int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	children := map[int][]int{}
	for _, e := range entries {
		child, err := strconv.Atoi(e.Name())
		if err != nil {
			continue // no process
		}
		if parent, ok := parentOf(child); ok {
			children[parent] = append(children[parent], child)
		}
	}
	family := []int{pid}
	for i := 0; i < len(family); i++ {
		family = append(family, children[family[i]]...)
	}
	return family, nil
}

func parentOf(pid int) (int, bool) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, false // it ended meanwhile
	}
	// The second field is a name in parentheses that may hold anything.
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	if len(fields) < 2 {
		return 0, false
	}
	parent, err := strconv.Atoi(fields[1])
	return parent, err == nil
}

// Machine is what all processes together have used, so far.
type Machine struct {
	Busy  time.Duration // summed over the CPUs, in hundredths of a second
	Stole time.Duration // time in which a CPU of a virtual machine was not there
}

// OfMachine returns what all processes have used.
func OfMachine() (Machine, error) {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return Machine{}, err
	}
	line, _, _ := strings.Cut(string(text), "\n")
	fields := strings.Fields(line)
	if len(fields) < 9 || fields[0] != "cpu" {
		return Machine{}, fmt.Errorf("/proc/stat starts with %q", line)
	}
	var ticks [9]time.Duration
	for i := 1; i < len(ticks); i++ {
		n, err := strconv.ParseInt(fields[i], 10, 64)
		if err != nil {
			return Machine{}, err
		}
		ticks[i] = time.Duration(n) * time.Second / 100
	}
	// user, nice, system, idle, iowait, irq, softirq, steal
	return Machine{Busy: ticks[1] + ticks[2] + ticks[3] + ticks[6] + ticks[7], Stole: ticks[8]}, nil
}
