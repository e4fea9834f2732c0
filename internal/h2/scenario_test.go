// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package h2

import (
	"fmt"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/manifold-grpc/manifold/internal/h2/flow"
	"github.com/manifold-grpc/manifold/internal/memnet"
)

// A scenario is one connection under test, its owner, and its peer, who reads
// and writes raw frames. It runs inside of a synctest bubble.
type scenario struct {
	t      testing.TB
	conn   *Conn
	end    *spyConn     // the connection's end of the network
	peer   *memnet.Conn // the other one
	owner  *owner
	sent   pattern // what the owner sent
	budget *flow.Budget
	writer *frameWriter
	reader *frameReader

	deaf   bool // the peer reads nothing
	stays  bool // the peer does not close when it reads the end
	gotEnd bool
	served atomic.Bool
	err    error // of Serve
	told   bool  // that Serve returned
}

// newScenario starts a connection as the words of a "server" or "client"
// line say, and shakes hands unless one of them is "raw".
func newScenario(t testing.TB, head *line) *scenario {
	c := &scenario{t: t, sent: pattern{}, owner: newOwner(), writer: newFrameWriter()}
	cfg := Config{Client: head.next() == "client"}
	c.reader = newFrameReader(cfg.Client)
	x := c.options(&cfg, head)
	c.budget = cfg.Budget
	var a *memnet.Conn
	a, c.peer = memnet.Pipe(x.buffer)
	c.end = &spyConn{Conn: a, accepts: x.accepts}
	var nc net.Conn = c.end
	if x.blocking {
		nc = onlyConn{c.end}
	}
	var events Events = c.owner
	if x.runs {
		events = runOwner{c.owner}
	}
	c.conn = New(nc, cfg, events)
	c.conn.nextID = x.nextID
	go c.serve()            // ends with the connection; finish closes it
	t.Cleanup(c.conn.Close) // where the test fails before that
	if !x.raw {
		c.shakeHands(cfg.Client)
	}
	return c
}

// network is the options of a scenario that are neither the owner's nor Config's.
type network struct {
	raw, blocking   bool
	runs            bool // the owner takes runs
	buffer, accepts int
	nextID          uint32
}

// options reads what follows "server" or "client".
func (c *scenario) options(cfg *Config, l *line) network {
	x := network{nextID: 1}
	flags := map[string]*bool{
		"raw": &x.raw, "blocking": &x.blocking, "runs": &x.runs, "stays": &c.stays, "hold": &c.owner.hold, "refuse": &c.owner.refuse,
	}
	numbers := configNumbers(cfg)
	numbers["buf"] = func(n uint64) { x.buffer = int(n) }
	numbers["accepts"] = func(n uint64) { x.accepts = int(n) }
	numbers["next-id"] = func(n uint64) { x.nextID = uint32(n) }
	times := configTimes(cfg)
	for len(l.words) > 0 {
		name, value, _ := strings.Cut(l.next(), "=")
		if flag := flags[name]; flag != nil {
			*flag = true
		} else if set := numbers[name]; set != nil {
			set(number(value))
		} else if d := times[name]; d != nil {
			*d = duration(value)
		} else {
			panic(fmt.Sprintf("do not know option %q", name))
		}
	}
	if cfg.Budget == nil {
		cfg.Budget = flow.NewBudget(64 << 20)
	}
	return x
}

// configNumbers sets the fields of Config that are numbers.
func configNumbers(cfg *Config) map[string]func(uint64) {
	return map[string]func(uint64){
		"streams":       func(n uint64) { cfg.MaxConcurrentStreams = uint32(n) },
		"header-bytes":  func(n uint64) { cfg.MaxHeaderBytes = uint32(n) },
		"header-fields": func(n uint64) { cfg.MaxHeaderFields = int(n) },
		"table":         func(n uint64) { cfg.HeaderTableSize = uint32(n) },
		"window":        func(n uint64) { cfg.StreamWindow = uint32(n) },
		"max-window":    func(n uint64) { cfg.MaxStreamWindow = uint32(n) },
		"growth":        func(n uint64) { cfg.MaxGrowth = int64(n) },
		"conn-window":   func(n uint64) { cfg.ConnWindow = uint32(n) },
		"high-water":    func(n uint64) { cfg.HighWater = int(n) },
		"control":       func(n uint64) { cfg.MaxControlFrames = int(n) },
		"resets":        func(n uint64) { cfg.MaxResets = int(n) },
		"patience":      func(n uint64) { cfg.Patience = int(n) },
		"budget":        func(n uint64) { cfg.Budget = flow.NewBudget(int64(n)) },
	}
}

// configTimes are the fields of Config that are times.
func configTimes(cfg *Config) map[string]*time.Duration {
	return map[string]*time.Duration{
		"reset-period": &cfg.ResetPeriod, "ping-interval": &cfg.MinPingInterval,
		"settings-timeout": &cfg.SettingsTimeout, "idle": &cfg.IdleTimeout,
		"age": &cfg.MaxAge, "grace": &cfg.MaxAgeGrace, "write-timeout": &cfg.WriteTimeout,
		"keepalive": &cfg.KeepaliveTime, "keepalive-timeout": &cfg.KeepaliveTimeout, "keepalive-rest": &cfg.KeepaliveRest,
	}
}

