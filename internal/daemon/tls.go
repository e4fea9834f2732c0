// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"crypto/tls"
	"log/slog"

	"github.com/manifold-grpc/manifold/internal/config"
	"github.com/manifold-grpc/manifold/internal/tlsfiles"
)

// nextProtos is the one ALPN protocol of gRPC, "HTTP/2 over TLS" (RFC 9113, 3.2).
var nextProtos = []string{"h2"}

// load returns the listener's configuration, nil for plaintext.
func (s ServerTLS) load(log *slog.Logger) (*tls.Config, *tlsfiles.Pairs, error) {
	if s == (ServerTLS{}) {
		return nil, nil, nil
	}

	return serverTLS(&config.FrontendTLS{
		Certificates: []config.Certificate{{Cert: config.File(s.CertFile), Key: config.File(s.KeyFile)}},
	}, log)
}

// serverTLS returns the configuration of a listener, and the certificates it shows.
func serverTLS(t *config.FrontendTLS, log *slog.Logger) (*tls.Config, *tlsfiles.Pairs, error) {
	pairs, err := tlsfiles.LoadPairs(t.Certificates, log)
	if err != nil {
		return nil, nil, err
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: nextProtos, GetCertificate: pairs.ForClient}
	if t.ClientCA != "" {
		if c.ClientCAs, err = tlsfiles.LoadPool(string(t.ClientCA)); err != nil {
			return nil, nil, err
		}
		c.ClientAuth = tls.RequireAndVerifyClientCert
	}

	return c, pairs, nil
}
