// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package h2

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/manifold-grpc/manifold/internal/h2/frame"
	"github.com/manifold-grpc/manifold/internal/h2/hpack"
)

// FuzzServer has a server's connection read any octets. The first octet says in
// pieces of which size, whether a handshake precedes them, and whether they are
// to be made into frames.
func FuzzServer(f *testing.F) { fuzzOctets(f, "server") }

// FuzzClient is the same for a client's connection with some requests under way.
func FuzzClient(f *testing.F) { fuzzOctets(f, "client") }

// fuzzLimits are low, so that little input reaches them.
const fuzzLimits = " raw runs budget=200000 high-water=5000 buf=20000 streams=10 patience=200 resets=20 control=50 " +
	"header-bytes=4000 header-fields=30 growth=200000 conn-window=100000 keepalive=3s idle=5s age=10s grace=2s"

func fuzzOctets(f *testing.F, role string) {
	for _, s := range transcriptOctets(f, role) {
		f.Add(append([]byte{0}, s...))
	}
	f.Add([]byte("\x21\x01\x05\x01\x01\x82\x00\x00\x01\x04body\x08\x00\x00\x04\x00\x00\x01\x00"))
	f.Fuzz(func(t *testing.T, p []byte) {
		if len(p) == 0 || len(p) > 100_000 {
			return
		}
		synctest.Test(t, func(t *testing.T) { playOctets(t, role, p[0], p[1:]) })
	})
}

// transcriptOctets returns what the peer sends in each transcript of the role.
func transcriptOctets(tb testing.TB, role string) (all [][]byte) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		tb.Fatal("no transcripts: ", err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			tb.Fatal(err)
		}
		_, scenarios := cutScenarios(string(text))
		for _, s := range scenarios {
			if strings.HasPrefix(s, role) {
				all = append(all, scenarioOctets(s, role))
			}
		}
	}
	return all
}

// scenarioOctets returns what the peer sends in a scenario.
func scenarioOctets(text, role string) []byte {
	w := newFrameWriter()
	var out []byte
	head, rest, _ := strings.Cut(text, "\n")
	if !strings.Contains(head, " raw") {
		if role == "server" {
			out = append(out, frame.ClientPreface...)
		}
		out = append(out, w.frame(parseLine("SETTINGS"))...)
	}
	for l := range strings.Lines(rest) {
		l = strings.TrimPrefix(l, "brief ")
		if l, ok := strings.CutPrefix(l, "> "); ok {
			out = append(out, w.line(strings.TrimSpace(l))...)
		}
	}
	return out
}

// playOctets feeds p to a connection, and checks what must hold whatever comes.
func playOctets(t *testing.T, role string, how byte, p []byte) {
	c := newScenario(t, parseLine(role+fuzzLimits))
	c.owner.app = &echo{began: map[*Stream]bool{}}
	if role == "client" {
		c.do("3* open request; open end request x=*300")
	}
	if how&1 != 0 {
		c.shakeHands(role == "client")
	}
	c.deaf = how&2 != 0
	if how&0x20 != 0 {
		p = asFrames(p)
	}
	size := max(1, len(p)>>(how>>2&7))
	for len(p) > 0 {
		n := min(size, len(p))
		c.write(p[:n])
		p = p[n:]
		c.checkStep()
	}
	for range 4 {
		time.Sleep(time.Second)
		c.conn.Tick(time.Now())
	}
	c.deaf = false
	c.checkStep()
	c.finish()
}

// asFrames reads type, flags, stream and length of a frame, an octet each, and its
// payload, for as long as there are any: changes of one leave the others whole.
func asFrames(p []byte) (out []byte) {
	for len(p) > 4 {
		n := min(int(p[3]), len(p)-4)
		out = append(out, rawFrame(frame.Type(p[0]%11), frame.Flags(p[1]), uint32(p[2]%32), p[4:4+n])...)
		p = p[4+n:]
	}
	return out
}

