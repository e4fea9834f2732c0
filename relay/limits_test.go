// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package relay

import (
	"math"
	"testing"
	"time"
)

// The defaults are a promise of docs/limits.md: those that this package sets. The
// rest are zero here and set by the connection.
func TestLimitsDefaults(t *testing.T) {
	want := Limits{
		Buffer:                   256 << 20,
		MaxConnections:           10_000,
		MaxConnectionsPerAddress: 100,
		HandshakeTimeout:         5 * time.Second,
		SettingsTimeout:          10 * time.Second,
		IdleTimeout:              5 * time.Minute,
		MaxAge:                   time.Hour,
		MaxAgeGrace:              5 * time.Minute,
		KeepaliveTime:            2 * time.Minute,
		MemoryShare:              0.9,
	}
	if got := (Limits{}).withDefaults(); got != want {
		t.Errorf("defaults\n got %+v\nwant %+v", got, want)
	}
}

func TestDefaultBuffer(t *testing.T) {
	for memory, want := range map[int64]int64{math.MaxInt64: 256 << 20, 4 << 30: 256 << 20, 256 << 20: 64 << 20} {
		if got := defaultBuffer(memory); got != want {
			t.Errorf("with a memory limit of %d the buffer is %d, want %d", memory, got, want)
		}
	}
}

func TestLimitsSet(t *testing.T) {
	set := Limits{
		MaxConcurrentStreams: 1, MaxHeaderBytes: 2, MaxHeaderFields: 3, StreamWindow: 4, MaxStreamWindow: 5,
		Buffer: 6, MaxRequestMessage: 7, MaxConnections: 8, MaxConnectionsPerAddress: 9,
		HandshakeTimeout: 10, SettingsTimeout: 11, IdleTimeout: 12, MaxAge: 13, MaxAgeGrace: 14,
		WriteTimeout: 15, MinPingInterval: 16, KeepaliveTime: 17, KeepaliveTimeout: 18, MemoryShare: 0.5,
	}
	if got := set.withDefaults(); got != set {
		t.Errorf("what is set was changed:\n got %+v\nwant %+v", got, set)
	}
	never := Limits{IdleTimeout: -1, MaxAge: -1, MaxAgeGrace: -1, KeepaliveTime: -1}.withDefaults()
	if never.IdleTimeout != 0 || never.MaxAge != 0 || never.MaxAgeGrace != 0 || never.KeepaliveTime != 0 {
		t.Errorf("negative durations must mean never, which is 0: %+v", never)
	}
}

// Every limit of the connection must reach it.
func TestLimitsConfig(t *testing.T) {
	l := Limits{
		MaxConcurrentStreams: 1, MaxHeaderBytes: 2, MaxHeaderFields: 3, StreamWindow: 4, MaxStreamWindow: 5,
		SettingsTimeout: 11, IdleTimeout: 12, MaxAge: 13, MaxAgeGrace: 14,
		WriteTimeout: 15, MinPingInterval: 16, KeepaliveTime: 17, KeepaliveTimeout: 18,
	}
	c := l.config(nil)
	if c.Client || c.MaxConcurrentStreams != 1 || c.MaxHeaderBytes != 2 || c.MaxHeaderFields != 3 || c.StreamWindow != 4 || c.MaxStreamWindow != 5 {
		t.Errorf("sizes did not arrive: %+v", c)
	}
	if c.SettingsTimeout != 11 || c.IdleTimeout != 12 || c.MaxAge != 13 || c.MaxAgeGrace != 14 ||
		c.WriteTimeout != 15 || c.MinPingInterval != 16 || c.KeepaliveTime != 17 || c.KeepaliveTimeout != 18 {
		t.Errorf("durations did not arrive: %+v", c)
	}
}
