// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"errors"
	"io/fs"
	"net"
	"net/netip"
	"strconv"
)

// Mode is the permissions of a file; 0 is none said.
type Mode fs.FileMode

func parseMode(text string) (Mode, error) {
	m, err := strconv.ParseUint(text, 8, 32)
	if err != nil {
		return 0, errors.New("not an octal number")
	}
	if m == 0 || m > 0o777 {
		return 0, errors.New("no such mode")
	}

	return Mode(m), nil
}

// Peer is who may be at the other end of a connection: a network of addresses, or all that come by Unix sockets.
type Peer struct {
	Network netip.Prefix // invalid for Unix sockets
	Unix    bool
}

func parsePeer(text string) (Peer, error) {
	if text == "unix" {
		return Peer{Unix: true}, nil
	}
	if addr, err := netip.ParseAddr(text); err == nil && addr.Zone() == "" {
		addr = addr.Unmap()
		return Peer{Network: netip.PrefixFrom(addr, addr.BitLen())}, nil
	}
	network, err := netip.ParsePrefix(text)
	switch {
	case err != nil:
		return Peer{}, errors.New("not a network")
	case network != network.Masked():
		return Peer{}, errors.New("bits of an address beyond its network")
	default:
		return Peer{Network: network}, nil
	}
}

// Is reports whether addr is one of p.
func (p Peer) Is(addr net.Addr) bool {
	switch a := addr.(type) {
	case *net.UnixAddr:
		return p.Unix
	case *net.TCPAddr:
		return p.Network.Contains(a.AddrPort().Addr().Unmap().WithZone(""))
	default:
		return false
	}
}
