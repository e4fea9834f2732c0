// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

// Package undertest starts proxies to hold a suite against: those of this
// repository in the process, and any other by its command line.
package undertest

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Config is what a suite asks of a proxy under test. All PEM.
type Config struct {
	Backends []string  // host:port of each; calls go to each in turn
	Identity *Identity // what the proxy shows to clients; nil serves h2c
	ClientCA []byte    // when set, clients must show a certificate from it

	BackendCA       []byte    // what backends' certificates come from; nil dials h2c
	BackendIdentity *Identity // what the proxy shows to backends, where they ask
}

// An Identity is a certificate and its key, PEM.
type Identity struct{ Cert, Key []byte }

// Start starts a proxy on a free port of the loopback interface and returns its
// host:port. The caller calls stop when done; it returns once all has ended.
type Start func(Config) (addr string, stop func(), err error)

// ErrUnsupported is what Start returns for a Config that this proxy, or this way
// of starting it, cannot serve. Such a run is left out, and said to be.
var ErrUnsupported = errors.New("not supported by the proxy under test")

// proxies are those that ByName knows, besides command lines.
var proxies = map[string]Start{
	"forward": Forward,
	"proxy":   Library,
	"relay":   Relay,
}

// Names returns what ByName takes, sorted.
func Names() []string {
	var names []string
	for name := range proxies {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// ByName returns the proxy of that name. A name with a space in it is a command
// line, see Command.
func ByName(name string) (Start, error) {
	if strings.Contains(name, " ") {
		return Command(name), nil
	}
	if start, ok := proxies[name]; ok {
		return start, nil
	}
	return nil, fmt.Errorf("no proxy %q; there are %s, and command lines", name, strings.Join(Names(), ", "))
}

// ServerTLS returns the downstream half of the configuration, nil for h2c.
func (c Config) ServerTLS() (*tls.Config, error) {
	if c.Identity == nil {
		return nil, nil
	}
	cert, err := tls.X509KeyPair(c.Identity.Cert, c.Identity.Key)
	if err != nil {
		return nil, fmt.Errorf("identity of the proxy: %w", err)
	}
	conf := &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"h2"}}
	if c.ClientCA != nil {
		conf.ClientAuth = tls.RequireAndVerifyClientCert
		conf.ClientCAs, err = pool(c.ClientCA)
	}
	return conf, err
}

// BackendTLS returns the upstream half of the configuration, nil for h2c.
func (c Config) BackendTLS() (*tls.Config, error) {
	if c.BackendCA == nil {
		return nil, nil
	}
	roots, err := pool(c.BackendCA)
	if err != nil {
		return nil, err
	}
	conf := &tls.Config{RootCAs: roots, NextProtos: []string{"h2"}}
	if c.BackendIdentity != nil {
		cert, err := tls.X509KeyPair(c.BackendIdentity.Cert, c.BackendIdentity.Key)
		if err != nil {
			return nil, fmt.Errorf("identity towards backends: %w", err)
		}
		conf.Certificates = []tls.Certificate{cert}
	}
	return conf, nil
}

func pool(pem []byte) (*x509.CertPool, error) {
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, errors.New("no certificate in the PEM given as an authority")
	}
	return roots, nil
}
