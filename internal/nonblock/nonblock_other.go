// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

//go:build !unix

package nonblock

import "syscall"

// There is no portable non-blocking read or write: everything takes the blocking way.
func rawOf(syscall.Conn) syscall.RawConn { return nil }

func (w *Writer) ready(uintptr) bool { return true }

func (r *Reader) ready(uintptr) bool { return true }
