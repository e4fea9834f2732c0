// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package relay

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/manifold-grpc/manifold/internal/h2"
	"github.com/manifold-grpc/manifold/internal/h2/frame"
	"github.com/manifold-grpc/manifold/internal/tlsconn"
)

// accept takes a client's connection, or turns it away.
func (s *Server) accept(nc net.Conn) {
	addr, trusted := s.client(nc)
	if reason := s.admit(nc, addr); reason != "" {
		if h := s.Hooks.ConnRejected; h != nil {
			h(nc.RemoteAddr(), reason)
		}
		nc.Close() //nolint:errcheck // not wanted
		return
	}
	go s.serveConn(nc, addr, trusted) // ends with the connection; Close closes it
}

// client returns the address under which a client's connections are counted, empty
// for those that are not, and whether its forwarding headers are kept.
func (s *Server) client(nc net.Conn) (addr string, trusted bool) {
	trusted = s.TrustedClient != nil && s.TrustedClient(nc.RemoteAddr())
	ap, err := netip.ParseAddrPort(nc.RemoteAddr().String())
	if err != nil || trusted {
		return "", trusted
	}
	ip := ap.Addr().Unmap()
	if ip.IsLoopback() || ip.IsPrivate() || ip.IsLinkLocalUnicast() {
		return "", trusted
	}
	return ip.String(), trusted
}

// admit counts a connection, or says which limit is against it.
func (s *Server) admit(nc net.Conn, addr string) (reason string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.draining || s.closed:
		return "draining"
	case s.count >= s.Limits.MaxConnections:
		return "max_connections"
	case addr != "" && s.perAddr[addr] >= s.Limits.MaxConnectionsPerAddress:
		return "max_connections_per_address"
	}
	s.count++
	if addr != "" {
		s.perAddr[addr]++
	}
	s.pending[nc] = true
	s.conns.Add(1)
	return ""
}

// release uncounts a connection.
func (s *Server) release(nc net.Conn, addr string) {
	s.mu.Lock()
	delete(s.pending, nc)
	s.count--
	if addr != "" {
		if s.perAddr[addr]--; s.perAddr[addr] == 0 {
			delete(s.perAddr, addr)
		}
	}
	s.mu.Unlock()
	s.conns.Done()
}

// serveConn runs a client's connection from its first octet to its end.
func (s *Server) serveConn(raw net.Conn, addr string, trusted bool) {
	defer s.release(raw, addr)
	if h := s.Hooks.ConnOpened; h != nil {
		h(raw.RemoteAddr())
	}
	err := s.runConn(raw, trusted)
	if h := s.Hooks.ConnClosed; h != nil {
		h(raw.RemoteAddr(), err)
	}
}

func (s *Server) runConn(raw net.Conn, trusted bool) error {
	nc, state, err := s.secure(raw)
	if err != nil {
		raw.Close() //nolint:errcheck // of no use any more
		return err
	}
	if state != nil && state.NegotiatedProtocol == "h2" {
		return s.serveHTTP2(raw, nc, nil, state, trusted)
	}
	s.awaitFirst(raw)
	first, isH2, err := sniff(nc)
	switch {
	case err != nil:
		nc.Close() //nolint:errcheck // of no use any more
		return err
	case isH2:
		return s.serveHTTP2(raw, nc, first, state, trusted)
	}
	if !looksLikeHTTP1(first) {
		closeUnread(nc)
		return h2.ErrNotHTTP2
	}
	s.mu.Lock()
	s.settle(raw)
	s.mu.Unlock()
	return s.http1.serve(&replayConn{Conn: nc, first: first})
}

// secure shakes hands as a TLS server, if the server uses TLS.
func (s *Server) secure(raw net.Conn) (net.Conn, *tls.ConnectionState, error) {
	if s.tls == nil {
		return raw, nil, nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), s.Limits.HandshakeTimeout)
	defer cancel()
	tc := tlsconn.Server(raw, s.tls)
	if err := tc.HandshakeContext(ctx); err != nil {
		return nil, nil, err
	}
	state := tc.ConnectionState()
	return tc, &state, nil
}

// drainGrace is what a connection that has not said what it speaks gets when the server drains: what its
// client sent at once is on its way no longer than that.
const drainGrace = time.Second

