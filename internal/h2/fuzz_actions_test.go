// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package h2

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/manifold-grpc/manifold/internal/h2/frame"
)

// FuzzActions plays a peer that keeps to the rules, an owner that uses every
// method at any time, a network that stalls, and time, as the input says. It checks
// that octets arrive whole and in order both ways, that the connection keeps to
// RFC 9113 (see referee), and that the peer is never reproached.
func FuzzActions(f *testing.F) {
	f.Add([]byte("\x00"))
	for role := range byte(2) {
		for _, seed := range []string{
			"\x00\x01\x10\x01\x05\x10\x09\x20\x0a\x10\x03\x00", "\x00\x00\x00\x08\x08\x08\x09\xff\x09\xff\x04\x80\x04\x80",
			"\x00\x0e\x09\xff\x09\xff\x09\xff\x0f\x0e\x0a", "\x00\x01\xff\x01\xff\x01\xff\x0c\x0d\x10", "\x00\x05\x00\x08\x09\x50\x04\x10\x05\xff\x0b\x00",
		} {
			f.Add(append([]byte{role}, seed...))
		}
	}
	f.Fuzz(func(t *testing.T, program []byte) {
		if len(program) == 0 || len(program) > 2000 {
			return
		}
		synctest.Test(t, func(t *testing.T) {
			newActions(t, program[0]).run(program[1:])
		})
	})
}

// actions is a scenario that octets drive.
type actions struct {
	*scenario
	program  []byte
	server   bool
	app      *keeper
	ids      []uint32 // streams that were opened
	draining bool
}

func newActions(t *testing.T, mode byte) *actions {
	head := "server streams=5 ping-interval=1ns patience=100000 resets=100000 buf=30000 high-water=8000 budget=300000 growth=300000"
	if mode&1 != 0 {
		head = "client patience=100000 buf=30000 high-water=8000 budget=300000 growth=300000"
	}
	c := newScenario(t, parseLine(head))
	a := &actions{scenario: c, server: mode&1 == 0, app: newKeeper()}
	a.conn.events = a.app // nothing has happened yet
	a.reader.grantMax = 1 << 20
	return a
}

// take returns the next octet of the program, or 0.
func (a *actions) take() int {
	if len(a.program) == 0 {
		return 0
	}
	v := a.program[0]
	a.program = a.program[1:]
	return int(v)
}

func (a *actions) run(program []byte) {
	a.program = program
	steps := [...]func(){
		a.open, a.peerData, a.peerTrailers, a.peerReset, a.windowUpdate, a.settings, a.ping, a.priority,
		a.headers, a.send, a.trailers, a.reset, a.consume, a.stopReceiving, a.reading, a.drain, a.time,
	}
	for len(a.program) > 0 && !a.served.Load() {
		steps[a.take()%len(steps)]()
		a.check()
	}
	a.deaf = false
	a.check()
	a.finish()
	a.app.checkEnded(a.t)
}

// check waits for the connection to rest, and looks at it.
func (a *actions) check() {
	a.t.Helper()
	for _, l := range a.settle() {
		code := strings.ReplaceAll(l, "NO_ERROR", "")
		reproach := strings.Contains(code, "_ERROR") || strings.Contains(code, "STREAM_CLOSED") || strings.Contains(code, "CALM")
		data := strings.HasPrefix(l, "< DATA") && !strings.Contains(l, " len=") && !strings.HasSuffix(l, " end")
		if reproach || data || strings.Contains(l, "ILLEGAL") || strings.Contains(l, "WRONG") {
			a.t.Error(l)
		}
	}
	a.checkInvariants()
	a.app.check(a.t, a)
}

// stream picks one of the streams so far.
func (a *actions) stream() (id uint32, ref *refStream, own *keptStream) {
	if len(a.ids) == 0 {
		return 0, &refStream{reset: true}, nil
	}
	id = a.ids[a.take()%len(a.ids)]
	return id, a.reader.streams[id], a.app.kept(id)
}

// amount is a number of octets, often a few and sometimes many.
func (a *actions) amount() int {
	n := a.take()
	return n * n / 2
}

// What the peer does.

func (a *actions) open() {
	end := a.take()&3 == 0
	if !a.server {
		a.ownerOpen(end)
		return
	}
	if a.reader.openStreams() >= 8 || a.draining { // some above the limit of 5
		return
	}
	a.ids = append(a.ids, a.writer.nextID)
	a.send2("HEADERS next%s%s request x=%s", ending(end), map[bool]string{true: " split=3,2"}[a.take()&1 == 1], strings.Repeat("y", a.take()))
}

// mayPeerSend says whether the peer may still send on a stream that it knows to be open.
func (a *actions) mayPeerSend(id uint32, s *refStream) bool {
	return id != 0 && s != nil && s.open() && !s.peerEnded && id <= a.reader.lastOut
}

func (a *actions) peerData() {
	id, s, _ := a.stream()
	n := int64(a.amount())
	end := a.take()&7 == 0
	if !a.mayPeerSend(id, s) || !a.server && !a.app.answered(id) {
		return
	}
	n = min(n, frame.MinMaxFrameSize, s.peerWindow, a.reader.peerWindow)
	if n < 0 {
		return
	}
	a.send2("DATA %d%s len=%d", id, ending(end), n)
}

