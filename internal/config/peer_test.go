// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"net"
	"net/netip"
	"testing"
)

func TestPeer(t *testing.T) {
	for _, tt := range []struct {
		peer, addr string
		want       bool
	}{
		{"10.0.0.0/8", "10.1.2.3:1", true},
		{"10.0.0.0/8", "[::ffff:10.1.2.3]:1", true},
		{"10.0.0.0/8", "11.0.0.1:1", false},
		{"10.0.0.0/8", "", false},
		{"192.0.2.7", "192.0.2.7:9", true},
		{"::ffff:192.0.2.7", "192.0.2.7:9", true},
		{"192.0.2.7", "192.0.2.8:9", false},
		{"fe80::/10", "[fe80::1%lo]:9", true},
		{"2001:db8::/32", "[2001:db8::1]:9", true},
		{"0.0.0.0/0", "192.0.2.8:9", true},
		{"0.0.0.0/0", "[2001:db8::1]:9", false},
		{"unix", "", true},
		{"unix", "127.0.0.1:1", false},
	} {
		p, err := parsePeer(tt.peer)
		if err != nil {
			t.Fatal(err)
		}
		addr := net.Addr(&net.UnixAddr{Net: "unix"})
		if tt.addr != "" {
			addr = net.TCPAddrFromAddrPort(netip.MustParseAddrPort(tt.addr))
		}
		if got := p.Is(addr); got != tt.want {
			t.Errorf("%s is %s = %v", tt.addr, tt.peer, got)
		}
	}
}