// awaitFirst bounds the wait for a connection's first octets.
func (s *Server) awaitFirst(raw net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.Limits.SettingsTimeout
	if s.draining {
		d = min(d, drainGrace)
	}
	raw.SetReadDeadline(time.Now().Add(d)) //nolint:errcheck // the read fails, then
}

// hurryPending bounds it anew when a drain begins, TLS handshakes included. mu is held.
func (s *Server) hurryPending() {
	for raw, unknown := range s.pending {
		if unknown {
			raw.SetReadDeadline(time.Now().Add(min(drainGrace, s.Limits.SettingsTimeout))) //nolint:errcheck // the read fails, then
		}
	}
}

// settle ends that bound: it is known what the connection speaks. mu is held.
func (s *Server) settle(raw net.Conn) {
	s.pending[raw] = false
	raw.SetReadDeadline(time.Time{}) //nolint:errcheck // the read fails, then
}

// sniff reads as much as tells HTTP/2 with prior knowledge from anything else.
func sniff(nc net.Conn) (first []byte, isH2 bool, err error) {
	buf := make([]byte, len(frame.ClientPreface))
	n := 0
	for n < len(buf) {
		m, err := nc.Read(buf[n:])
		n += m
		if !strings.HasPrefix(frame.ClientPreface, string(buf[:n])) {
			return buf[:n], false, nil
		}
		if err != nil {
			return nil, false, err
		}
	}
	return buf, true, nil
}

// closeUnread closes a connection whose octets are of no interest, without resetting it for those
// that are unread.
func closeUnread(nc net.Conn) {
	defer nc.Close() //nolint:errcheck // of no use any more
	if w, ok := nc.(interface{ CloseWrite() error }); !ok || w.CloseWrite() != nil {
		return
	}
	nc.SetReadDeadline(time.Now().Add(lingerTime)) //nolint:errcheck // the read fails, then
	io.CopyN(io.Discard, nc, maxDiscard)           //nolint:errcheck // likewise
}

// What closeUnread reads at most.
const (
	lingerTime = 500 * time.Millisecond
	maxDiscard = 64 << 10
)

// looksLikeHTTP1 reports whether a connection that is not HTTP/2 begins like a request
// of HTTP/1.1, as far as its first octets tell.
func looksLikeHTTP1(first []byte) bool {
	for _, m := range [...]string{"GET ", "HEAD ", "POST ", "PUT ", "PATCH ", "DELETE ", "CONNECT ", "OPTIONS ", "TRACE ", "PRI "} {
		n := min(len(m), len(first))
		if n > 0 && m[:n] == string(first[:n]) {
			return true
		}
	}
	return false
}

// serveHTTP2 runs a connection as HTTP/2. first was read of it before.
func (s *Server) serveHTTP2(raw, nc net.Conn, first []byte, state *tls.ConnectionState, trusted bool) error {
	d := &downConn{srv: s, tls: state, trusted: trusted}
	if s.ForwardedFor {
		if host, _, err := net.SplitHostPort(nc.RemoteAddr().String()); err == nil {
			d.forwarded = host
		}
	}
	cfg := s.Limits.config(s.budget)
	cfg.OnGlitch = s.Hooks.Glitch
	d.h2 = h2.New(nc, cfg, d)
	if len(first) > 0 {
		d.h2.Preread(first)
	}
	s.mu.Lock()
	s.settle(raw)
	delete(s.pending, raw)
	s.open[d] = struct{}{}
	draining, closed := s.draining, s.closed
	s.mu.Unlock()
	if closed {
		d.h2.Close()
	} else if draining {
		var b h2.Batch
		d.h2.Drain(&b)
		b.Flush()
	}
	err := d.h2.Serve()
	s.mu.Lock()
	delete(s.open, d)
	s.mu.Unlock()
	return err
}

// replayConn is a connection whose first octets were read already.
type replayConn struct {
	net.Conn
	first []byte
}

func (c *replayConn) Read(p []byte) (int, error) {
	if len(c.first) == 0 {
		return c.Conn.Read(p)
	}
	n := copy(p, c.first)
	c.first = c.first[n:]
	return n, nil
}
