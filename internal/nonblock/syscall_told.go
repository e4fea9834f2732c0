// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

//go:build unix && (!linux || race || msan || asan)

package nonblock

import "syscall"

// Read reads from a descriptor that does not block.
func Read(fd int, p []byte) (n int, err error) { return syscall.Read(fd, p) }

// Write writes to a descriptor that does not block.
func Write(fd int, p []byte) (n int, err error) { return syscall.Write(fd, p) }
