// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"time"

	"golang.org/x/net/http2/hpack"

	"github.com/manifold-grpc/manifold/internal/h2/frame"
)

// The windows that either end grants: wide enough that a proxy is what limits, in the
// range that gRPC's own implementations use.
const (
	streamWindow = 1 << 20
	connWindow   = 8 << 20
)

// DefaultJoin is how many octets a connection gathers before it writes although it
// has more to do. Between a client and a server of grpc-go, with 100 calls at once on one
// connection, writes of either were of 1150 to 1300 octets, 12 calls. More would flatter
// what only copies octets: its cost is one of writes, not of calls.
const DefaultJoin = 1200

// mostJoined bounds what is gathered while one stream alone has much to send. It is
// the size of grpc-go's write buffer.
const mostJoined = 32 << 10

// A read may bring firstBuffer octets at first, so that ten thousand connections cost
// the ends little, and up to readBuffer where reads fill what there is.
const (
	firstBuffer = 4 << 10
	readBuffer  = 64 << 10
)

// base is what Now counts from.
var base = time.Now()

// Side is what a connection belongs to: client or server. Its methods are called
// from Serve's goroutine, and an error of theirs ends the connection.
type Side interface {
	// Block tells of a header block. On a server the first one of a stream opens it.
	Block(s *Stream, b *Block, end bool) error
	// Message tells of a message that arrived whole and undamaged.
	Message(s *Stream, h Head, size int) error
	// End tells that the peer's half is over; it comes after Block or Message.
	End(s *Stream) error
}

// Conn is one end of an HTTP/2 connection. All of its methods but Close are for
// Serve's goroutine or, while Serve does not run, for that of its owner.
type Conn struct {
	nc     net.Conn
	side   Side
	client bool
	output *output
	in     []byte // of which in[r:w] was read and not worked through
	r, w   int
	out    []byte // appended by this goroutine, not yet handed to output
	join   int    // octets in out from which on they are handed over
	now    time.Duration

	streams map[uint32]*Stream
	free    []*Stream
	blocked []*Stream // wait for windows
	spare   []*Stream // the array that blocked used before
	nextID  uint32    // client: of the next stream; server: above all so far

	headers  *blockWriter
	blocks   *blockReader
	fragment []byte // of a header block that CONTINUATION frames continue
	fragOf   frame.Header

	ready      bool   // the peer's SETTINGS are there
	maxStreams uint32 // that the peer allows
	window     int64  // to send on the connection
	initial    int64  // to send on a new stream
	received   int    // octets of DATA that were not granted again
}

// NewClient starts a client's end over nc, which the connection owns from now on.
// It returns when the peer's SETTINGS are there. join is as DefaultJoin.
func NewClient(nc net.Conn, side Side, join int) (*Conn, error) {
	c := newConn(nc, side, join, true)
	c.out = append(c.out, frame.ClientPreface...)
	c.greet()
	if err := c.Serve(func() bool { return c.ready }); err != nil {
		c.Close()
		return nil, fmt.Errorf("waiting for SETTINGS: %w", err)
	}
	return c, nil
}

// NewServer starts a server's end over nc, which the connection owns from now on.
// join is as DefaultJoin.
func NewServer(nc net.Conn, side Side, join int) *Conn {
	c := newConn(nc, side, join, false)
	c.greet()
	return c
}

func newConn(nc net.Conn, side Side, join int, client bool) *Conn {
	return &Conn{
		nc: nc, side: side, client: client, join: join,
		output:     newOutput(nc),
		in:         make([]byte, firstBuffer),
		streams:    map[uint32]*Stream{},
		nextID:     1,
		headers:    newBlockWriter(),
		blocks:     newBlockReader(),
		maxStreams: math.MaxUint32,
		window:     frame.InitialWindow,
		initial:    frame.InitialWindow,
	}
}

// greet sends what comes first.
func (c *Conn) greet() {
	settings := []frame.Setting{{ID: frame.SettingInitialWindowSize, Value: streamWindow}}
	if c.client {
		settings = append(settings, frame.Setting{ID: frame.SettingEnablePush, Value: 0})
	}
	c.out = frame.AppendSettings(c.out, settings...)
	c.out = frame.AppendWindowUpdate(c.out, 0, connWindow-frame.InitialWindow)
}

