// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package usage

import (
	"os"
	"os/exec"
	"slices"
	"syscall"
	"testing"
	"time"
)

// burn uses CPU time, of this thread by its own clock.
func burn(t *testing.T, d time.Duration) {
	t.Helper()
	own := func() time.Duration {
		var r syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
			t.Fatal(err)
		}
		return time.Duration(r.Utime.Nano() + r.Stime.Nano())
	}
	for end := own() + d; own() < end; {
	}
}

func TestOf(t *testing.T) {
	before, err := Of(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	machine, err := OfMachine()
	if err != nil {
		t.Fatal(err)
	}
	ballast := slices.Repeat([]byte{1}, 32<<20)
	burn(t, 100*time.Millisecond)
	after, err := Of(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if d := after.CPU - before.CPU; d < 100*time.Millisecond || d > time.Second {
		t.Errorf("used %v of CPU, expected 100 ms and little more", d)
	}
	if d := after.RSS - before.RSS; d < int64(len(ballast))*3/4 {
		t.Errorf("memory grew by %d, expected the %d that were written", d, len(ballast))
	}
	later, err := OfMachine()
	if err != nil {
		t.Fatal(err)
	}
	if d := later.Busy - machine.Busy; d < 80*time.Millisecond {
		t.Errorf("the machine was busy for %v, expected the 100 ms that were used", d)
	}
}

// What descends from a process counts with it.
func TestOfDescendants(t *testing.T) {
	// A shell that waits for another one, which uses CPU and waits for its input.
	cmd := exec.Command("sh", "-c", `sh -c 'i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done; echo done; read line'; exit 0`)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = in.Close()
		_ = cmd.Wait()
	}()
	if _, err := out.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	alone, err := cpuTime(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	all, err := Of(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	if all.CPU < 2*alone || all.CPU < 5*time.Millisecond {
		t.Errorf("the shell and what it started used %v, the shell alone %v", all.CPU, alone)
	}
}

func TestOfNobody(t *testing.T) {
	if u, err := Of(1 << 22); err == nil { // above any process' number
		t.Errorf("nobody uses %+v", u)
	}
}

func TestParseSummary(t *testing.T) {
	got := parseSummary(`% time     seconds  usecs/call     calls    errors syscall
------ ----------- ----------- --------- --------- ----------------
 88.76    0.024000          12      2000           epoll_wait
 11.24    0.003000           3      1000        17 read
------ ----------- ----------- --------- --------- ----------------
100.00    0.027000           9      3000        17 total
`)
	if len(got) != 2 || got["epoll_wait"] != 2000 || got["read"] != 1000 {
		t.Errorf("summary %v, expected 2000 of epoll_wait and 1000 of read", got)
	}
}

func TestSyscalls(t *testing.T) {
	if _, err := exec.LookPath("strace"); err != nil {
		t.Skip("strace is not installed")
	}
	cmd := exec.Command("cat")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = in.Close()
		_ = cmd.Wait()
	}()
	calls, err := Syscalls(t.Context(), cmd.Process.Pid, t.TempDir(), func() error {
		for range 10 {
			if _, err := in.Write([]byte("x")); err != nil {
				return err
			}
			if _, err := out.Read(make([]byte, 1)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Skipf("strace may not trace here: %v", err)
	}
	if calls["write"] != 10 || calls["read"] < 10 {
		t.Errorf("cat makes %v, expected 10 writes", calls)
	}
}
