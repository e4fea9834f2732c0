// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package usage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// attachTimeout is how long strace may take to stop all threads of a process.
const attachTimeout = 5 * time.Second

// Syscalls counts the system calls that a process and its descendants make while f
// runs, by name. It takes strace, which slows the process down.
func Syscalls(ctx context.Context, pid int, dir string, f func() error) (map[string]int64, error) {
	family, err := descendants(pid)
	if err != nil {
		return nil, err
	}
	summary := filepath.Join(dir, "strace")
	args := []string{"-f", "-c", "-qq", "-o", summary}
	for _, p := range family {
		args = append(args, "-p", strconv.Itoa(p))
	}
	cmd := exec.CommandContext(ctx, "strace", args...)
	var messages bytes.Buffer
	cmd.Stderr = &messages
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	if err = attached(family); err == nil {
		err = f()
	}
	_ = cmd.Process.Signal(syscall.SIGINT) // it detaches and writes its summary
	_ = cmd.Wait()                         // ends by that signal
	if err != nil {
		return nil, fmt.Errorf("strace: %w %s", err, messages.Bytes())
	}
	text, err := os.ReadFile(summary)
	if err != nil {
		return nil, err
	}
	return parseSummary(string(text)), nil
}

// attached waits until all threads of the processes are traced.
func attached(pids []int) error {
	deadline := time.After(attachTimeout)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		if allTraced(pids) {
			return nil
		}
		select {
		case <-deadline:
			return errors.New("it did not attach in time")
		case <-tick.C:
		}
	}
}

func allTraced(pids []int) bool {
	for _, pid := range pids {
		threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
		if err != nil || len(threads) == 0 {
			return false
		}
		for _, thread := range threads {
			if text, err := os.ReadFile(thread); err == nil && bytes.Contains(text, []byte("\nTracerPid:\t0\n")) {
				return false
			}
		}
	}
	return true
}

// parseSummary reads what strace -c writes: columns of which the fourth is the
// number of calls and the last the name.
func parseSummary(text string) map[string]int64 {
	calls := map[string]int64{}
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) < 5 {
			continue
		}
		name := fields[len(fields)-1]
		if n, err := strconv.ParseInt(fields[3], 10, 64); err == nil && name != "total" {
			calls[name] += n
		}
	}
	return calls
}
