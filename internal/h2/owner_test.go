// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package h2

import (
	"errors"
	"fmt"
	"strconv"
	"sync"

	xhpack "golang.org/x/net/http2/hpack"

	"github.com/manifold-grpc/manifold/internal/h2/frame"
	"github.com/manifold-grpc/manifold/internal/h2/hpack"
)

// An owner is the owner of a connection under test: it notes what it is told,
// and does what the transcript says.
type owner struct {
	hold   bool // Data needs memory for all it gets
	refuse bool // NewStream refuses

	onNewStream func() // called by NewStream; may be nil
	onData      func() // called by Data; may be nil
	released    []uint32
	app         *echo // answers; may be nil

	mu sync.Mutex
	// Guarded by mu.
	log     []string
	streams map[uint32]*Stream
	got     pattern
}

var (
	_ Events    = (*owner)(nil)
	_ RunEvents = runOwner{}
)

func newOwner() *owner { return &owner{streams: map[uint32]*Stream{}, got: pattern{}} }

func (o *owner) note(format string, args ...any) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.log = append(o.log, fmt.Sprintf(format, args...))
}

// take returns what was noted since the last call.
func (o *owner) take() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	log := o.log
	o.log = nil
	return log
}

func (o *owner) NewStream(*Conn) *Stream {
	if o.onNewStream != nil {
		o.onNewStream()
	}
	if o.refuse {
		return nil
	}
	return &Stream{Owner: o}
}

func (o *owner) Headers(s *Stream, b *Batch, h Head) {
	o.mu.Lock()
	o.streams[s.ID()] = s
	o.mu.Unlock()
	tooLarge := ""
	if h.TooLarge != nil {
		tooLarge = " too large: " + h.TooLarge.Error()
	}
	o.note("headers %d%s%s%s", s.ID(), ending(h.EndStream), showFields(foreign(h.Fields)), tooLarge)
	if o.app != nil {
		o.app.headers(s, b, h)
	}
}

// foreign has the fields as the other implementation's type.
func foreign(fields []hpack.Field) []xhpack.HeaderField {
	list := make([]xhpack.HeaderField, len(fields))
	for i, f := range fields {
		list[i] = xhpack.HeaderField{Name: f.Name, Value: f.Value, Sensitive: f.Sensitive}
	}
	return list
}

// own is the reverse of foreign.
func own(fields []xhpack.HeaderField) []hpack.Field {
	list := make([]hpack.Field, len(fields))
	for i, f := range fields {
		list[i] = hpack.Field{Name: f.Name, Value: f.Value, Sensitive: f.Sensitive}
	}
	return list
}

func (o *owner) Data(s *Stream, b *Batch, p []byte, end bool) int {
	o.mu.Lock()
	shown := o.got.showPayload(s.ID(), p)
	o.mu.Unlock()
	o.note("data %d%s%s", s.ID(), ending(end), shown)
	if o.onData != nil {
		o.onData()
	}
	switch {
	case o.app != nil:
		return o.app.data(s, b, p, end)
	case o.hold:
		return 0
	}
	return len(p)
}

// A runOwner is an owner that takes runs.
type runOwner struct{ *owner }

func (o runOwner) Run(s *Stream, b *Batch, r Run) (passed int) { return eachFrame(o, s, b, r) }

func (runOwner) Turned() {}

// eachFrame tells of a run frame by frame.
func eachFrame(e Events, s *Stream, b *Batch, r Run) (passed int) {
	for p := range r.All() {
		passed += e.Data(s, b, p, false)
	}
	return passed
}

func (o *owner) End(s *Stream, _ *Batch, e End) {
	text := fmt.Sprintf("end %d %s", s.ID(), e.Code)
	if e.Unprocessed {
		text += " unprocessed"
	}
	if e.Err != nil {
		text += ": " + why(e.Err)
	}
	o.note("%s", text)
}

// why shortens an error to what is stable of it.
func why(err error) string {
	var ferr *frame.Error
	if !errors.As(err, &ferr) {
		return err.Error()
	}
	scope := "connection error "
	if !ferr.Connection() {
		scope = "error on stream " + strconv.Itoa(int(ferr.StreamID)) + " "
	}
	return scope + ferr.Code.String() + " " + ferr.Reason
}

func (o *owner) Credit(s *Stream, b *Batch, n int) {
	o.note("credit %d %d", s.ID(), n)
	if o.app != nil {
		o.app.credit(s, b, n)
	}
}

func (o *owner) Released(s *Stream) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.released = append(o.released, s.ID())
}

func (o *owner) Free(*Conn, *Batch) { o.note("free") }

func (o *owner) Ready(*Conn, *Batch) { o.note("ready") }

func (o *owner) GoAway(_ *Conn, _ *Batch, code frame.Code) { o.note("goaway %s", code) }

// do carries out one of the owner's commands.
func (o *owner) do(c *Conn, b *Batch, sent pattern, l *line) {
	defer l.rest()
	switch verb := l.next(); verb {
	case "open":
		end := l.flag("end")
		s := &Stream{Owner: o}
		if err := c.Open(b, s, own(l.fields()), end); err != nil {
			o.note("failed: %v", err)
			return
		}
		o.mu.Lock()
		o.streams[s.ID()] = s
		o.mu.Unlock()
	case "drain":
		c.Drain(b)
	case "close":
		c.Close()
	case "notify-free":
		c.NotifyFree(b)
	case "load":
		active, room := c.Load()
		o.note("active %d, room %d, retired %t", active, room, c.Retired())
	default:
		o.doStream(b, o.stream(uint32(number(l.next()))), sent, verb, l)
	}
}

func (o *owner) stream(id uint32) *Stream {
	o.mu.Lock()
	defer o.mu.Unlock()
	if s := o.streams[id]; s != nil {
		return s
	}
	panic(fmt.Sprintf("the owner never heard of stream %d", id))
}

// doStream carries out a command on a stream.
func (o *owner) doStream(b *Batch, s *Stream, sent pattern, verb string, l *line) {
	switch verb {
	case "headers":
		end := l.flag("end")
		s.SendHeaders(b, own(l.fields()), end)
	case "send":
		end := l.flag("end")
		p := l.payload(sent, s.ID())
		passed, err := s.Send(b, p, end)
		if passed != len(p) {
			o.note("passed %d", passed)
		}
		if err != nil {
			o.note("failed: %v", err)
		}
	case "reset":
		s.Reset(b, codeNamed(l.next()))
	case "stop-receiving":
		s.StopReceiving(b)
	case "consumed":
		s.Consumed(b, int(number(l.next())))
	case "queued":
		o.note("queued %d", s.Queued())
	default:
		panic(fmt.Sprintf("do not understand %q", verb))
	}
}
