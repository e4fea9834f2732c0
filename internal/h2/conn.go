// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package h2

import (
	"crypto/tls"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/manifold-grpc/manifold/internal/h2/flow"
	"github.com/manifold-grpc/manifold/internal/h2/frame"
	"github.com/manifold-grpc/manifold/internal/h2/hpack"
)

// A Conn is one end of an HTTP/2 connection. Make it with [New] and run it with
// [Conn.Serve]. Methods are safe for concurrent use unless they say otherwise.
type Conn struct {
	// Immutable.
	cfg    *Config // with defaults; shared
	events Events
	runs   RunEvents // the same; nil: they are told frame by frame
	start  time.Time
	quiet  atomic.Int64 // of time since start: until then a Tick has nothing to do
	t      transport
	number uint64        // of its own
	growth *flow.Budget  // of windows beyond their initial size
	age    time.Duration // from which on it drains; MaxAge give or take a tenth

	// Owned by the read loop.
	in          reader
	dec         *hpack.Decoder
	fields      *[maxPooledFields]hpack.Field // of header blocks that are not known, while there is input
	block       *headerBlock                  // nil: none is on its way
	batch       Batch
	toTell      []*Stream // see tellReleased
	spare       *Stream   // of NewStream, for a stream that was not opened after all
	now         time.Time // when the turn of the input at hand began
	more        bool      // a turn ended with input left
	ahead       int       // length of the current frame, and of those that were dealt with together with it
	work        int       // of the turn by now, see maxTurn
	taken       int       // frames in the read buffer that were dealt with before their turn
	vain        int       // runs in a row that looked past other streams' frames in vain
	joined      *Joined   // nil while there is no input
	abuse       abuse
	pace        pace
	shared      sharing
	gotSettings bool
	acked       bool // the peer knows our SETTINGS

	lastRead atomic.Int64   // Unix nanoseconds of the last input
	partial  atomic.Int64   // since when a header block or a frame's first octets are incomplete; 0: none is
	writers  sync.WaitGroup // who writes; nobody starts once broken is set

	mu sync.Mutex
	// Guarded by mu: the table of streams.
	streams   streamTable
	active    int
	released  []*Stream // removed, and the owner was not told
	lastPeer  uint32    // the highest identifier of the peer's streams
	nextID    uint32    // of our own next stream
	resets    *idRing   // those that we reset last; nil: none
	gone      bool      // takes no new streams: GOAWAY received, or closed
	opening   bool      // a malformed request of the peer is about to be reset: a drain must not end
	closed    bool      // nothing is appended any more
	err       error     // first reason for the end
	notify    bool      // tell Events.Free
	emptied   time.Time // when the last stream went
	drain     drainState
	rtt       rtt
	keepalive keepalive

	// Guarded by mu: the write side.
	out      []byte        // frames to write
	outBuf   *outBuffer    // what out lies in; nil with out
	appended int64         // octets ever put into out
	flushed  int64         // octets ever accepted by the socket
	writing  bool          // somebody writes; counted in writers
	broken   bool          // the socket takes nothing any more
	served   bool          // Serve is about to return
	ended    chan struct{} // closed then; nil until somebody asks for it
	blocked  time.Time     // since when it takes no octet while some wait; zero: it does
	dirty    bool
	late     lateAnswer
	feeder   uint64 // the number of the connection whose input was passed on to this one last
	feeders  int    // above 0: several connections take turns at that
	control  int    // frames in out that answer the peer
	dataSent int    // DATA and HEADERS frames since abuse last looked, long ones for several
	enc      *hpack.Encoder
	ready    readyList
	slivers  sliverCount
	crossed  int // client: frames of the peer that may still cross resets of ours
	send     flow.SendWindow
	recv     flow.RecvWindow // granted on receipt
	peer     peerSettings
}

// peerSettings are what the peer asked for in SETTINGS.
type peerSettings struct {
	ready      bool // the first SETTINGS frame came
	seen       bool // and had MAX_CONCURRENT_STREAMS
	maxStreams uint32
	window     uint32
	maxFrame   int
}

// conns counts all connections.
var conns atomic.Uint64

// New returns a connection over nc, which it owns from now on. events gets what
// happens once [Conn.Serve] runs.
func New(nc net.Conn, cfg Config, events Events) *Conn { return cfg.Share().New(nc, events) }

