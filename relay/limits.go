// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package relay

import (
	"runtime/debug"
	"time"

	"github.com/manifold-grpc/manifold/internal/h2"
	"github.com/manifold-grpc/manifold/internal/h2/flow"
)

// Limits bound what clients may cost. The zero value of each field means its
// default, chosen for a listener that faces the Internet. docs/limits.md gives the reason for each.
type Limits struct {
	// MaxConcurrentStreams per connection; more are refused with REFUSED_STREAM. Default 100.
	MaxConcurrentStreams uint32

	// MaxHeaderBytes and MaxHeaderFields bound a header list, counted as RFC 9113
	// section 6.5.2 says. More is answered with RESOURCE_EXHAUSTED. Defaults 16 KiB and 128.
	MaxHeaderBytes  uint32
	MaxHeaderFields int

	// StreamWindow is the receive window of a stream at first, MaxStreamWindow what it may grow to.
	// Octets. Defaults 64 KiB and 1 MiB.
	StreamWindow, MaxStreamWindow uint32

	// Buffer bounds the octets that wait for slow receivers, of all connections of the
	// server in both directions. A call that would need more ends with RESOURCE_EXHAUSTED.
	// Default 256 MiB, but no more than a quarter of the Go memory limit (GOMEMLIMIT).
	Buffer int64

	// MaxRequestMessage bounds each message of a request, in octets; a larger one ends
	// the call with RESOURCE_EXHAUSTED. Default none; [Call.SetMaxRequestMessage] sets it per call.
	MaxRequestMessage uint32

	// MaxConnections bounds the connections, and MaxConnectionsPerAddress those
	// from one public address; loopback and private addresses are not counted there.
	// Defaults 10,000, but no more than half of the files that the process may have
	// open (each connection may need one to an upstream), and 100.
	MaxConnections           int
	MaxConnectionsPerAddress int

	// HandshakeTimeout bounds a TLS handshake, SettingsTimeout the time to the HTTP/2
	// preface and SETTINGS, and that for a header block. Defaults 5 s and 10 s.
	HandshakeTimeout, SettingsTimeout time.Duration

	// IdleTimeout drains a connection without streams, MaxAge (give or take a tenth) any; what is left
	// MaxAgeGrace later is cut. Defaults 5 min, 1 h, 5 min; negative: never.
	IdleTimeout, MaxAge, MaxAgeGrace time.Duration

	// WriteTimeout cuts a connection that accepts nothing for so long although
	// data waits for it. Default 30 s.
	WriteTimeout time.Duration

	// MinPingInterval of idle clients; three early PINGs are forgiven. Default 10 s.
	MinPingInterval time.Duration

	// KeepaliveTime and KeepaliveTimeout: a PING after so much silence, and
	// the end when it is not answered. Defaults 2 min and 20 s; negative: no PINGs.
	KeepaliveTime, KeepaliveTimeout time.Duration

	// MemoryShare is the share of the Go memory limit (GOMEMLIMIT) from which on new calls are refused with
	// UNAVAILABLE. Without a memory limit nothing is refused. Default 0.9.
	MemoryShare float64
}

func or[T comparable](v, d T) T {
	var zero T
	if v == zero {
		return d
	}
	return v
}

// orNever is or for durations of which a negative one means never.
func orNever(v, d time.Duration) time.Duration { return max(0, or(v, d)) }

// withDefaults returns l with every zero field set.
func (l Limits) withDefaults() Limits {
	l.Buffer = or(l.Buffer, defaultBuffer(debug.SetMemoryLimit(-1)))
	l.MaxConnections = or(l.MaxConnections, defaultConnections(openFiles()))
	l.MaxConnectionsPerAddress = or(l.MaxConnectionsPerAddress, 100)
	l.HandshakeTimeout = or(l.HandshakeTimeout, 5*time.Second)
	l.SettingsTimeout = or(l.SettingsTimeout, 10*time.Second)
	l.IdleTimeout = orNever(l.IdleTimeout, 5*time.Minute)
	l.MaxAge = orNever(l.MaxAge, time.Hour)
	l.MaxAgeGrace = orNever(l.MaxAgeGrace, 5*time.Minute)
	l.KeepaliveTime = orNever(l.KeepaliveTime, 2*time.Minute)
	l.MemoryShare = or(l.MemoryShare, 0.9)
	return l
}

// defaultBuffer returns the default of Buffer for a Go memory limit: with octets that wait on both sides,
// half of it is left for all else.
func defaultBuffer(memory int64) int64 { return min(256<<20, memory/4) }

// defaultConnections returns the default of MaxConnections for a limit of open files; 0: none.
func defaultConnections(files uint64) int {
	if files == 0 {
		return maxConnections
	}
	return int(min(maxConnections, files/2))
}

const maxConnections = 10_000

// config is how connections of clients are run.
func (l *Limits) config(budget *flow.Budget) h2.Config {
	return h2.Config{
		MaxConcurrentStreams: l.MaxConcurrentStreams,
		MaxHeaderBytes:       l.MaxHeaderBytes,
		MaxHeaderFields:      l.MaxHeaderFields,
		StreamWindow:         l.StreamWindow,
		MaxStreamWindow:      l.MaxStreamWindow,
		SettingsTimeout:      l.SettingsTimeout,
		IdleTimeout:          l.IdleTimeout,
		MaxAge:               l.MaxAge,
		MaxAgeGrace:          l.MaxAgeGrace,
		WriteTimeout:         l.WriteTimeout,
		MinPingInterval:      l.MinPingInterval,
		KeepaliveTime:        l.KeepaliveTime,
		KeepaliveTimeout:     l.KeepaliveTimeout,
		Budget:               budget,
	}
}
