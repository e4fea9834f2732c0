// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

//go:build !unix

package daemon

import "net"

// listenPrivately makes a Unix socket.
func listenPrivately(path string) (net.Listener, error) { return net.Listen("unix", path) }
