// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package relay

import (
	"crypto/tls"
	"maps"
	"net"
	"slices"

	"github.com/manifold-grpc/manifold/internal/h2"
)

// Settings are what of a [Server] may change while it serves; its fields of the same names say what each is.
type Settings struct {
	TLS           *tls.Config
	ForwardedFor  bool
	OmitErrorInfo bool
	TrustedClient func(net.Addr) bool
	Preamble      func(net.Conn) (client net.Addr, err error)
	Limits        Limits
}

// settings are Settings as a connection is served with them from its first octet to its end: nothing that a
// reader of them sees changes.
type settings struct {
	Settings
	tls    *tls.Config // completed; nil without TLS
	limits Limits      // with defaults
	conns  *h2.Shared  // the limits of connections
}

func newSettings(n Settings) *settings {
	s := &settings{Settings: n, limits: n.Limits.withDefaults()}
	if n.TLS != nil {
		s.tls = n.TLS.Clone()
		s.tls.NextProtos = []string{"h2", "http/1.1"}
		s.tls.DynamicRecordSizingDisabled = true
		s.tls.MinVersion = max(s.tls.MinVersion, tls.VersionTLS12) // RFC 9113 section 9.2
	}
	return s
}

// Update replaces the settings. Connections that come from now on are served with n; those that are there keep
// what they have, and their calls too. What is counted for all connections together, Limits.MaxConnections, MaxConnectionsPerAddress, Buffer and
// MemoryShare, is held against n at once; nobody who is over a bound by that is cut off. HTTP/1.1 keeps the timeouts that it began with.
func (s *Server) Update(n Settings) {
	s.init()
	set := newSettings(n)
	s.budget.SetMax(set.limits.Buffer)
	set.conns = s.connLimits(set)
	s.settings.Store(set)
}

// connLimits returns how clients' connections are run.
func (s *Server) connLimits(set *settings) *h2.Shared {
	cfg := set.limits.config(s.budget)
	cfg.OnGlitch = s.Hooks.Glitch
	cfg.ShareReader = s.ShareReader
	return cfg.Share()
}

// Renew asks the clients that are connected to connect anew, as when a drain begins, so that all are served with
// the settings of now: new calls come by new connections, those in flight run to their end.
func (s *Server) Renew() {
	s.mu.Lock()
	open := slices.Collect(maps.Keys(s.open))
	s.mu.Unlock()
	for _, d := range open {
		var b h2.Batch
		d.h2.Drain(&b)
		b.Flush()
	}
}

// settingsOfFields are those that a server begins with.
func (s *Server) settingsOfFields() Settings {
	return Settings{
		TLS: s.TLS, ForwardedFor: s.ForwardedFor, OmitErrorInfo: s.OmitErrorInfo,
		TrustedClient: s.TrustedClient, Preamble: s.Preamble, Limits: s.Limits,
	}
}