// An echo is an owner that sends back what comes, as a server, and takes
// what comes, as a client. Some streams it lets starve, others it resets.
type echo struct {
	began map[*Stream]bool // a response was begun
}

func (e *echo) headers(s *Stream, b *Batch, h Head) {
	switch {
	case s.Conn().cfg.Client:
	case !e.began[s]:
		e.began[s] = true
		s.SendHeaders(b, own(responseFields), h.EndStream)
	default:
		s.SendHeaders(b, []hpack.Field{{Name: "grpc-status", Value: "0"}}, true)
	}
}

func (e *echo) data(s *Stream, b *Batch, p []byte, end bool) (passed int) {
	if s.ID()%16 == 5 {
		s.Reset(b, frame.Cancel)
	}
	if s.Conn().cfg.Client || s.ID()%8 == 3 {
		return len(p) * int(s.ID()%8) / 7
	}
	passed, err := s.Send(b, p, end)
	if err != nil {
		s.Reset(b, frame.EnhanceYourCalm)
	}
	return passed
}

func (e *echo) credit(s *Stream, b *Batch, n int) { s.Consumed(b, n) }

// checkStep waits for the connection to rest, and checks it from both sides.
func (c *scenario) checkStep() {
	c.t.Helper()
	for _, l := range c.settle() {
		if strings.Contains(l, "ILLEGAL") {
			c.t.Error(l)
		}
	}
	c.checkInvariants()
}

// checkInvariants checks what must hold between any two calls.
func (c *scenario) checkInvariants() {
	c.t.Helper()
	conn := c.conn
	conn.mu.Lock()
	defer conn.mu.Unlock()
	if conn.streams.len() != conn.active {
		c.t.Errorf("%d streams in the table, %d active", conn.streams.len(), conn.active)
	}
	queued, growth := 0, int64(0)
	for s := range conn.streams.all() {
		id := s.id
		queued += s.queue.n
		growth += int64(s.recv.Size() - conn.cfg.StreamWindow)
		c.checkStream(id, s)
	}
	if n := c.budget.Used(); n != int64(queued) {
		c.t.Errorf("%d octets are queued, %d taken from the budget", queued, n)
	}
	if !conn.cfg.Client {
		growth += int64(queued)
	}
	if n := conn.growth.Used(); n != growth {
		c.t.Errorf("windows grew, and octets wait, by %d in all, %d taken from the budget", growth, n)
	}
	if conn.send.Available() > frame.MaxWindow {
		c.t.Errorf("the connection may send %d octets", conn.send.Available())
	}
	if conn.writing || conn.closed {
		return
	}
	if len(conn.out) > 0 && !conn.late.armed {
		c.t.Errorf("%d octets wait for nobody to write them", len(conn.out))
	}
	if s := conn.ready.first; s != nil && conn.send.Available() > 0 && !conn.holdsBack(&conn.send, s.queue.n) {
		c.t.Errorf("stream %d waits for a turn that nobody gives", s.id)
	}
}

// checkStream checks a stream in the table. conn.mu is held.
func (c *scenario) checkStream(id uint32, s *Stream) {
	c.t.Helper()
	switch {
	case s.id != id || s.removed || s.recvEnded && s.sendEnded:
		c.t.Errorf("stream %d has no place in the table: %+v", id, s)
	case s.recv.Unread() > s.recv.Size() || s.recv.Size() > c.conn.cfg.MaxStreamWindow:
		c.t.Errorf("stream %d has %d octets unread in a window of %d", id, s.recv.Unread(), s.recv.Size())
	case s.send.Available() > frame.MaxWindow:
		c.t.Errorf("stream %d may send %d octets", id, s.send.Available())
	case s.queue.n > 0 && s.send.Available() > 0 && !s.isReady && !c.conn.slivers.held:
		c.t.Errorf("stream %d has octets and window, and no turn", id)
	}
}
