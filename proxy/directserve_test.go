// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package proxy_test

import (
	"errors"
	"io"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/manifold-grpc/manifold/internal/certtest"
	"github.com/manifold-grpc/manifold/proxy"
)

// Calls of all sizes pass over direct sockets at all four ends, with and without TLS.
func TestDirectSocketsServe(t *testing.T) {
	authority := certtest.New(t)
	pair := authority.Issue(t, "localhost")

	ofServer, err := credentials.NewServerTLSFromFile(pair.CertFile, pair.KeyFile)
	if err != nil {
		t.Fatal(err)
	}

	ofClient, err := credentials.NewClientTLSFromFile(authority.File, "localhost")
	if err != nil {
		t.Fatal(err)
	}

	plain := insecure.NewCredentials()
	t.Run("plain", func(t *testing.T) { serveDirect(t, plain, plain) })
	t.Run("TLS", func(t *testing.T) { serveDirect(t, ofServer, ofClient) })
}

func serveDirect(t *testing.T, ofServer, ofClient credentials.TransportCredentials) {
	ofServer, ofClient = proxy.DirectSockets(ofServer), proxy.DirectSockets(ofClient)
	upstream := dial(t, startBackend(t, echo, grpc.Creds(ofServer)), grpc.WithTransportCredentials(ofClient))

	server := grpc.NewServer(append(proxy.ServerOptions(to(upstream)), grpc.Creds(ofServer), grpc.WaitForHandlers(true))...)
	conn := dialRaw(t, serve(t, server), grpc.WithTransportCredentials(ofClient))

	var calls sync.WaitGroup
	for _, size := range []int{0, 1, 64, 32 << 10, 64 << 10, 100_000, 3 << 20} {
		calls.Go(func() { echoes(t, conn, strings.Repeat("x", size)) })
	}

	calls.Wait()
}

// echoes makes a call of three messages.
func echoes(t *testing.T, conn *grpc.ClientConn, payload string) {
	s, err := conn.NewStream(t.Context(), duplex, "/test.Service/Echo")
	if err != nil {
		t.Error(err)

		return
	}

	for range 3 {
		if err := s.SendMsg(proxy.NewFrame([]byte(payload))); err != nil {
			t.Error(err)
		}

		if got, err := tryRecv(s); got != payload || err != nil {
			t.Errorf("%d octets came back of %d: %v", len(got), len(payload), err)
		}
	}

	s.CloseSend()

	if _, err := tryRecv(s); !errors.Is(err, io.EOF) {
		t.Error(err)
	}
}
