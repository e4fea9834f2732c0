// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package h2

import (
	"time"

	"github.com/manifold-grpc/manifold/internal/h2/flow"
	"github.com/manifold-grpc/manifold/internal/h2/frame"
)

// Config holds the limits of a connection. The zero value of each field means
// its default; the defaults are those of a listener that faces the Internet.
// A Config is read only after its first use.
type Config struct {
	// Client says that this end opens the streams.
	Client bool

	// MaxConcurrentStreams bounds the streams that the peer may have open at
	// once (server only). Default 100, as RFC 9113 section 6.5.2 recommends at least.
	MaxConcurrentStreams uint32

	// MaxHeaderBytes bounds a header list, counted as RFC 9113 section 6.5.2
	// says, and MaxHeaderFields its number of fields. Defaults 16 KiB and 128.
	MaxHeaderBytes  uint32
	MaxHeaderFields int

	// HeaderTableSize bounds the HPACK table that the peer may use towards us,
	// in octets. Default 4096.
	HeaderTableSize uint32

	// StreamWindow is the receive window a stream starts with, MaxStreamWindow
	// what it may grow to when the round-trip time asks for it. Octets.
	// Defaults 64 KiB and 1 MiB. Less than 65,535 counts as that: a peer may send
	// so much before it has seen our SETTINGS (RFC 9113 section 6.9.2).
	StreamWindow    uint32
	MaxStreamWindow uint32

	// MaxGrowth bounds how much the streams of one connection may together be
	// granted beyond StreamWindow each, those with it as their [Stream.Growth] included. A server
	// counts what waits for its client too. Octets. Default 8 MiB.
	MaxGrowth int64

	// ConnWindow is the receive window of the connection, granted on receipt.
	// Octets. Default 1 MiB.
	ConnWindow uint32

	// HighWater is the number of octets in the write buffer from which on DATA
	// waits in the queue of its stream. Default 256 KiB.
	HighWater int

	// MaxControlFrames bounds the frames that answer the peer (SETTINGS and PING
	// acknowledgements, RST_STREAM) and wait to be written. Default 1000.
	MaxControlFrames int

	// MaxResets premature stream resets, if they are over half of all streams, within
	// ResetPeriod end the connection. Premature: before a response began,
	// or provoked by breaking a rule. From half of them on new streams are
	// refused. Defaults 200 and 10 s. Server only.
	MaxResets   int
	ResetPeriod time.Duration

	// Patience is the number of useless frames (see Conn.glitch) that a peer
	// may send beyond what its useful ones earn. Default 1000.
	Patience int

	// OnGlitch, if not nil, is told of each useless frame by its kind, a short stable name, in the goroutine
	// that reads the connection; it must not block. It is not told of
	// WINDOW_UPDATE, PING and acknowledged SETTINGS, which are useless only in masses.
	OnGlitch func(kind string)

	// MinPingInterval and three strikes bound the PINGs of an idle peer
	// (gRFC A8's server side). Default 10 s. Server only.
	MinPingInterval time.Duration

	// SettingsTimeout bounds the time to the peer's preface and first SETTINGS
	// frame, and that from the first octet of a header block to its last. Default 10 s.
	SettingsTimeout time.Duration

	// IdleTimeout ends a connection without streams; MaxAge (give or take a tenth)
	// drains any, and MaxAgeGrace later cuts what is left. 0 means never for each.
	IdleTimeout, MaxAge, MaxAgeGrace time.Duration

	// KeepaliveTime without any octet from the peer sends a PING, and
	// KeepaliveTimeout (default 20 s) without any octet after it ends the connection.
	// 0 means no PINGs.
	KeepaliveTime, KeepaliveTimeout time.Duration

	// KeepaliveRest is the least time between PINGs to a peer that sends neither HEADERS nor DATA, save for one.
	// Default none.
	KeepaliveRest time.Duration

	// WriteTimeout ends a connection whose socket accepted nothing for so
	// long although data waited. Default 30 s.
	WriteTimeout time.Duration

	// ShareReader has the connection, if it is plaintext and has little to do, read by one goroutine for all such connections,
	// on systems where that takes less CPU; see internal/evloop. [Events] must not block then: they would hold up all of them.
	ShareReader bool

	// Budget bounds the octets queued for slow receivers by all connections that
	// share it. nil means no bound.
	Budget *flow.Budget
}

// defaultTable is the HPACK table before SETTINGS are acknowledged (RFC 9113 section 4.3.1).
const defaultTable = 4096

// pingStrikes is how many early PINGs are forgiven.
const pingStrikes = 3

func def[T comparable](p *T, v T) {
	var zero T
	if *p == zero {
		*p = v
	}
}

// Shared is the limits of many connections.
type Shared struct{ cfg Config }

// Share returns c for any number of connections, which are smaller for having one between them.
func (c Config) Share() *Shared { return &Shared{c.withDefaults()} }

// withDefaults returns a copy of c with every zero field set.
func (c Config) withDefaults() Config {
	def(&c.MaxConcurrentStreams, 100)
	def(&c.MaxHeaderBytes, 16<<10)
	def(&c.MaxHeaderFields, 128)
	def(&c.HeaderTableSize, defaultTable)
	def(&c.StreamWindow, 64<<10)
	c.StreamWindow = max(c.StreamWindow, frame.InitialWindow)
	def(&c.MaxStreamWindow, 1<<20)
	c.MaxStreamWindow = max(c.MaxStreamWindow, c.StreamWindow)
	def(&c.MaxGrowth, 8<<20)
	def(&c.ConnWindow, 1<<20)
	c.ConnWindow = max(c.ConnWindow, frame.InitialWindow)
	def(&c.HighWater, 256<<10)
	def(&c.MaxControlFrames, 1000)
	def(&c.MaxResets, 200)
	def(&c.ResetPeriod, 10*time.Second)
	def(&c.Patience, 1000)
	def(&c.MinPingInterval, 10*time.Second)
	def(&c.SettingsTimeout, 10*time.Second)
	def(&c.KeepaliveTimeout, 20*time.Second)
	def(&c.WriteTimeout, 30*time.Second)
	return c
}

// settings are what we tell the peer first.
func (c *Config) settings() []frame.Setting {
	s := []frame.Setting{
		{ID: frame.SettingInitialWindowSize, Value: c.StreamWindow},
		{ID: frame.SettingMaxHeaderListSize, Value: c.MaxHeaderBytes},
	}
	if c.HeaderTableSize != defaultTable {
		s = append(s, frame.Setting{ID: frame.SettingHeaderTableSize, Value: c.HeaderTableSize})
	}
	if c.Client {
		return append(s, frame.Setting{ID: frame.SettingEnablePush, Value: 0})
	}
	return append(s, frame.Setting{ID: frame.SettingMaxConcurrentStreams, Value: c.MaxConcurrentStreams})
}
