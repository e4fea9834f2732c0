// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"crypto/tls"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	"github.com/manifold-grpc/manifold/internal/certtest"
	"github.com/manifold-grpc/manifold/internal/sample"
)

// A backend and a client that speak TLS, each with its own authority.
func TestTLSOnBothSides(t *testing.T) {
	up, down := certtest.New(t), certtest.New(t)
	backend := startBackend(t, loopback, sample.Options{Name: "secure", TLS: &tls.Config{
		Certificates: []tls.Certificate{up.Issue(t, "127.0.0.1").Certificate},
	}})
	pair := down.Issue(t, "127.0.0.1")
	d := startDaemon(t, Config{
		TLS:       ServerTLS{pair.CertFile, pair.KeyFile},
		Endpoints: []Endpoint{{Address: endpoints(backend)[0].Address, TLS: true}},
		CAFile:    up.File,
	})

	conn := connectWith(t, d, credentials.NewTLS(&tls.Config{RootCAs: down.Pool}))
	if name, err := echo(callContext(t), conn); err != nil || name != "secure" {
		t.Errorf("call = %q, %v", name, err)
	}
}

// A backend whose certificate nobody vouches for gets no calls.
func TestTLSUnknownAuthority(t *testing.T) {
	authority, other := certtest.New(t), certtest.New(t)
	backend := startBackend(t, loopback, sample.Options{TLS: &tls.Config{
		Certificates: []tls.Certificate{authority.Issue(t, "127.0.0.1").Certificate},
	}})
	d := startDaemon(t, Config{
		Endpoints: []Endpoint{{Address: endpoints(backend)[0].Address, TLS: true}},
		CAFile:    other.File,
	})

	_, err := echo(callContext(t), connect(t, d))
	if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("error = %v, want Unavailable because of the certificate", err)
	}
}

func TestTLSVersionsAndProtocol(t *testing.T) {
	authority := certtest.New(t)
	pair := authority.Issue(t, "127.0.0.1")
	d := startDaemon(t, Config{
		TLS:       ServerTLS{pair.CertFile, pair.KeyFile},
		Endpoints: endpoints(startBackends(t, 1)...),
	})

	tests := []struct {
		name    string
		version uint16
		protos  []string
		ok      bool
	}{
		{"1.3", tls.VersionTLS13, []string{"h2"}, true},
		{"1.2", tls.VersionTLS12, []string{"http/1.1", "h2"}, true},
		{"1.1", tls.VersionTLS11, []string{"h2"}, false},
		{"no common protocol", tls.VersionTLS13, []string{"spdy/3"}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			conn, err := tls.Dial("tcp", d.Addr().Addr, &tls.Config{
				RootCAs:    authority.Pool,
				MinVersion: tls.VersionTLS10,
				MaxVersion: tt.version,
				NextProtos: tt.protos,
			})
			if (err == nil) != tt.ok {
				t.Fatalf("handshake: %v, want success: %v", err, tt.ok)
			}
			if err != nil {
				return
			}
			state := conn.ConnectionState()
			if state.Version != tt.version || state.NegotiatedProtocol != "h2" {
				t.Errorf("version %x, protocol %q", state.Version, state.NegotiatedProtocol)
			}
			_ = conn.Close() // the handshake is all that is looked at
		})
	}
}
