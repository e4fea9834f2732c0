// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

// Package address parses the addresses that people write: where a frontend listens,
// and where an endpoint is. It is pure: nothing is resolved, opened or looked at.
package address

import (
	"encoding"
	"errors"
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"
)

// What the parsers below expected, for the ends of their errors.
const (
	expectedListen   = "expected host:port, :port, unix:///absolute/path, unix:relative/path or systemd:name"
	expectedEndpoint = "expected host:port, https://host:port, unix:///absolute/path or unix:relative/path"
)

// maxSocketPath is the length of the longest path that fits into a socket
// address on Linux; other systems have a little less.
const maxSocketPath = 107

var (
	_ encoding.TextMarshaler = Address{}
	_ encoding.TextMarshaler = Endpoint{}
)

// Address is a network address in the words of package net.
type Address struct {
	// Network is "tcp", "unix" or, for listeners that systemd opens, "systemd".
	Network string
	// Addr is host:port, a path, or the name that systemd gives.
	Addr string
}

// String returns the address as the parsers take it.
func (a Address) String() string {
	if a.Network == "unix" || a.Network == "systemd" {
		return a.Network + ":" + a.Addr
	}

	return a.Addr
}

// MarshalText returns what String does, so that addresses are legible in logs.
func (a Address) MarshalText() ([]byte, error) { return []byte(a.String()), nil }

// ParseListen parses an address to listen on: host:port, :port for all
// interfaces, unix:///absolute/path, unix:relative/path, or systemd:name for
// a socket that systemd has opened. Port 0 is any free one. The error has one line and ends in what was expected.
func ParseListen(s string) (Address, error) {
	if path, ok := strings.CutPrefix(s, "unix:"); ok {
		return parseSocket(path, expectedListen)
	}

	if name, ok := strings.CutPrefix(s, "systemd:"); ok {
		if name == "" || strings.Contains(name, ":") { // FileDescriptorName= of systemd.socket(5)
			return Address{}, fmt.Errorf("not a name of a socket; %s", expectedListen)
		}
		return Address{Network: "systemd", Addr: name}, nil
	}

	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return Address{}, fmt.Errorf("%s; %s", reason(err), expectedListen)
	}
	if err := checkHostPort(host, port, 0); err != nil {
		return Address{}, fmt.Errorf("%w; %s", err, expectedListen)
	}

	return Address{Network: "tcp", Addr: s}, nil
}

// Endpoint is the address of a backend, and how to speak to it.
type Endpoint struct {
	Address
	// TLS is whether to speak TLS; else plaintext HTTP/2.
	TLS bool
}

// String returns the endpoint as ParseEndpoint takes it.
func (e Endpoint) String() string {
	if e.TLS {
		return "https://" + e.Addr
	}

	return e.Address.String()
}

// MarshalText returns what String does, so that endpoints are legible in logs.
func (e Endpoint) MarshalText() ([]byte, error) { return []byte(e.String()), nil }

// ParseEndpoint parses the address of a backend: host:port or http://host:port
// for plaintext HTTP/2, https://host:port for TLS, unix:///absolute/path or
// unix:relative/path. A URL without a port has its scheme's own, 80 or 443;
// dns:///host:port is host:port. The error has one line and ends in what was
// expected.
func ParseEndpoint(s string) (Endpoint, error) {
	scheme, _, isURL := strings.Cut(s, "://")

	switch {
	case strings.HasPrefix(s, "unix:"):
		address, err := parseSocket(strings.TrimPrefix(s, "unix:"), expectedEndpoint)
		return Endpoint{Address: address}, err
	case strings.HasPrefix(s, "dns:///"):
		return parseHostPort(strings.TrimPrefix(s, "dns:///"), false)
	case scheme == "http" || scheme == "https":
		return parseURL(s)
	case isURL:
		return Endpoint{}, fmt.Errorf("unknown scheme %q; %s", scheme, expectedEndpoint)
	default:
		return parseHostPort(s, false)
	}
}

// parseURL parses a URL that is a scheme, a host and maybe a port. A path or a query
// would have no meaning for gRPC, where the path is the method, so they are errors
// instead of being dropped.
func parseURL(s string) (Endpoint, error) {
	u, err := url.Parse(s)
	if err != nil {
		// Parse puts the whole URL before the reason; the caller has it already.
		return Endpoint{}, fmt.Errorf("%w; %s", errors.Unwrap(err), expectedEndpoint)
	}
	if *u != (url.URL{Scheme: u.Scheme, Host: u.Host}) {
		return Endpoint{}, fmt.Errorf("more than a scheme, a host and a port; %s", expectedEndpoint)
	}

	if u.Port() == "" {
		port := map[string]string{"http": "80", "https": "443"}[u.Scheme]
		return parseHostPort(net.JoinHostPort(u.Hostname(), port), u.Scheme == "https")
	}

	return parseHostPort(u.Host, u.Scheme == "https")
}

// parseHostPort parses host:port. Unlike a listener, an endpoint has to have a host:
// package net would take its absence for this one.
func parseHostPort(s string, tls bool) (Endpoint, error) {
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return Endpoint{}, fmt.Errorf("%s; %s", reason(err), expectedEndpoint)
	}
	if host == "" {
		return Endpoint{}, fmt.Errorf("no host; %s", expectedEndpoint)
	}
	if err := checkHostPort(host, port, 1); err != nil {
		return Endpoint{}, fmt.Errorf("%w; %s", err, expectedEndpoint)
	}

	return Endpoint{Address: Address{Network: "tcp", Addr: s}, TLS: tls}, nil
}

// checkHostPort finds what package net would only find when it is too late to
// say where it came from.
func checkHostPort(host, port string, lowest uint64) error {
	if strings.ContainsAny(host, "/\\@?# \t\r\n,") {
		return fmt.Errorf("host %q is no name and no IP address", host)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n < lowest {
		return fmt.Errorf("port %q is not a number from %d to 65535", port, lowest)
	}

	return nil
}

// parseSocket parses what follows "unix:".
func parseSocket(path, expected string) (Address, error) {
	// In unix://x, x is the authority of a URL, not a path.
	if rest, ok := strings.CutPrefix(path, "//"); ok {
		if !strings.HasPrefix(rest, "/") {
			return Address{}, fmt.Errorf("unix:// takes an absolute path; %s", expected)
		}
		path = rest
	}
	if path == "" {
		return Address{}, fmt.Errorf("no path of a socket; %s", expected)
	}
	path = filepath.Clean(path)
	if len(path) > maxSocketPath {
		return Address{}, fmt.Errorf("path of a socket has %d bytes, at most %d fit; %s", len(path), maxSocketPath, expected)
	}

	return Address{Network: "unix", Addr: path}, nil
}

// reason returns what net says is wrong, without the address it says it of.
func reason(err error) string {
	if addrErr, ok := errors.AsType[*net.AddrError](err); ok {
		return addrErr.Err
	}

	return err.Error()
}