// Close ends the connection. It may be called from any goroutine.
func (c *Conn) Close() { c.output.close() }

// MaxStreams is the number of streams that the peer allows to be open.
func (c *Conn) MaxStreams() uint32 { return c.maxStreams }

// SetDeadline makes reads and writes fail from then on.
func (c *Conn) SetDeadline(t time.Time) error { return c.nc.SetDeadline(t) }

// Now is when the input at hand arrived, or when Tick was called after that.
func (c *Conn) Now() time.Duration { return c.now }

// Tick takes the time anew, for what begins without input.
func (c *Conn) Tick() { c.now = time.Since(base) }

// Serve reads and handles frames until done, which it asks after each read, or an
// error. It is io.EOF if the peer closed the connection between two frames.
func (c *Conn) Serve(done func() bool) error {
	if !c.client && c.w == 0 && c.nextID == 1 {
		if err := c.preface(); err != nil {
			return err
		}
	}
	for {
		if err := c.flush(); err != nil {
			return err
		}
		if done() {
			return nil
		}
		n, err := c.nc.Read(c.in[c.w:])
		if n == 0 && err != nil {
			if c.w > c.r && errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return err
		}
		full := c.w+n == len(c.in)
		c.w += n
		c.Tick()
		if err := c.work(); err != nil {
			return err
		}
		if full {
			c.grow()
		}
	}
}

// grow makes room for more in one read.
func (c *Conn) grow() {
	if len(c.in) < readBuffer {
		c.in = append(make([]byte, 0, 4*len(c.in)), c.in...)
		c.in = c.in[:cap(c.in)]
	}
}

func (c *Conn) preface() error {
	if _, err := io.ReadFull(c.nc, c.in[:len(frame.ClientPreface)]); err != nil {
		return err
	}
	if got := string(c.in[:len(frame.ClientPreface)]); got != frame.ClientPreface {
		return fmt.Errorf("connection starts with %q, expected HTTP/2's preface", got)
	}
	return nil
}

// FlushJoined hands over what was gathered if it is enough for a write. Serve does
// so after each frame, and flushes all before it waits.
func (c *Conn) FlushJoined() error {
	if len(c.out) < c.join {
		return nil
	}
	return c.flush()
}

func (c *Conn) flush() error {
	err := c.output.write(c.out)
	c.out = c.out[:0]
	return err
}

// work handles the frames that are there whole, and moves the rest to the front.
func (c *Conn) work() error {
	for c.w-c.r >= frame.HeaderLen {
		h := frame.ParseHeader(c.in[c.r:])
		if err := h.Check(frame.MinMaxFrameSize); err != nil {
			return err
		}
		size := frame.HeaderLen + int(h.Length)
		if c.w-c.r < size {
			break
		}
		payload := c.in[c.r+frame.HeaderLen : c.r+size]
		c.r += size
		if err := c.frame(h, payload); err != nil {
			return fmt.Errorf("%v frame on stream %d: %w", h.Type, h.StreamID, err)
		}
		if err := c.FlushJoined(); err != nil {
			return err
		}
	}
	if c.r > 0 {
		c.w = copy(c.in, c.in[c.r:c.w])
		c.r = 0
	}
	return nil
}

func (c *Conn) frame(h frame.Header, p []byte) error {
	if (c.fragment != nil) != (h.Type == frame.TypeContinuation) {
		return errors.New("header block and CONTINUATION do not follow each other")
	}
	switch h.Type {
	case frame.TypeData:
		return c.data(h, p)
	case frame.TypeHeaders:
		return c.headersFrame(h, p)
	case frame.TypeContinuation:
		c.fragment = append(c.fragment, p...)
		return c.continued(h)
	case frame.TypeSettings:
		return c.settings(h, p)
	case frame.TypeWindowUpdate:
		return c.windowUpdate(h, int64(frame.WindowUpdate(p)))
	case frame.TypePing:
		if !h.Flags.Has(frame.FlagAck) {
			c.out = frame.AppendPing(c.out, true, frame.Ping(p))
		}
	case frame.TypeRSTStream:
		// Once both halves are over it harms nothing: a server may say so that
		// it needs no more of a request (RFC 9113 section 8.1).
		if s := c.streams[h.StreamID]; s != nil && c.client && !(s.rxEnded && frame.RST(p) == frame.NoError) {
			return fmt.Errorf("stream was reset with %v", frame.RST(p))
		} else if s != nil {
			c.abandon(s)
		}
	case frame.TypeGoAway:
		if last, code, debug := frame.GoAway(p); c.client {
			return fmt.Errorf("peer goes away: last stream %d, %v, %q", last, code, debug)
		}
	}
	return nil
}

