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
	x := &incoming{Conn: nc, set: s.settings.Load()}
	if x.set.Preamble == nil {
		x.from(nc.RemoteAddr())
	}
	if reason := s.admit(x); reason != "" {
		s.turnAway(x, reason)
		return
	}
	go s.serveConn(x) // ends with the connection; Close closes it
}

// An incoming is a client's connection before it is known to speak HTTP/2.
type incoming struct {
	net.Conn
	set     *settings
	remote  net.Addr // the client's; nil while the preamble has not told it
	counted string   // the address under which the connection is counted; empty for those that are not
	trusted bool     // its forwarding headers are kept
}

// from notes where the client is.
func (x *incoming) from(client net.Addr) {
	x.remote = client
	x.trusted = x.set.TrustedClient != nil && x.set.TrustedClient(client)
	ap, err := netip.ParseAddrPort(client.String())
	if err != nil || x.trusted {
		return
	}
	ip := ap.Addr().Unmap()
	if !ip.IsLoopback() && !ip.IsPrivate() && !ip.IsLinkLocalUnicast() {
		x.counted = ip.String()
	}
}

// turnAway closes a connection that a limit is against.
func (s *Server) turnAway(x *incoming, reason string) {
	if h := s.Hooks.ConnRejected; h != nil {
		h(or(x.remote, x.RemoteAddr()), reason)
	}
	x.Close() //nolint:errcheck // not wanted
}

// admit counts a connection, or says which limit is against it.
func (s *Server) admit(x *incoming) (reason string) {
	limits := &s.settings.Load().limits
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.draining || s.closed:
		return "draining"
	case s.count >= limits.MaxConnections:
		return "max_connections"
	case !s.countAddress(x, limits):
		return tooManyOfAddress
	}
	s.count++
	s.pending[x.Conn] = true
	s.conns.Add(1)
	return ""
}

const tooManyOfAddress = "max_connections_per_address"

// countAddress counts a connection under its client's address, if that may have another. mu is held.
func (s *Server) countAddress(x *incoming, limits *Limits) bool {
	if x.counted == "" {
		return true
	}
	if s.perAddr[x.counted] >= limits.MaxConnectionsPerAddress {
		x.counted = ""
		return false
	}
	s.perAddr[x.counted]++
	return true
}

// release uncounts a connection.
func (s *Server) release(x *incoming) {
	s.mu.Lock()
	delete(s.pending, x.Conn)
	s.count--
	if x.counted != "" {
		if s.perAddr[x.counted]--; s.perAddr[x.counted] == 0 {
			delete(s.perAddr, x.counted)
		}
	}
	s.mu.Unlock()
	s.conns.Done()
}

// serveConn runs a client's connection from its first octet to its end.
func (s *Server) serveConn(x *incoming) {
	defer s.release(x)
	err := s.introduce(x)
	if err == nil && !s.recount(x) {
		s.turnAway(x, tooManyOfAddress)
		return
	}
	remote := or(x.remote, x.RemoteAddr())
	if h := s.Hooks.ConnOpened; h != nil {
		h(remote)
	}
	if err == nil {
		err = s.runConn(x)
	} else {
		x.Close() //nolint:errcheck // of no use any more
	}
	if h := s.Hooks.ConnClosed; h != nil {
		h(remote, err)
	}
}

// introduce has the preamble read, which tells where the client is.
func (s *Server) introduce(x *incoming) error {
	if x.set.Preamble == nil {
		return nil
	}
	s.awaitFirst(x, x.set.limits.HandshakeTimeout)
	client, err := x.set.Preamble(x.Conn)
	if err != nil {
		return err
	}
	x.from(or(client, x.RemoteAddr()))
	return nil
}

