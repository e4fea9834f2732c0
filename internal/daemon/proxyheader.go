// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"

	"github.com/pires/go-proxyproto"

	"github.com/manifold-grpc/manifold/internal/config"
)

// proxyHeader returns a relay.Server's Preamble that reads a header of the PROXY protocol, version 1 or 2, from peers
// that are trusted to send one, and refuses all others: who could send a header from anywhere could be anyone.
// Why a connection is refused goes to log, at the level of debugging: anybody can bring it about.
func proxyHeader(trusted []config.Peer, frontend string, log *slog.Logger) func(net.Conn) (net.Addr, error) {
	return func(nc net.Conn) (client net.Addr, err error) {
		if !anyIs(trusted, nc.RemoteAddr()) {
			err = errUntrusted
		} else {
			client, err = takeProxyHeader(nc)
		}
		if err != nil {
			err = fmt.Errorf("PROXY protocol: %w", err)
			log.Debug("connection refused", "frontend", frontend, "sender", nc.RemoteAddr(), "error", err)
		}

		return client, err
	}
}

var errUntrusted = errors.New("sender is not one of proxy_protocol")

// takeProxyHeader reads a header and returns the client of which it speaks, or nil.
func takeProxyHeader(nc net.Conn) (net.Addr, error) {
	header, err := readProxyHeader(nc)
	if err != nil {
		return nil, err
	}

	return clientOf(header)
}

func anyIs(peers []config.Peer, addr net.Addr) bool {
	for _, p := range peers {
		if p.Is(addr) {
			return true
		}
	}

	return false
}

// The framing of headers, as the protocol's specification has it (haproxy.org, "The PROXY protocol versions 1 & 2", section 2).
const (
	proxySignature = "\r\n\r\n\x00\r\nQUIT\n"
	maxV1          = 107
	// maxV2 is ours: addresses and some TLVs. Those that are sent have a few hundred octets.
	maxV2 = 4096
)

var errNoProxyHeader = errors.New("no header, expected one of version 1 or 2")

// readProxyHeader returns the octets of a header, and reads not one more: what follows belongs to whoever has the raw
// connection next.
func readProxyHeader(r io.Reader) ([]byte, error) {
	header := make([]byte, len(proxySignature), maxV1)
	if _, err := io.ReadFull(r, header); err != nil {
		return nil, err
	}
	switch {
	case string(header) == proxySignature:
		return readV2(r, header)
	case bytes.HasPrefix(header, []byte("PROXY ")):
		return readV1(r, header)
	default:
		return nil, errNoProxyHeader
	}
}

// readV1 reads to the end of the line.
func readV1(r io.Reader, header []byte) ([]byte, error) {
	for header[len(header)-1] != '\n' {
		if len(header) == maxV1 {
			return nil, errors.New("header of version 1 has no end")
		}
		header = header[:len(header)+1]
		if _, err := io.ReadFull(r, header[len(header)-1:]); err != nil {
			return nil, err
		}
	}

	return header, nil
}

// readV2 reads the version, the family, and as much as the length says.
func readV2(r io.Reader, header []byte) ([]byte, error) {
	const rest = 4
	start := len(header)
	header = header[:start+rest]
	if _, err := io.ReadFull(r, header[start:]); err != nil {
		return nil, err
	}
	n := int(binary.BigEndian.Uint16(header[start+2:]))
	if n > maxV2 {
		return nil, fmt.Errorf("header of %d octets, expected at most %d", n, maxV2)
	}
	header = append(header, make([]byte, n)...)
	_, err := io.ReadFull(r, header[start+rest:])

	return header, err
}

// clientOf returns the client's address, nil where the sender speaks for itself, as for its health checks.
func clientOf(header []byte) (net.Addr, error) {
	h, err := proxyproto.Read(bufio.NewReader(bytes.NewReader(header)))
	if err != nil {
		return nil, err
	}
	if h.Command.IsLocal() {
		return nil, nil
	}
	switch a := h.SourceAddr.(type) {
	case *net.TCPAddr:
		return a, nil
	case *net.UnixAddr:
		return a, nil
	default:
		return nil, nil
	}
}
