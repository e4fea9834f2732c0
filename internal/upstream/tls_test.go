// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"context"
	"crypto/tls"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/manifold-grpc/manifold/internal/address"
	"github.com/manifold-grpc/manifold/internal/certtest"
	"github.com/manifold-grpc/manifold/internal/config"
	"github.com/manifold-grpc/manifold/relay"
)

// secure is a server that asks for certificates of clients, and answers only those of a name.
func secure(t *testing.T, network, addr string, c *tls.Config, client string) address.Endpoint {
	t.Helper()
	l, err := net.Listen(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	var opts []grpc.ServerOption
	if c != nil {
		opts = append(opts, grpc.Creds(credentials.NewTLS(c)))
	}
	s := grpc.NewServer(append(opts, grpc.UnknownServiceHandler(func(_ any, st grpc.ServerStream) error {
		if err := st.RecvMsg(&emptypb.Empty{}); err != nil {
			return err
		}
		if p, _ := peer.FromContext(st.Context()); client != "" {
			info := p.AuthInfo.(credentials.TLSInfo)
			if got := info.State.PeerCertificates[0].DNSNames[0]; got != client {
				return status.Errorf(codes.PermissionDenied, "client %s", got)
			}
		}
		return st.SendMsg(&emptypb.Empty{})
	}))...)
	healthpb.RegisterHealthServer(s, health.NewServer())
	done := make(chan struct{})
	go func() { // ends with Stop
		defer close(done)
		s.Serve(l) //nolint:errcheck // the calls tell
	}()
	t.Cleanup(func() { s.Stop(); <-done })

	return address.Endpoint{Address: address.Address{Network: network, Addr: l.Addr().String()}}
}

// until waits until the first endpoint is as ok says.
func until(t *testing.T, b *Backend, ok func(EndpointStatus) bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for {
		b.mu.Lock()
		changed := b.changed
		b.mu.Unlock()
		if ok(b.Endpoints()[0]) {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			t.Fatalf("not in time: %+v", b.Endpoints()[0])
		}
	}
}

// Mutual TLS to endpoints, in calls and checks alike, by the name that the configuration has; an authority that is
// exchanged on disk is the one of the next connection.
func TestMutualTLS(t *testing.T) {
	old, renewed, clients := certtest.New(t), certtest.New(t), certtest.New(t)
	pair := clients.Issue(t, "proxy.internal")
	server := renewed.Issue(t, "catalog.internal")
	e := secure(t, "tcp", "127.0.0.1:0", &tls.Config{
		Certificates: []tls.Certificate{server.Certificate}, ClientCAs: clients.Pool, ClientAuth: tls.RequireAndVerifyClientCert,
		NextProtos: []string{"h2"},
	}, "proxy.internal")
	ca := filepath.Join(t.TempDir(), "ca.pem")
	replace := func(from string) {
		text, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(ca, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	replace(old.File)
	b, err := Open("b", Config{Backend: config.Backend{
		Endpoints: config.Endpoints{{Name: "one", Endpoint: e}},
		TLS: &config.BackendTLS{
			CA: config.File(ca), ServerName: "catalog.internal", Cert: config.File(pair.CertFile), Key: config.File(pair.KeyFile),
		},
		Health: &config.Health{Interval: config.Time(100 * time.Millisecond)},
	}}, Deps{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	until(t, b, func(s EndpointStatus) bool { return s.State == relay.Failing && s.Health == NotServing })

	replace(renewed.File)
	until(t, b, func(s EndpointStatus) bool { return s.State == relay.Ready && s.Health == Serving })
	if _, err := call((&world{t: t}).client(b), 10*time.Second); err != nil {
		t.Error(err)
	}
}

// Endpoints on Unix sockets, with checks.
func TestUnix(t *testing.T) {
	dir, err := os.MkdirTemp("", "m") //nolint:usetesting // its paths are too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) }) //nolint:errcheck // of the system's temporary ones
	e := secure(t, "unix", filepath.Join(dir, "s"), nil, "")
	b, err := Open("b", Config{Backend: config.Backend{
		Endpoints: config.Endpoints{{Name: "one", Endpoint: e}}, Health: &config.Health{}, Authority: "catalog.internal",
	}}, Deps{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	until(t, b, func(s EndpointStatus) bool { return s.Usable() && s.Health == Serving })
	if _, err := call((&world{t: t}).client(b), 10*time.Second); err != nil {
		t.Error(err)
	}
}
