// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

//go:build !unix

package h2

import "syscall"

// Without a portable non-blocking write every write takes the blocking way.
func (t *transport) initRaw(syscall.Conn) {}

func (t *transport) tryRaw([]byte) (int, error) { return 0, nil }

func (t *transport) readRaw(*reader) (int, error) { panic("h2: readRaw without raw") }
