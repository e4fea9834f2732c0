// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

// Package certtest makes certificates for tests: a certificate authority that
// lives as long as the test, and what it signs, in memory and as the PEM files
// that a daemon is given.
package certtest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// lifetime bounds the use of a certificate that escapes from a test.
const lifetime = time.Hour

// Authority is a certificate authority. Its methods fail the test they are given
// instead of returning errors.
type Authority struct {
	// File is the authority's own certificate, PEM.
	File string
	// Pool holds the same certificate.
	Pool *x509.CertPool

	dir  string
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

// Pair is a certificate and its key, PEM files and loaded.
type Pair struct {
	CertFile, KeyFile string
	tls.Certificate
}

// New makes an authority whose files are removed at the end of the test.
func New(t testing.TB) *Authority {
	t.Helper()

	a := &Authority{dir: t.TempDir(), Pool: x509.NewCertPool(), key: newKey(t)}
	a.cert = a.sign(t, &x509.Certificate{
		Subject:               pkix.Name{CommonName: "test authority"},
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign,
	}, a.key)
	a.Pool.AddCert(a.cert)
	a.File = a.write(t, "ca.pem", "CERTIFICATE", a.cert.Raw)

	return a
}

// Issue makes a certificate for the names and IP addresses in hosts, valid for
// servers and clients. The first host names the files.
func (a *Authority) Issue(t testing.TB, hosts ...string) Pair {
	t.Helper()

	template := &x509.Certificate{
		Subject:     pkix.Name{CommonName: hosts[0]},
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	for _, host := range hosts {
		if ip := net.ParseIP(host); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, host)
		}
	}

	key := newKey(t)
	cert := a.sign(t, template, key)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}

	return Pair{
		CertFile:    a.write(t, hosts[0]+".crt", "CERTIFICATE", cert.Raw),
		KeyFile:     a.write(t, hosts[0]+".key", "PRIVATE KEY", der),
		Certificate: tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key, Leaf: cert},
	}
}

// sign completes template and signs it, by itself where the authority has no
// certificate yet.
func (a *Authority) sign(t testing.TB, template *x509.Certificate, key *ecdsa.PrivateKey) *x509.Certificate {
	t.Helper()

	now := time.Now()
	template.SerialNumber = big.NewInt(now.UnixNano())
	template.NotBefore, template.NotAfter = now.Add(-time.Minute), now.Add(lifetime)

	parent := a.cert
	if parent == nil {
		parent = template
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}

	return cert
}

func (a *Authority) write(t testing.TB, name, kind string, der []byte) string {
	t.Helper()

	path := filepath.Join(a.dir, name)
	data := pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}

	return path
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()

	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}

	return key
}
