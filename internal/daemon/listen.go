// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"syscall"
)

// listen opens the listeners of a frontend.
func (d *Daemon) listen(p *frontendPlan) ([]net.Listener, error) {
	lis, err := listen(p.listen)
	if err != nil {
		return nil, err
	}

	return []net.Listener{lis}, nil
}

// listen opens the address. The file of a socket that nobody listens on, as a
// killed process leaves it, is removed first.
func listen(address Address) (net.Listener, error) {
	if address.Network == "unix" {
		if err := removeStale(address.Addr); err != nil {
			return nil, err
		}
	}

	// The error of package net has the address in it.
	return net.Listen(address.Network, address.Addr)
}

// removeStale removes the socket at path if nobody listens on it. It never
// removes a file of another kind.
func removeStale(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("listen unix %s: %w", path, err)
	}
	if info.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("listen unix %s: the file exists and is not a socket", path)
	}

	conn, err := net.Dial("unix", path)
	if err == nil {
		_ = conn.Close() // nothing was written, nothing can be lost
		return fmt.Errorf("listen unix %s: another process listens there", path)
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("listen unix %s: %w", path, err)
	}

	return os.Remove(path)
}

// pointsAt reports whether an endpoint is plainly the listener at addr itself, in
// which case a call would go round until something breaks. It judges by the text
// of the addresses, so a name that merely resolves to this host is not seen.
func pointsAt(e Endpoint, addr net.Addr) bool {
	if e.Network != addr.Network() {
		return false
	}
	if e.Network == "unix" {
		return e.Addr == addr.String()
	}

	ownHost, ownPort, err := net.SplitHostPort(addr.String())
	if err != nil {
		return false
	}
	host, port, err := net.SplitHostPort(e.Addr)
	if err != nil || port != ownPort {
		return false
	}
	own, ip := net.ParseIP(ownHost), net.ParseIP(host)
	local := host == "localhost" || ip.IsLoopback() || ip.IsUnspecified()

	return local && own.IsUnspecified() ||
		host == "localhost" && own.IsLoopback() ||
		ip != nil && ip.Equal(own)
}
