// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

// Package rawpeer plays one end of an HTTP/2 connection by hand, frame by frame,
// for tests that need what no library sends: broken frames, floods, a backend
// that stops in the middle.
//
// It stands on golang.org/x/net's Framer and HPACK, so that it is a second
// opinion on the engine under test. Nothing is checked on the way out, and
// nothing is answered but what [Peer.Read] says.
package rawpeer

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// DefaultPatience bounds each read of a frame, so that a test fails instead of hanging.
const DefaultPatience = 20 * time.Second

// maxFrame is the largest payload that every peer accepts.
const maxFrame = 16 << 10

// refillAt is half of the initial window.
const refillAt = 32 << 10

// maxWindow is the largest increment of a window.
const maxWindow = 1<<31 - 1

// A Peer is one end of a connection. Any goroutine may write; one at a time may
// read.
type Peer struct {
	net.Conn

	// Patience bounds each read. New sets DefaultPatience.
	Patience time.Duration

	// Mute leaves SETTINGS and PINGs of the other end without an answer. Set it
	// before the first read.
	Mute bool

	// Refill grants DATA its windows again as it is read, by half a window at a time. Set it
	// before the first read.
	Refill bool

	fr   *http2.Framer
	owed map[uint32]uint32 // octets read and not granted again, of each stream and of the connection

	mu    sync.Mutex // of writing: the framer, the encoder and its buffer
	enc   *hpack.Encoder
	block bytes.Buffer
}

// New returns a peer on nc that has said nothing yet.
func New(nc net.Conn) *Peer {
	p := &Peer{Conn: nc, Patience: DefaultPatience, fr: http2.NewFramer(nc, nc), owed: make(map[uint32]uint32)}
	p.fr.AllowIllegalWrites = true
	p.fr.SetMaxReadFrameSize(1 << 20)
	p.fr.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	p.fr.MaxHeaderListSize = 16 << 20
	p.enc = hpack.NewEncoder(&p.block)
	return p
}

// Client returns a peer that has sent a client's preface with the settings.
func Client(nc net.Conn, settings ...http2.Setting) (*Peer, error) {
	p := New(nc)
	if _, err := io.WriteString(nc, http2.ClientPreface); err != nil {
		return nil, err
	}
	return p, p.Settings(settings...)
}

// Greet exchanges prefaces as a server with the settings.
func (p *Peer) Greet(settings ...http2.Setting) error {
	if err := p.ReadPreface(); err != nil {
		return err
	}
	return p.Settings(settings...)
}

// ReadPreface reads what a client sends before its first frame.
func (p *Peer) ReadPreface() error {
	p.Conn.SetReadDeadline(time.Now().Add(p.Patience)) //nolint:errcheck // the read fails, then
	preface := make([]byte, len(http2.ClientPreface))
	if _, err := io.ReadFull(p.Conn, preface); err != nil {
		return err
	}
	if string(preface) != http2.ClientPreface {
		return fmt.Errorf("preface is %q", preface)
	}
	return nil
}

// A Frame is a frame that was read, with the fields that its type has.
type Frame struct {
	Type      http2.FrameType
	Flags     http2.Flags
	StreamID  uint32
	Fields    []hpack.HeaderField // HEADERS, with its CONTINUATIONs
	Payload   []byte              // DATA without padding; PING; the debug data of GOAWAY
	Code      http2.ErrCode       // RST_STREAM, GOAWAY
	Last      uint32              // GOAWAY
	Increment uint32              // WINDOW_UPDATE
	Settings  []http2.Setting
}

// End reports whether the frame has END_STREAM.
func (f Frame) End() bool {
	return (f.Type == http2.FrameHeaders || f.Type == http2.FrameData) && f.Flags.Has(http2.FlagDataEndStream)
}

// Field returns the value of the first field of the name, or "".
func (f Frame) Field(name string) string {
	for _, hf := range f.Fields {
		if hf.Name == name {
			return hf.Value
		}
	}
	return ""
}

// String shows the frame in a line.
func (f Frame) String() string {
	s := fmt.Sprintf("%v stream %d flags %#x", f.Type, f.StreamID, f.Flags)
	switch f.Type {
	case http2.FrameHeaders:
		return fmt.Sprint(s, " ", f.Fields)
	case http2.FrameData:
		return fmt.Sprint(s, " octets ", len(f.Payload))
	case http2.FrameRSTStream:
		return fmt.Sprint(s, " ", f.Code)
	case http2.FrameGoAway:
		return fmt.Sprintf("%s last %d %v %q", s, f.Last, f.Code, f.Payload)
	}
	return s
}

