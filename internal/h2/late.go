// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package h2

import "time"

// A lateAnswer is the answer to a PING that waits in the write buffer for the next write, which it costs nothing. gRPC
// libraries send a PING with the answer to each small call, to measure the bandwidth of what they got; answered at once,
// half of a proxy's writes are answers to those. It is guarded by Conn.mu.
type lateAnswer struct {
	sent  int         // octets of DATA since the last PING
	timer *time.Timer // nil: no answer waited yet
	armed bool        // the timer writes what waits, all of which came since it was set
}

const (
	// lateTime bounds how long the answer to a PING waits. It is longer than most of the pauses between calls
	// of which one follows the other, and little next to a timeout by which PINGs watch over connections. It is not less because
	// a timer that is always about to fire makes every wait for the network a short one, which costs more.
	lateTime = 50 * time.Millisecond
	// lateLen is how much DATA makes the measurement count: where that much went out since the last PING, the answer goes
	// at once. grpc-go, from whose windows of 65,535 octets this comes, widens them only on samples of two thirds or more.
	lateLen = 16 << 10
)

// mayWait reports whether the answer to the PING at hand may wait, and has it written in time. A PING that follows no DATA
// asks whether the connection lives, or how long its way is: it is answered at once. mu is held.
func (c *Conn) mayWait() bool {
	sent := c.late.sent
	c.late.sent = 0
	if sent == 0 || sent >= lateLen || c.drain.started || c.broken {
		return false
	}
	if c.dirty || c.writing || c.late.armed {
		return true // it is written anyhow
	}
	c.late.armed = true
	// Where calls follow each other it is set anew before it fires: that is cheaper than to have it find nothing to do.
	if c.late.timer == nil {
		c.late.timer = time.AfterFunc(lateTime, c.flushLate) // stopped by Serve
	} else {
		c.late.timer.Reset(lateTime)
	}
	return true
}

// flushLate writes what waits.
func (c *Conn) flushLate() {
	c.mu.Lock()
	c.late.armed = false
	if c.broken || c.writing || len(c.out) == 0 { // nothing is left to do, and linger may wait for writers already
		c.mu.Unlock()
		return
	}
	c.writers.Add(1) // until what it tells is told
	c.mu.Unlock()
	defer c.writers.Done()
	var b Batch
	c.flush(&b)
	b.Flush()
}

// stop ends the wait: nothing is written any more. mu is held.
func (l *lateAnswer) stop() {
	if l.timer != nil {
		l.timer.Stop()
	}
}
