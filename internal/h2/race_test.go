// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package h2

import (
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// These tests stop a goroutine at one place while others pass. Transcripts
// cannot: they have one thing happen after the other.

// bubble runs f on a connection that "server ..." or "client ..." describes.
func bubble(t *testing.T, head string, f func(c *scenario)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		c := newScenario(t, parseLine(head))
		f(c)
		c.finish()
	})
}

// expect compares what happened since the last call.
func (c *scenario) expect(want ...string) {
	c.t.Helper()
	if got := c.settle(); !slices.Equal(got, want) {
		c.t.Errorf("happened:\n%q\nwant:\n%q", got, want)
	}
}

// begin starts commands of the owner that wait in the socket's write, and
// returns what lets them go on.
func (c *scenario) begin(commands string) (goOn func()) {
	gate := make(chan struct{})
	c.end.gate = gate
	done := make(chan struct{})
	go func() {
		defer close(done)
		c.do(commands)
	}()
	synctest.Wait()
	return func() {
		close(gate)
		<-done
	}
}

// The peer breaks a rule while another goroutine writes: the GOAWAY must still
// leave, after what is being written.
func TestLastWordsBehindAnotherWriter(t *testing.T) {
	t.Parallel()
	bubble(t, "server", func(c *scenario) {
		c.send("HEADERS 1 request")
		c.expect("* headers 1 request")
		goOn := c.begin("headers 1 end response")
		c.send("DATA 0")
		synctest.Wait()
		goOn()
		c.expect("* end 1 INTERNAL_ERROR: connection error PROTOCOL_ERROR data_on_stream_zero",
			"< HEADERS 1 end response",
			`< GOAWAY last=1 PROTOCOL_ERROR "data_on_stream_zero"`, "< EOF",
			"* closed: connection error PROTOCOL_ERROR data_on_stream_zero")
	})
}

// A connection ends while another goroutine is in its write: Serve waits, and
// nothing of the connection runs after it.
func TestServeWaitsForWriters(t *testing.T) {
	t.Parallel()
	for _, head := range []string{"server", "server blocking"} {
		bubble(t, head, func(c *scenario) {
			c.send("HEADERS 1 request")
			c.expect("* headers 1 request")
			goOn := c.begin("headers 1 response")
			c.peer.CloseWrite()
			synctest.Wait()
			if head == "server" && c.served.Load() {
				t.Error("Serve returned while a goroutine was in the write")
			}
			goOn()
			synctest.Wait()
			if !c.served.Load() {
				t.Error("Serve did not return after the write did")
			}
		})
	}
}

// The connection is lost while the write that opens a stream is under way: all of
// it may have reached the peer, so the stream does not count as unprocessed.
func TestLostWhileStreamOpens(t *testing.T) {
	t.Parallel()
	bubble(t, "client", func(c *scenario) {
		goOn := c.begin("open end request")
		c.peer.CloseWrite()
		synctest.Wait()
		goOn()
		c.expect("* end 1 INTERNAL_ERROR: EOF", "< EOF", "* closed: EOF")
	})
}

// A write that has just begun is no stall, however long nothing was written before.
func TestNoStallWithoutWaiting(t *testing.T) {
	t.Parallel()
	bubble(t, "server", func(c *scenario) {
		c.send("HEADERS 1 request")
		c.expect("* headers 1 request")
		time.Sleep(time.Hour)
		goOn := c.begin("headers 1 end response")
		c.conn.Tick(time.Now())
		goOn()
		c.expect("< HEADERS 1 end response")
	})
}