// Read returns the next frame. Unless Mute, it has answered SETTINGS and PINGs by then.
func (p *Peer) Read() (Frame, error) {
	p.Conn.SetReadDeadline(time.Now().Add(p.Patience)) //nolint:errcheck // the read fails, then
	raw, err := p.fr.ReadFrame()
	if err != nil {
		return Frame{}, err
	}
	h := raw.Header()
	f := Frame{Type: h.Type, Flags: h.Flags, StreamID: h.StreamID}
	switch raw := raw.(type) {
	case *http2.MetaHeadersFrame:
		f.Fields = raw.Fields
	case *http2.DataFrame:
		f.Payload = bytes.Clone(raw.Data())
		err = p.refill(h)
	case *http2.RSTStreamFrame:
		f.Code = raw.ErrCode
	case *http2.GoAwayFrame:
		f.Code, f.Last, f.Payload = raw.ErrCode, raw.LastStreamID, bytes.Clone(raw.DebugData())
	case *http2.WindowUpdateFrame:
		f.Increment = raw.Increment
	case *http2.PingFrame:
		f.Payload = bytes.Clone(raw.Data[:])
		if !raw.IsAck() && !p.Mute {
			err = p.Ping(true, raw.Data)
		}
	case *http2.SettingsFrame:
		for i := range raw.NumSettings() {
			f.Settings = append(f.Settings, raw.Setting(i))
		}
		if !raw.IsAck() && !p.Mute {
			err = p.write(p.fr.WriteSettingsAck)
		}
	}
	return f, err
}

func (p *Peer) refill(h http2.FrameHeader) error {
	if !p.Refill {
		return nil
	}
	for _, id := range [...]uint32{0, h.StreamID} {
		p.owed[id] += h.Length
		if n := p.owed[id]; n >= refillAt {
			p.owed[id] = 0
			if err := p.Window(id, n); err != nil {
				return err
			}
		}
	}
	if h.Flags.Has(http2.FlagDataEndStream) {
		delete(p.owed, h.StreamID)
	}
	return nil
}

// Until reads up to the first frame that ok accepts. The error says what came instead.
func (p *Peer) Until(ok func(Frame) bool) (Frame, error) {
	var last Frame
	for n := 0; ; n++ {
		f, err := p.Read()
		if err != nil {
			return f, fmt.Errorf("%d frames came, the last %v, then: %w", n, last, err)
		}
		if ok(f) {
			return f, nil
		}
		last = f
	}
}

// Is accepts the frames of a type, on a stream.
func Is(t http2.FrameType, id uint32) func(Frame) bool {
	return func(f Frame) bool { return f.Type == t && f.StreamID == id }
}

func (p *Peer) write(f func() error) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return f()
}

// Settings sends a SETTINGS frame.
func (p *Peer) Settings(s ...http2.Setting) error {
	return p.write(func() error { return p.fr.WriteSettings(s...) })
}

// Ping sends a PING, or the answer to one.
func (p *Peer) Ping(ack bool, data [8]byte) error {
	return p.write(func() error { return p.fr.WritePing(ack, data) })
}

// Headers sends a header block of the name and value pairs, in as many frames as it takes.
func (p *Peer) Headers(id uint32, end bool, pairs ...string) error {
	return p.write(func() error {
		block := p.encode(pairs)
		first := block[:min(len(block), maxFrame)]
		block = block[len(first):]
		err := p.fr.WriteHeaders(http2.HeadersFrameParam{
			StreamID: id, BlockFragment: first, EndStream: end, EndHeaders: len(block) == 0,
		})
		for err == nil && len(block) > 0 {
			next := block[:min(len(block), maxFrame)]
			block = block[len(next):]
			err = p.fr.WriteContinuation(id, len(block) == 0, next)
		}
		return err
	})
}

func (p *Peer) encode(pairs []string) []byte {
	p.block.Reset()
	for i := 0; i < len(pairs); i += 2 {
		p.enc.WriteField(hpack.HeaderField{Name: pairs[i], Value: pairs[i+1]}) //nolint:errcheck // into memory
	}
	return bytes.Clone(p.block.Bytes())
}

// Data sends data in DATA frames of at most 16 KiB, whatever the windows say.
func (p *Peer) Data(id uint32, end bool, data []byte) error {
	return p.write(func() error {
		for len(data) > maxFrame {
			if err := p.fr.WriteData(id, false, data[:maxFrame]); err != nil {
				return err
			}
			data = data[maxFrame:]
		}
		return p.fr.WriteData(id, end, data)
	})
}

// Reset sends a RST_STREAM frame.
func (p *Peer) Reset(id uint32, code http2.ErrCode) error {
	return p.write(func() error { return p.fr.WriteRSTStream(id, code) })
}

// GoAway sends a GOAWAY frame.
func (p *Peer) GoAway(last uint32, code http2.ErrCode) error {
	return p.write(func() error { return p.fr.WriteGoAway(last, code, nil) })
}

// Window sends a WINDOW_UPDATE frame.
func (p *Peer) Window(id, n uint32) error {
	return p.write(func() error { return p.fr.WriteWindowUpdate(id, n) })
}

// WideOpen takes the connection's window to its largest, from the initial one.
func (p *Peer) WideOpen() error { return p.Window(0, maxWindow-65535) }

// Frame sends any frame.
func (p *Peer) Frame(t http2.FrameType, flags http2.Flags, id uint32, payload []byte) error {
	return p.write(func() error { return p.fr.WriteRawFrame(t, flags, id, payload) })
}

// Raw sends octets.
func (p *Peer) Raw(b []byte) error {
	return p.write(func() error { _, err := p.Conn.Write(b); return err })
}