// recount counts a connection under the address that its preamble told.
func (s *Server) recount(x *incoming) bool {
	if x.set.Preamble == nil {
		return true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.countAddress(x, &s.settings.Load().limits)
}

// runConn serves a connection once it is known what it speaks. What that takes is over by then, and not on the stack
// for as long as the connection lives.
func (s *Server) runConn(x *incoming) error {
	nc, first, state, isH2, err := s.recognize(x)
	switch {
	case err != nil:
		return err
	case isH2:
		return s.serveHTTP2(x, nc, first, state)
	}
	return s.serveHTTP1(x, nc, first)
}

// recognize shakes hands and finds out what a connection speaks: HTTP/2 or HTTP/1. After an error it is closed.
func (s *Server) recognize(x *incoming) (nc net.Conn, first []byte, state *tls.ConnectionState, isH2 bool, err error) {
	if nc, state, err = x.secure(); err != nil {
		x.Close() //nolint:errcheck // of no use any more
		return nil, nil, nil, false, err
	}
	if state != nil && state.NegotiatedProtocol == "h2" {
		return nc, nil, state, true, nil
	}
	s.awaitFirst(x, x.set.limits.SettingsTimeout)
	first, isH2, err = sniff(nc)
	switch {
	case err != nil:
		nc.Close() //nolint:errcheck // of no use any more
	case !isH2 && !looksLikeHTTP1(first):
		closeUnread(nc)
		err = h2.ErrNotHTTP2
	}
	return nc, first, state, isH2, err
}

func (s *Server) serveHTTP1(x *incoming, nc net.Conn, first []byte) error {
	s.mu.Lock()
	s.settle(x.Conn)
	s.mu.Unlock()
	return s.http1.serve(&replayConn{Conn: nc, remote: x.remote, first: first})
}

// secure shakes hands as a TLS server, if the server uses TLS.
func (x *incoming) secure() (net.Conn, *tls.ConnectionState, error) {
	if x.set.tls == nil {
		return x.Conn, nil, nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), x.set.limits.HandshakeTimeout)
	defer cancel()
	tc := tlsconn.Server(x.Conn, x.set.tls)
	if err := tc.HandshakeContext(ctx); err != nil {
		return nil, nil, err
	}
	state := tc.ConnectionState()
	return tc, &state, nil
}

// drainGrace is what a connection that has not said what it speaks gets when the server drains: what its
// client sent at once is on its way no longer than that.
const drainGrace = time.Second

// awaitFirst bounds the wait for what a connection begins with.
func (s *Server) awaitFirst(x *incoming, d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.draining {
		d = min(d, drainGrace)
	}
	x.SetReadDeadline(time.Now().Add(d)) //nolint:errcheck // the read fails, then
}

// hurryPending bounds it anew when a drain begins, TLS handshakes included. mu is held.
func (s *Server) hurryPending() {
	for raw, unknown := range s.pending {
		if unknown {
			raw.SetReadDeadline(time.Now().Add(min(drainGrace, s.settings.Load().limits.SettingsTimeout))) //nolint:errcheck // the read fails, then
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
func (s *Server) serveHTTP2(x *incoming, nc net.Conn, first []byte, state *tls.ConnectionState) error {
	d := s.newDownConn(x, nc, first, state)
	err := d.h2.Serve()
	s.mu.Lock()
	delete(s.open, d)
	s.mu.Unlock()
	return err
}

// newDownConn is what serveHTTP2 has on the stack only until the connection is served: what lies there for as
// long as that may have the stack double.
func (s *Server) newDownConn(x *incoming, nc net.Conn, first []byte, state *tls.ConnectionState) *downConn {
	d := &downConn{srv: s, set: x.set, tls: state, remote: x.remote, trusted: x.trusted}
	if x.set.ForwardedFor {
		if host, _, err := net.SplitHostPort(x.remote.String()); err == nil {
			d.forwarded = host
		}
	}
	d.h2 = x.set.conns.New(nc, d)
	if len(first) > 0 {
		d.h2.Preread(first)
	}
	s.mu.Lock()
	s.settle(x.Conn)
	delete(s.pending, x.Conn)
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
	return d
}

// replayConn is a connection whose first octets were read already.
type replayConn struct {
	net.Conn
	remote net.Addr
	first  []byte
}

func (c *replayConn) RemoteAddr() net.Addr { return c.remote }

func (c *replayConn) Read(p []byte) (int, error) {
	if len(c.first) == 0 {
		return c.Conn.Read(p)
	}
	n := copy(p, c.first)
	c.first = c.first[n:]
	return n, nil
}
