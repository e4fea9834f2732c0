// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package h2

import (
	"sync"
	"time"
)

// sharing is what a connection knows of being read by the loop that it shares with others, see [Config.ShareReader]. Owned
// by who reads.
type sharing struct {
	until time.Time      // before which it is not asked again
	left  sync.WaitGroup // Serve waits for the loop to give the connection back
	err   error          // why it did; nil: because the connection, or the loop, has much to do
}

// aloneTime is how long a connection that had much to do is read by its own goroutine at least.
const aloneTime = time.Second

// share has the loop read the connection, if it has little to do, and returns when it has ended or has too much to do for that.
// It reports whether the loop had it.
func (c *Conn) share() (shared bool, err error) {
	if c.t.sock == nil || c.in.bulk || c.now.Before(c.shared.until) {
		return false, nil
	}
	c.shared.left.Add(1)
	if !c.watch() {
		c.shared.left.Done()
		return false, nil
	}
	c.shared.left.Wait()
	return true, c.shared.err
}

// watch gives the connection to the loop, unless somebody writes: the socket changes hands with nobody about.
func (c *Conn) watch() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.writing {
		return false
	}
	if !c.t.sock.Watch((*sharedConn)(c)) {
		c.shared.until = c.now.Add(aloneTime)
		return false
	}
	return true
}

// A sharedConn is a connection as the loop sees it: [evloop.Handler].
type sharedConn Conn

// Ready works through the input that there is.
func (s *sharedConn) Ready(now time.Time) (stay bool) {
	c := (*Conn)(s)
	n, err := c.in.tryFill()
	if err != nil {
		c.shared.err = c.endOfInput(err)
		return false
	}
	if n > 0 {
		c.beginTurn(now)
		if ferr := c.parse(); ferr != nil {
			c.shared.err = ferr
			return false
		}
		c.endTurn()
	}
	if c.more || c.in.bulk || c.pace.owed > paceCredit || c.t.sock.Polled() {
		c.shared.until = now.Add(aloneTime)
		return false
	}
	return true
}

// Left has Serve go on.
func (s *sharedConn) Left() { s.shared.left.Done() }
