// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

//go:build unix

package daemon

import (
	"net"
	"syscall"
)

// listenPrivately makes a Unix socket that nobody but the owner can connect to, so that nobody does before it has its
// mode. The umask is that of the process: a file that is made at this moment is private as well.
func listenPrivately(path string) (net.Listener, error) {
	defer syscall.Umask(syscall.Umask(0o177))

	return net.Listen("unix", path)
}
