// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"crypto/tls"
	"net"
	"sync"
)

// TLSConn is a client's TLS connection that sends the records of one Write together.
type TLSConn struct {
	*tls.Conn
	low *gather
}

var _ net.Conn = (*TLSConn)(nil)

// StartTLS shakes hands over nc. It leaves closing nc to the caller if that fails.
func StartTLS(nc net.Conn, cfg *tls.Config) (*TLSConn, error) {
	cfg = cfg.Clone()
	cfg.NextProtos = []string{"h2"}
	cfg.DynamicRecordSizingDisabled = true
	low := &gather{Conn: nc}
	c := &TLSConn{tls.Client(low, cfg), low}
	return c, c.Handshake()
}

// Write encrypts p and writes it, blocking.
func (c *TLSConn) Write(p []byte) (int, error) {
	c.low.hold()
	n, err := c.Conn.Write(p)
	if ferr := c.low.flush(); err == nil {
		err = ferr
	}
	return n, err
}

// gather keeps what is written between hold and flush.
type gather struct {
	net.Conn

	mu      sync.Mutex // TLS may write an alert while it reads
	holding bool
	buf     []byte
}

func (g *gather) hold() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.holding = true
}

func (g *gather) flush() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.holding = false
	_, err := g.Conn.Write(g.buf)
	g.buf = g.buf[:0]
	return err
}

func (g *gather) Write(p []byte) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.holding {
		return g.Conn.Write(p)
	}
	g.buf = append(g.buf, p...)
	return len(p), nil
}