// New is the function New with the limits of s.
func (s *Shared) New(nc net.Conn, events Events) *Conn {
	c := &Conn{
		cfg:    &s.cfg,
		events: events,
		start:  time.Now(),
		number: conns.Add(1),
		nextID: 1,
		enc:    hpack.NewEncoder(),
		peer: peerSettings{
			maxStreams: 100, // until SETTINGS tell, as RFC 9113 section 6.5.2 lets us guess
			window:     frame.InitialWindow,
			maxFrame:   frame.MinMaxFrameSize,
		},
		send: flow.NewSendWindow(frame.InitialWindow),
	}
	c.runs, _ = events.(RunEvents)
	c.age = c.cfg.MaxAge - c.cfg.MaxAge/10 + rand.N(c.cfg.MaxAge/5+1)
	c.batch.of = c.number
	c.t.init(nc, c.cfg.ShareReader)
	c.in.t = &c.t
	c.dec = hpack.NewDecoder(max(c.cfg.HeaderTableSize, defaultTable)) // until the peer knows better
	c.dec.SetLimits(c.cfg.MaxHeaderBytes, c.cfg.MaxHeaderFields)
	c.abuse.init(c.cfg, c.start)
	c.lastRead.Store(c.start.UnixNano())
	c.emptied, c.now = c.start, c.start
	c.recv.Init(c.cfg.ConnWindow, c.cfg.ConnWindow, nil, nil)
	c.growth = flow.NewBudget(c.cfg.MaxGrowth)
	c.greet()
	return c
}

// greet puts the connection preface (RFC 9113 section 3.4) into the write buffer.
func (c *Conn) greet() {
	out := c.buffer()
	if c.cfg.Client {
		out = append(out, frame.ClientPreface...)
	}
	out = frame.AppendSettings(out, c.cfg.settings()...)
	if more := c.cfg.ConnWindow - frame.InitialWindow; more > 0 {
		out = frame.AppendWindowUpdate(out, 0, more)
	}
	c.put(out)
}

// NetConn returns the underlying connection, for its addresses.
func (c *Conn) NetConn() net.Conn { return c.t.nc }

// Growth returns the budget for what the streams of this connection are granted beyond their
// initial windows (see [Config.MaxGrowth]), for [Stream.Growth] of streams that belong to the same peer's doing.
func (c *Conn) Growth() *flow.Budget { return c.growth }

// TLS returns the state of the TLS connection, or nil without TLS.
func (c *Conn) TLS() *tls.ConnectionState {
	if t, ok := c.t.nc.(interface{ ConnectionState() tls.ConnectionState }); ok {
		st := t.ConnectionState()
		return &st
	}
	return nil
}

// Load returns the number of open streams and how many more [Conn.Open] takes now.
func (c *Conn) Load() (active, room int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.active, c.openable()
}

// openable returns how many streams may be opened. mu is held.
func (c *Conn) openable() int {
	if c.gone || c.closed || c.nextID > maxStreamID {
		return 0
	}
	return max(0, int(min(c.peer.maxStreams, 1<<30))-c.active)
}

// Backlog returns how many octets wait to be written to the network, those in streams' queues aside.
func (c *Conn) Backlog() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.out)
}

// NotifyFree asks for one [Events.Free]: when b is flushed if a stream can be opened
// by now, else when one is removed or the peer allows more.
func (c *Conn) NotifyFree(b *Batch) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.openable() > 0 {
		b.free = append(b.free, c)
		return
	}
	c.notify = true
}

// Preread hands over octets of the peer that were read before. Call it before Serve.
func (c *Conn) Preread(p []byte) {
	c.in.attach()
	c.in.w = copy(c.in.data, p)
}

// Retired reports whether the connection takes no new streams any more.
func (c *Conn) Retired() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.gone || c.closed || c.nextID > maxStreamID
}

// Close ends the connection at once. Its streams get their End from Serve.
func (c *Conn) Close() { c.kill(ErrClosed) }

// kill ends the connection from outside of the read loop.
func (c *Conn) kill(err error) {
	c.mu.Lock()
	if c.err == nil {
		c.err = err
	}
	c.gone = true
	c.mu.Unlock()
	c.t.nc.Close() //nolint:errcheck // nobody to tell; the read loop ends by it
}

// Done is closed when Serve has told everything and returns.
func (c *Conn) Done() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended == nil {
		c.ended = make(chan struct{})
		if c.served {
			close(c.ended)
		}
	}
	return c.ended
}