func (c *Conn) settings(h frame.Header, p []byte) error {
	if h.Flags.Has(frame.FlagAck) {
		return nil
	}
	for s := range frame.Settings(p) {
		if err := s.Check(); err != nil {
			return err
		}
		switch s.ID {
		case frame.SettingHeaderTableSize:
			c.headers.setTableSize(s.Value)
		case frame.SettingMaxConcurrentStreams:
			c.maxStreams = s.Value
		case frame.SettingInitialWindowSize:
			for _, stream := range c.streams {
				stream.window += int64(s.Value) - c.initial
			}
			c.initial = int64(s.Value)
		}
	}
	c.ready = true
	c.out = frame.AppendSettingsAck(c.out)
	c.unblock()
	return nil
}

func (c *Conn) windowUpdate(h frame.Header, n int64) error {
	if h.StreamID == 0 {
		c.window += n
		c.unblock()
		return nil
	}
	if s := c.streams[h.StreamID]; s != nil {
		s.window += n
		if s.blocked {
			c.unblock()
		}
	}
	return nil
}

func (c *Conn) headersFrame(h frame.Header, p []byte) error {
	fragment, _, _, err := frame.HeadersFragment(h, p)
	if err != nil {
		return err
	}
	c.fragOf = h
	if !h.Flags.Has(frame.FlagEndHeaders) {
		c.fragment = append([]byte{}, fragment...)
		return nil
	}
	return c.block(fragment)
}

func (c *Conn) continued(h frame.Header) error {
	if h.StreamID != c.fragOf.StreamID {
		return fmt.Errorf("CONTINUATION of stream %d", c.fragOf.StreamID)
	}
	if !h.Flags.Has(frame.FlagEndHeaders) {
		return nil
	}
	block := c.fragment
	c.fragment = nil
	return c.block(block)
}

// block handles a whole header block, of the stream of c.fragOf.
func (c *Conn) block(p []byte) error {
	b, err := c.blocks.decode(p)
	if err != nil {
		return err
	}
	s := c.streams[c.fragOf.StreamID]
	if s == nil {
		if c.client || c.fragOf.StreamID < c.nextID {
			return errors.New("no such stream")
		}
		s = c.newStream(c.fragOf.StreamID)
		c.nextID = s.id + 2
	}
	s.blocks++
	end := c.fragOf.Flags.Has(frame.FlagEndStream)
	if err := c.side.Block(s, b, end); err != nil {
		return err
	}
	if end {
		return c.ended(s)
	}
	return nil
}

// writeBlock appends a header block of s.
func (c *Conn) writeBlock(s *Stream, t *Template, extra hpack.HeaderField, end bool) {
	block := c.headers.encode(t, extra)
	flags := frame.FlagEndHeaders
	if end {
		flags |= frame.FlagEndStream
	}
	c.out = frame.AppendHeader(c.out, len(block), frame.TypeHeaders, flags, s.id)
	c.out = append(c.out, block...)
}

func (c *Conn) data(h frame.Header, p []byte) error {
	// frame.Check has seen to it that no padding is longer than the frame.
	octets, err := frame.Data(h, p)
	if err != nil {
		return err
	}
	if c.received += int(h.Length); c.received >= connWindow/2 {
		c.out = frame.AppendWindowUpdate(c.out, 0, uint32(c.received))
		c.received = 0
	}
	s := c.streams[h.StreamID]
	if s == nil {
		return errors.New("no such stream")
	}
	for len(octets) > 0 {
		rest, complete, err := s.rx.next(octets)
		if err != nil {
			return err
		}
		if complete {
			if err := c.side.Message(s, s.rx.head(), s.rx.size); err != nil {
				return err
			}
		}
		octets = rest
	}
	if h.Flags.Has(frame.FlagEndStream) {
		return c.ended(s)
	}
	s.credit(int(h.Length))
	return nil
}
