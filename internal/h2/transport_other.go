// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

//go:build !unix

package h2

import (
	"net"
	"syscall"
)

// Without readiness of sockets a connection keeps a read buffer.
func (t *transport) initRaw(syscall.Conn) {}

func (t *transport) readRaw(*reader) (int, error) { panic("h2: readRaw without raw") }

func (t *transport) initSocket(net.Conn) bool { return false }
