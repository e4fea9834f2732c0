// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package tlsfiles

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/manifold-grpc/manifold/internal/config"
)

// nextProtos is the one ALPN protocol of gRPC, "HTTP/2 over TLS" (RFC 9113, 3.2).
var nextProtos = []string{"h2"}

// Client is how endpoints are spoken to, by files that are looked at again: authorities as pairs are. Safe for
// concurrent use.
type Client struct {
	ca       config.File // empty: those of the system
	interval time.Duration
	log      *slog.Logger

	mu sync.Mutex
	// Guarded by mu.
	config  *tls.Config // replaced, never changed
	stamp   stamp       // of ca when it was loaded last, or could not be
	checked time.Time
}

// NewClient loads the files. The zero value of t means the authorities of the system; the server's name is left to
// who dials where t has none.
func NewClient(t *config.BackendTLS, log *slog.Logger) (*Client, error) {
	c := &Client{ca: t.CA, interval: certificateInterval, log: log, checked: time.Now()}
	c.config = &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: nextProtos, ServerName: t.ServerName}
	if t.CA != "" {
		c.stamp = stampOf(config.Certificate{Cert: c.ca, Key: c.ca})
		var err error
		if c.config.RootCAs, err = LoadPool(string(t.CA)); err != nil {
			return nil, err
		}
	}
	if t.Cert != "" {
		pairs, err := LoadPairs([]config.Certificate{{Cert: t.Cert, Key: t.Key}}, log)
		if err != nil {
			return nil, err
		}
		c.config.GetClientCertificate = pairs.ForServer
	}

	return c, nil
}

// Config returns the configuration for a handshake of now. It must not be changed.
func (c *Client) Config() *tls.Config {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ca == "" || time.Since(c.checked) < c.interval {
		return c.config
	}
	c.checked = time.Now()
	now := stampOf(config.Certificate{Cert: c.ca, Key: c.ca})
	if now == c.stamp {
		return c.config
	}
	c.stamp = now
	pool, err := LoadPool(string(c.ca))
	if err != nil {
		c.log.Warn("authorities changed and cannot be loaded, those before stay in use", "error", err)
		return c.config
	}
	c.config = c.config.Clone()
	c.config.RootCAs = pool
	c.log.Info("authorities loaded", "file", string(c.ca))

	return c.config
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
