// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package tlsfiles

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

// Client returns the configuration towards endpoints. The zero value of t means the authorities of the system; the
// server's name is left to who dials where t has none.
func Client(t *config.BackendTLS, log *slog.Logger) (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: nextProtos, ServerName: t.ServerName}
	if t.CA != "" {
		var err error
		if c.RootCAs, err = LoadPool(string(t.CA)); err != nil {
			return nil, err
		}
	}
	if t.Cert != "" {
		pairs, err := LoadPairs([]config.Certificate{{Cert: t.Cert, Key: t.Key}}, log)
		if err != nil {
			return nil, err
		}
		c.GetClientCertificate = pairs.ForServer
	}

	return c, nil
}

// LoadPool returns the authorities in a PEM file.
func LoadPool(caFile string) (*x509.CertPool, error) {
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
