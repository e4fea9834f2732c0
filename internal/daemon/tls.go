// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
)

// nextProtos is the one ALPN protocol of gRPC, "HTTP/2 over TLS" (RFC 9113, 3.2).
var nextProtos = []string{"h2"}

// load returns the listener's configuration, nil for plaintext.
func (s ServerTLS) load() (*tls.Config, error) {
	if s == (ServerTLS{}) {
		return nil, nil
	}

	// Read apart, so that an error names the one file.
	cert, err := os.ReadFile(s.CertFile)
	if err != nil {
		return nil, fmt.Errorf("TLS certificate: %w", err)
	}
	key, err := os.ReadFile(s.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("TLS key: %w", err)
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return nil, fmt.Errorf("TLS certificate %q with key %q: %w; expected PEM files that belong together", s.CertFile, s.KeyFile, err)
	}

	return &tls.Config{
		Certificates: []tls.Certificate{pair},
		MinVersion:   tls.VersionTLS12,
		NextProtos:   nextProtos,
	}, nil
}

// clientTLS returns the configuration towards endpoints. The server's name is
// left to who dials. An empty caFile means the system's authorities.
func clientTLS(caFile string) (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: nextProtos}
	if caFile == "" {
		return config, nil
	}

	pem, err := os.ReadFile(caFile)
	if err != nil {
		return nil, fmt.Errorf("CA file: %w", err)
	}
	config.RootCAs = x509.NewCertPool()
	if !config.RootCAs.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("CA file %q: no certificate in it; expected PEM", caFile)
	}

	return config, nil
}