func duration(s string) time.Duration {
	d, err := time.ParseDuration(s)
	if err != nil {
		panic(err)
	}
	return d
}

func (c *scenario) serve() {
	c.err = c.conn.Serve()
	c.served.Store(true)
}

// shakeHands exchanges prefaces and settings, and forgets that it did.
func (c *scenario) shakeHands(client bool) {
	preface := "PREFACE; SETTINGS; SETTINGS ack"
	if client {
		preface = "SETTINGS; SETTINGS ack"
	}
	c.send(preface)
	for _, l := range c.settle() {
		if strings.Contains(l, "ILLEGAL") {
			c.t.Error(l)
		}
	}
}

// send writes frames as the peer, all with one write.
func (c *scenario) send(text string) {
	c.write(c.writer.line(text))
}

// write writes octets as the peer.
func (c *scenario) write(p []byte) {
	c.reader.sent(p)
	// The connection may end in the midst of them.
	c.peer.SetWriteDeadline(time.Now().Add(time.Hour)) //nolint:errcheck // never fails here
	c.peer.Write(p)                                    //nolint:errcheck // shows in what comes of it
}

// do carries out commands of the owner, all in one batch.
func (c *scenario) do(text string) {
	var b Batch
	n, text := repeat(text)
	for range n {
		for _, cmd := range split(text, ';') {
			c.owner.do(c.conn, &b, c.sent, parseLine(cmd))
		}
	}
	b.Flush()
}

// settle waits until nothing moves any more, and returns what happened since
// the last call: events, and frames that the peer read.
func (c *scenario) settle() (shown []string) {
	for {
		synctest.Wait()
		n := len(shown)
		for _, e := range c.owner.take() {
			shown = append(shown, "* "+e)
		}
		shown = append(shown, c.read(1<<30)...)
		if c.served.Load() && !c.told {
			c.told = true
			shown = append(shown, "* closed: "+why(c.err))
		}
		if len(shown) == n {
			return shown
		}
	}
}

// read has the peer read at most limit octets of what is there, and close its
// end at the end.
func (c *scenario) read(limit int) (shown []string) {
	for !c.deaf || limit < 1<<30 {
		n := min(c.end.Buffered(), limit)
		if n == 0 {
			break
		}
		p := make([]byte, n)
		if _, err := io.ReadFull(c.peer, p); err != nil {
			break
		}
		limit -= n
		for _, f := range c.reader.feed(p) {
			shown = append(shown, "< "+f)
		}
		synctest.Wait()
	}
	if c.end.ended.Load() && !c.gotEnd && !c.deaf && c.end.Buffered() == 0 {
		c.gotEnd = true
		shown = append(shown, "< EOF")
		if !c.stays {
			c.peer.Close() //nolint:errcheck // once
		}
	}
	return shown
}

// elapse lets time pass, with a Tick each second.
func (c *scenario) elapse(d time.Duration) (shown []string) {
	start := time.Now()
	for time.Since(start) < d {
		time.Sleep(min(time.Second, d-time.Since(start)))
		if !c.served.Load() {
			c.conn.Tick(time.Now())
		}
		for _, s := range c.settle() {
			shown = append(shown, fmt.Sprintf("+%v %s", time.Since(start), s))
		}
	}
	return shown
}

// finish ends the connection and checks that nothing is left of it.
func (c *scenario) finish() {
	c.peer.Close() //nolint:errcheck // perhaps for the second time
	synctest.Wait()
	time.Sleep(lingerTime)
	synctest.Wait()
	if !c.served.Load() {
		c.t.Fatal("Serve did not return when the peer closed the connection")
	}
	if n := c.budget.Used(); n != 0 {
		c.t.Errorf("%d octets of the budget were not given back", n)
	}
	if n := c.conn.growth.Used(); n != 0 {
		c.t.Errorf("%d octets of window growth were not given back", n)
	}
	if n, m := c.conn.streams.len(), c.conn.active; n+m != 0 {
		c.t.Errorf("%d streams in the table and %d active after the end", n, m)
	}
}

// A spyConn is a network connection that knows that its end was closed, and
// that accepts few octets at a time.
type spyConn struct {
	*memnet.Conn
	accepts int // what one TryWrite takes; 0: all
	ended   atomic.Bool
	gate    chan struct{} // TryWrite waits for one, unless nil
}

func (s *spyConn) TryWrite(p []byte) (int, error) {
	if s.gate != nil {
		<-s.gate
	}
	if s.accepts > 0 {
		p = p[:min(len(p), s.accepts)]
	}
	return s.Conn.TryWrite(p)
}

func (s *spyConn) CloseWrite() error {
	s.ended.Store(true)
	return s.Conn.CloseWrite()
}

func (s *spyConn) Close() error {
	s.ended.Store(true)
	return s.Conn.Close()
}

func (s *spyConn) WriteSome(p []byte) (int, error) {
	if s.accepts > 0 {
		p = p[:min(len(p), s.accepts)]
	}
	return s.Conn.WriteSome(p)
}

// onlyConn is a network connection that can only write blocking.
type onlyConn struct{ net.Conn }
