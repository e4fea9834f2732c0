// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package proxy_test

import (
	"net"
	"syscall"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/manifold-grpc/manifold/proxy"
)

// watched are credentials that keep the connection they were given.
type watched struct {
	credentials.TransportCredentials
	given chan net.Conn
}

func (w watched) ServerHandshake(nc net.Conn) (net.Conn, credentials.AuthInfo, error) {
	w.given <- nc

	return w.TransportCredentials.ServerHandshake(nc)
}

// The sockets have the option that grpc-go gives those of a server by its keepalive parameters.
func TestDirectSocketsKeepOptions(t *testing.T) {
	given := make(chan net.Conn, 1)
	creds := proxy.DirectSockets(watched{insecure.NewCredentials(), given})
	conn := dialRaw(t, startProxy(t, to(dial(t, startBackend(t, echo))), grpc.Creds(creds)))
	echoes(t, conn, "x")

	const option = 18 // TCP_USER_TIMEOUT, which package syscall does not name

	raw, err := (<-given).(syscall.Conn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}

	var ms int
	if err2 := raw.Control(func(fd uintptr) {
		ms, err = syscall.GetsockoptInt(int(fd), syscall.IPPROTO_TCP, option)
	}); err != nil || err2 != nil {
		t.Fatal(err, err2)
	}

	if ms != 20_000 {
		t.Errorf("TCP_USER_TIMEOUT is %d ms, want the 20 s of grpc-go's default", ms)
	}
}
