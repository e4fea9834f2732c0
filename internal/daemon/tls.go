// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"os"

	"github.com/manifold-grpc/manifold/internal/config"
)

// nextProtos is the one ALPN protocol of gRPC, "HTTP/2 over TLS" (RFC 9113, 3.2).
var nextProtos = []string{"h2"}

// load returns the listener's configuration, nil for plaintext.
func (s ServerTLS) load(log *slog.Logger) (*tls.Config, error) {
	if s == (ServerTLS{}) {
		return nil, nil
	}

	return serverTLS(&config.FrontendTLS{
		Certificates: []config.Certificate{{Cert: config.File(s.CertFile), Key: config.File(s.KeyFile)}},
	}, log)
}

// serverTLS returns the configuration of a listener.
func serverTLS(t *config.FrontendTLS, log *slog.Logger) (*tls.Config, error) {
	pairs, err := loadCertificates(t.Certificates, log)
	if err != nil {
		return nil, err
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: nextProtos, GetCertificate: pairs.forClient}
	if t.ClientCA != "" {
		if c.ClientCAs, err = loadPool(string(t.ClientCA)); err != nil {
			return nil, err
		}
		c.ClientAuth = tls.RequireAndVerifyClientCert
	}

	return c, nil
}

// clientTLS returns the configuration towards endpoints. The server's name is
// left to who dials. An empty caFile means the system's authorities.
func clientTLS(caFile string) (*tls.Config, error) {
	return backendTLS(&config.BackendTLS{CA: config.File(caFile)}, nil)
}

// backendTLS returns the configuration towards the endpoints of a backend.
func backendTLS(t *config.BackendTLS, log *slog.Logger) (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: nextProtos, ServerName: t.ServerName}
	if t.CA != "" {
		var err error
		if c.RootCAs, err = loadPool(string(t.CA)); err != nil {
			return nil, err
		}
	}
	if t.Cert != "" {
		pairs, err := loadCertificates([]config.Certificate{{Cert: t.Cert, Key: t.Key}}, log)
		if err != nil {
			return nil, err
		}
		c.GetClientCertificate = pairs.forServer
	}

	return c, nil
}

func loadPool(caFile string) (*x509.CertPool, error) {
	pem, err := os.ReadFile(caFile)
	if err != nil {
		return nil, fmt.Errorf("CA file: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("CA file %q: no certificate in it; expected PEM", caFile)
	}

	return pool, nil
}