func (a *actions) peerTrailers() {
	id, s, _ := a.stream()
	if !a.mayPeerSend(id, s) {
		return
	}
	if !a.server && !a.app.answered(id) {
		a.app.answer(id)
		a.send2("HEADERS %d response", id)
		return
	}
	a.send2("HEADERS %d end grpc-status=0", id)
}

func (a *actions) peerReset() {
	if id, s, _ := a.stream(); id != 0 && s != nil && s.open() {
		a.send2("RST_STREAM %d CANCEL", id)
	}
}

func (a *actions) windowUpdate() {
	id, s, _ := a.stream()
	n := int64(a.amount()) + 1
	if a.take()&1 == 0 {
		if a.reader.window+n <= frame.MaxWindow {
			a.send2("WINDOW_UPDATE 0 %d", n)
		}
	} else if id != 0 && s != nil && s.window+n <= 1<<30 {
		a.send2("WINDOW_UPDATE %d %d", id, n)
	}
}

func (a *actions) settings() {
	switch n := a.amount(); a.take() % 4 {
	case 0:
		a.send2("SETTINGS INITIAL_WINDOW_SIZE=%d", 2*n)
	case 1:
		a.send2("SETTINGS MAX_FRAME_SIZE=%d", frame.MinMaxFrameSize+n)
	case 2:
		a.send2("SETTINGS MAX_CONCURRENT_STREAMS=%d", n%8)
	case 3:
		a.send2("SETTINGS HEADER_TABLE_SIZE=%d", n)
	}
}

func (a *actions) ping() {
	time.Sleep(time.Nanosecond) // the interval that the connection asks for
	a.send2("PING %q", fmt.Sprintf("%08d", a.take()))
}

func (a *actions) priority() { a.send2("PRIORITY %d dep=0", 2*a.take()+1) }

func (a *actions) send2(format string, args ...any) { a.scenario.send(fmt.Sprintf(format, args...)) }

// What the network and the clock do.

func (a *actions) reading() { a.deaf = !a.deaf }

func (a *actions) time() {
	time.Sleep(time.Duration(a.take()) * 10 * time.Millisecond)
	a.conn.Tick(time.Now())
}

// What the owner does, at the right time or not.

func (a *actions) drain() {
	if a.take() > 40 {
		return // it ends the game
	}
	a.draining = a.draining || a.server
	a.flush(func(b *Batch) { a.conn.Drain(b) })
}

func (a *actions) flush(f func(b *Batch)) {
	var b Batch
	f(&b)
	b.Flush()
}

func (a *actions) ownerOpen(end bool) {
	s := a.app.newStream()
	fields := append(own(requestFields), own(parseLine("x=*"+fmt.Sprint(a.amount())).fields())...)
	a.flush(func(b *Batch) {
		if err := a.conn.Open(b, s, fields, end); err != nil {
			a.conn.NotifyFree(b)
			return
		}
		a.ids = append(a.ids, s.ID())
		a.app.add(s).sendEnded = end
	})
}

func (a *actions) headers() {
	if _, _, s := a.stream(); s != nil && a.server && !s.began {
		s.began = true
		a.flush(func(b *Batch) { s.SendHeaders(b, own(responseFields), false) })
	}
}

func (a *actions) send() {
	id, _, s := a.stream()
	n, end := a.amount(), a.take()&15 == 0
	if s == nil || a.server && !s.began || s.sendEnded {
		return
	}
	if a.take()&7 == 7 && n > 0 { // more than anybody has room for
		n += 300_000
	}
	before := a.sent[id]
	p := a.sent.next(id, n)
	a.flush(func(b *Batch) {
		passed, err := s.Send(b, p, end)
		if passed > n {
			a.t.Errorf("%d of %d octets passed", passed, n)
		}
		s.owed += n - passed
		s.sendEnded = end
		if err != nil {
			a.sent[id] = before + passed
			s.owed -= n - passed
			s.failed = true
			s.Reset(b, frame.Cancel)
		}
	})
}

func (a *actions) trailers() {
	if _, _, s := a.stream(); s != nil && (s.began || !a.server) && !s.sendEnded {
		s.sendEnded = true
		a.flush(func(b *Batch) { s.SendHeaders(b, own(requestFields)[:0], true) })
	}
}

func (a *actions) reset() {
	if _, _, s := a.stream(); s != nil {
		s.failed = true
		a.flush(func(b *Batch) { s.Reset(b, frame.Cancel) })
	}
}

func (a *actions) consume() {
	if _, _, s := a.stream(); s != nil {
		n := s.held
		s.held = 0
		a.flush(func(b *Batch) { s.Consumed(b, n) })
	}
}

func (a *actions) stopReceiving() {
	if _, _, s := a.stream(); s != nil && a.server {
		s.failed = true // the peer may not send all it wants to
		a.flush(func(b *Batch) { s.StopReceiving(b) })
	}
}