// The last step of a drain comes between a stream's header block and its place
// in the table: GOAWAY leaves the stream out, so nothing of it is told, and the memory that
// the owner gave for it is used for the next.
func TestStreamOpensWhileDrainEnds(t *testing.T) {
	t.Parallel()
	bubble(t, "server", func(c *scenario) {
		c.send("HEADERS 1 request")
		c.expect("* headers 1 request")
		c.do("drain")
		c.expect("< GOAWAY last=2147483647 NO_ERROR", `< PING "drain"`)
		asked := 0
		c.owner.onNewStream = func() {
			asked++
			c.conn.Tick(time.Now().Add(2 * drainPingTimeout))
		}
		c.send("HEADERS 3 end request; HEADERS 5 end request")
		c.expect("< GOAWAY last=1 NO_ERROR")
		if asked != 1 {
			t.Errorf("the owner was asked for the memory of %d streams, want 1", asked)
		}
		c.do("headers 1 end response; reset 1 CANCEL")
		c.expect("< HEADERS 1 end response", "< RST_STREAM 1 CANCEL", "< EOF", "* closed: http2: drained")
	})
}

// The same, and the owner refuses the stream.
func TestRefusedWhileDrainEnds(t *testing.T) {
	t.Parallel()
	bubble(t, "server refuse", func(c *scenario) {
		c.do("drain")
		c.expect("< GOAWAY last=2147483647 NO_ERROR", `< PING "drain"`)
		c.owner.onNewStream = func() { c.conn.Tick(time.Now().Add(2 * drainPingTimeout)) }
		c.send("HEADERS 1 end request")
		c.expect("< GOAWAY last=0 NO_ERROR", "< EOF", "* closed: http2: drained")
	})
}

// The owner ends a stream from another goroutine while the read loop tells of its
// octets: they are the last that it hears of.
func TestResetDuringData(t *testing.T) {
	t.Parallel()
	for _, frames := range []string{"DATA 1 len=16384", "DATA 1 end len=16384", "DATA 1 len=16384; DATA 1 len=5; HEADERS 1 end x=y"} {
		bubble(t, "server", func(c *scenario) {
			c.send("HEADERS 1 request")
			c.expect("* headers 1 request")
			c.owner.onData = func() {
				done := make(chan struct{})
				go func() {
					c.do("reset 1 CANCEL; consumed 1 5")
					close(done)
				}()
				<-done
			}
			c.send(frames)
			first, _, _ := strings.Cut(frames, ";")
			c.expect(strings.Replace("* "+first, "DATA", "data", 1), "< RST_STREAM 1 CANCEL")
		})
	}
}

// Two batches hold one connection: what the second one appended leaves with the
// first, and neither is lost.
func TestTwoBatches(t *testing.T) {
	t.Parallel()
	bubble(t, "server", func(c *scenario) {
		c.send("HEADERS 1 request; HEADERS 3 request")
		c.expect("* headers 1 request", "* headers 3 request")
		var b1, b2 Batch
		do := func(b *Batch, cmd string) { c.owner.do(c.conn, b, c.sent, parseLine(cmd)) }
		do(&b1, "headers 1 response")
		do(&b2, "headers 3 response")
		b2.Flush()
		do(&b2, "send 3 end")
		b1.Flush()
		c.expect("< HEADERS 1 response", "< HEADERS 3 response", "< DATA 3 end")
		do(&b2, "send 1 end")
		b2.Flush()
		c.expect("< DATA 1 end")
	})
}

// The owner is told of streams that the connection has let go of, with the next
// batch, and not of those whose credit may be under way.
func TestReleased(t *testing.T) {
	t.Parallel()
	bubble(t, "server", func(c *scenario) {
		c.send("HEADERS 1 request; RST_STREAM 1 CANCEL; HEADERS 3 request; HEADERS 5 end request; HEADERS 7 request")
		c.settle()
		if got := c.owner.released; !slices.Equal(got, []uint32{1}) {
			t.Errorf("released after the first batch: %v", got)
		}
		c.do("headers 3 response; send 3 len=70000; reset 3 CANCEL; headers 5 end response")
		c.send("DATA 7 end; WINDOW_UPDATE 0 1")
		c.settle()
		if got := c.owner.released; !slices.Equal(got, []uint32{1, 5}) {
			t.Errorf("released after the second: %v, want all that is over but 3, which had octets queued", got)
		}
	})
}
