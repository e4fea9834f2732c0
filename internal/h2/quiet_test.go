// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package h2

import (
	"testing"
	"time"
)

// A connection of which nothing is due is left alone by Tick until the first of its limits may be reached,
// or until something begins that cannot wait so long.
func TestQuiet(t *testing.T) {
	const limit = 10 * time.Second // SettingsTimeout, the shortest by default
	quiet := func(cfg Config, now time.Duration, change func(c *Conn)) time.Duration {
		c := New(&nowhere{}, cfg, newOwner())
		c.peer.ready = true
		if change != nil {
			change(c)
		}
		c.Tick(c.start.Add(now))
		return time.Duration(c.quiet.Load())
	}
	for _, tt := range []struct {
		name   string
		cfg    Config
		now    time.Duration
		change func(c *Conn)
		want   time.Duration
	}{
		{"nothing is due", Config{}, time.Second, nil, time.Second + limit},
		{"an upstream's", Config{Client: true}, time.Second, nil, 0},
		{"no SETTINGS", Config{}, time.Second, func(c *Conn) { c.peer.ready = false }, 0},
		{"idle", Config{IdleTimeout: 5 * time.Second}, time.Second, nil, 5 * time.Second},
		{"with a stream", Config{IdleTimeout: 5 * time.Second}, 3 * time.Second, func(c *Conn) { c.active = 1 }, 8 * time.Second},
		{"a PING will be due", Config{KeepaliveTime: 4 * time.Second}, time.Second, nil, 4 * time.Second},
		{"a PING is out", Config{KeepaliveTime: 4 * time.Second}, 5 * time.Second, nil, 0},
		{"half a header block", Config{}, time.Second, func(c *Conn) { c.partial.Store(c.start.UnixNano()) }, 0},
		{"writing is blocked", Config{}, time.Second, func(c *Conn) { c.blocked = c.start }, 0},
		{"drained", Config{}, time.Second, func(c *Conn) { var b Batch; c.Drain(&b) }, 0},
		{"held back", Config{}, time.Second, func(c *Conn) { c.ready.push(new(Stream)); c.send.Take(c.send.Available()) }, 0},
	} {
		got := quiet(tt.cfg, tt.now, tt.change)
		if d := got - tt.want; d < -time.Millisecond || d > time.Millisecond {
			t.Errorf("%s: quiet until %v, want %v", tt.name, got, tt.want)
		}
	}
}

// What cannot wait is stirred.
func TestStirred(t *testing.T) {
	c := New(&nowhere{}, Config{}, newOwner())
	c.peer.ready = true
	c.Tick(c.start.Add(time.Second))
	if c.quiet.Load() == 0 {
		t.Fatal("not quiet")
	}
	var b Batch
	c.Drain(&b)
	b.Flush()
	if c.quiet.Load() != 0 {
		t.Error("a drain waits for a limit that has nothing to do with it")
	}
	c.Tick(c.start.Add(2*time.Second + 2*drainPingTimeout))
	if !c.drain.final {
		t.Error("the drain did not take its second step")
	}
	if raceEnabled {
		return
	}
	if n := testing.AllocsPerRun(100, func() { c.Tick(c.start.Add(5 * time.Second)) }); n > 0 {
		t.Errorf("a look at the clock costs %v allocations, want 0", n)
	}
}
