// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux && !race && !msan && !asan

package nonblock

import (
	"syscall"
	"unsafe"
)

// Read reads from a descriptor that does not block. The runtime is not told: such a call is over in
// microseconds, and to be told makes it look for another thread to run goroutines meanwhile, where one is enough. The
// price is that a garbage collection may wait for as long as the kernel takes to copy p.
func Read(fd int, p []byte) (n int, err error) { return raw(syscall.SYS_READ, fd, p) }

// Write is the same for writing.
func Write(fd int, p []byte) (n int, err error) { return raw(syscall.SYS_WRITE, fd, p) }

func raw(trap uintptr, fd int, p []byte) (int, error) {
	n, _, errno := syscall.RawSyscall(trap, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)))
	if errno != 0 {
		return -1, errno
	}
	return int(n), nil
}
