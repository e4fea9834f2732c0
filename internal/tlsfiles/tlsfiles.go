// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

// Package tlsfiles is certificates, keys and authorities in PEM files, for listeners and towards
// endpoints. Files of pairs, and of authorities towards endpoints, are looked at again at handshakes, at most once a second, so that
// what renews them need not tell anyone; one that cannot be loaded then is logged, and the one
// before stays in use.
package tlsfiles

import (
	"crypto/tls"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/manifold-grpc/manifold/internal/config"
)

// Pairs are certificates with their keys, in files, loaded again when they change. Handshakes look
// at the files, at most one each interval; nothing watches them meanwhile. Safe for concurrent use.
type Pairs struct {
	files    []config.Certificate
	interval time.Duration
	log      *slog.Logger

	mu sync.Mutex
	// Guarded by mu.
	pairs   []*tls.Certificate
	stamps  []stamp // of files when they were loaded last, or could not be
	checked time.Time
}

// stamp tells contents of a pair's files apart.
type stamp struct {
	certTime, keyTime time.Time
	certSize, keySize int64
}

// certificateInterval is how old the knowledge of a file may be.
const certificateInterval = time.Second

// LoadPairs loads all pairs; one that cannot be is an error now, and later only a line in log,
// while the last good one stays in use.
func LoadPairs(files []config.Certificate, log *slog.Logger) (*Pairs, error) {
	c := &Pairs{files: files, interval: certificateInterval, log: log, checked: time.Now()}
	for _, f := range files {
		now := stampOf(f)
		pair, err := loadPair(f)
		if err != nil {
			return nil, err
		}
		c.pairs, c.stamps = append(c.pairs, pair), append(c.stamps, now)
	}

	return c, nil
}

// loadPair reads the files apart, so that an error names the one.
func loadPair(f config.Certificate) (*tls.Certificate, error) {
	cert, err := os.ReadFile(string(f.Cert))
	if err != nil {
		return nil, fmt.Errorf("TLS certificate: %w", err)
	}
	key, err := os.ReadFile(string(f.Key))
	if err != nil {
		return nil, fmt.Errorf("TLS key: %w", err)
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return nil, fmt.Errorf("TLS certificate %q with key %q: %w; expected PEM files that belong together", f.Cert, f.Key, err)
	}

	return &pair, nil
}

// stampOf returns the zero stamp for files that are not there.
func stampOf(f config.Certificate) stamp {
	cert, certErr := os.Stat(string(f.Cert))
	key, keyErr := os.Stat(string(f.Key))
	if certErr != nil || keyErr != nil {
		return stamp{}
	}

	return stamp{cert.ModTime(), key.ModTime(), cert.Size(), key.Size()}
}

// File returns the name of a pair's certificate file.
func (c *Pairs) File(i int) string { return string(c.files[i].Cert) }

// Current returns the pairs, after a look at the files if it is time.
func (c *Pairs) Current() []*tls.Certificate {
	c.mu.Lock()
	defer c.mu.Unlock()
	if time.Since(c.checked) < c.interval {
		return c.pairs
	}
	c.checked = time.Now()
	for i, f := range c.files {
		if now := stampOf(f); now != c.stamps[i] {
			c.stamps[i] = now
			c.reload(i)
		}
	}

	return c.pairs
}

// reload loads a pair. The list is replaced, as handshakes read the one before. mu is held.
func (c *Pairs) reload(i int) {
	pair, err := loadPair(c.files[i])
	if err != nil {
		c.log.Warn("certificate changed and cannot be loaded, the one before stays in use", "error", err)
		return
	}
	pairs := append([]*tls.Certificate(nil), c.pairs...)
	pairs[i] = pair
	c.pairs = pairs
	c.log.Info("certificate loaded", "file", string(c.files[i].Cert), "not_after", pair.Leaf.NotAfter)
}

// ForClient is tls.Config's GetCertificate: the first pair that suits the client, else the first.
func (c *Pairs) ForClient(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	pairs := c.Current()
	for _, p := range pairs {
		if hello.SupportsCertificate(p) == nil {
			return p, nil
		}
	}

	return pairs[0], nil
}

// ForServer is tls.Config's GetClientCertificate.
func (c *Pairs) ForServer(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
	return c.Current()[0], nil
}
