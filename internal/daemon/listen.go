// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"os"
	"slices"
	"syscall"
)

// listen opens the listeners of a frontend.
func (d *Daemon) listen(p *frontendPlan) ([]net.Listener, error) {
	if p.listen.Network == "systemd" {
		return inherited(p.listen.Addr, d.cfg.Sockets)
	}
	lis, err := listen(p.listen, p.mode)
	if err != nil {
		return nil, err
	}

	return []net.Listener{lis}, nil
}

// inherited returns listeners of the sockets of a name that systemd has opened. Closing them leaves the sockets open: systemd goes on
// listening, and so may a later frontend.
func inherited(name string, sockets map[string][]*os.File) ([]net.Listener, error) {
	files := sockets[name]
	if len(files) == 0 {
		return nil, fmt.Errorf("listen systemd:%s: systemd has passed no socket of this name, expected one of %q", name, slices.Sorted(maps.Keys(sockets)))
	}
	var all []net.Listener
	for _, f := range files {
		lis, err := net.FileListener(f)
		if err != nil {
			for _, l := range all {
				_ = l.Close() // nothing came by it
			}
			return nil, fmt.Errorf("listen systemd:%s: %w, expected a listening stream socket", name, err)
		}
		all = append(all, lis)
	}

	return all, nil
}

// listen opens the address. The file of a socket that nobody listens on, as a
// killed process leaves it, is removed first. One of mode 0 has the permissions that the process gives.
func listen(address Address, mode fs.FileMode) (net.Listener, error) {
	// The errors of package net have the address in them.
	if address.Network != "unix" {
		return net.Listen(address.Network, address.Addr)
	}
	if err := removeStale(address.Addr); err != nil {
		return nil, err
	}
	if mode == 0 {
		return net.Listen("unix", address.Addr)
	}
	lis, err := listenPrivately(address.Addr)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(address.Addr, mode); err != nil {
		_ = lis.Close() // nothing came by it
		return nil, fmt.Errorf("listen unix %s: %w", address.Addr, err)
	}

	return lis, nil
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
