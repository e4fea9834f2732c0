// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package evloop

import (
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"testing"
	"time"
)

// A handler reads what comes and tells of it.
type handler struct {
	s    *Socket
	stay bool // until there is an error
	got  chan string
	err  chan error
	left chan struct{}
}

func newHandler(s *Socket, stay bool) *handler {
	return &handler{s, stay, make(chan string, 100), make(chan error, 100), make(chan struct{})}
}

func (h *handler) Ready(time.Time) bool {
	p := make([]byte, 100)
	n, err := h.s.TryRead(p)
	if n > 0 {
		h.got <- string(p[:n])
	}
	if err != nil {
		h.err <- err
	}
	return h.stay && err == nil
}

func (h *handler) Left() { close(h.left) }

// watch has the loop watch s.
func watch(t *testing.T, s *Socket, stay bool) *handler {
	t.Helper()
	h := newHandler(s, stay)
	if !s.Watch(h) {
		t.Fatal("the loop does not take the socket")
	}
	return h
}

func TestWatch(t *testing.T) {
	s, peer := pair(t, "tcp")
	h := watch(t, s, true)
	for _, text := range []string{"one", "two"} {
		peer.Write([]byte(text))
		if got := <-h.got; got != text {
			t.Fatalf("got %q, want %q", got, text)
		}
	}
	// The end that comes with octets is told after them.
	peer.Write([]byte("last"))
	peer.Close()
	if got := <-h.got; got != "last" {
		t.Errorf("got %q", got)
	}
	if err := <-h.err; err != io.EOF {
		t.Errorf("got %v, want the end", err)
	}
	<-h.left
}

// Many sockets at a time, each watched by turns: the loop ends when it has none, and begins again.
func TestWatchMany(t *testing.T) {
	const sockets, turns = 100, 20
	done := make(chan error)
	for range sockets {
		s, peer := pair(t, "tcp")
		go func() {
			for range turns {
				h := newHandler(s, false)
				if !s.Watch(h) {
					done <- errors.New("the loop does not take the socket")
					return
				}
				peer.Write([]byte("x"))
				<-h.left
				if got := <-h.got; got != "x" {
					done <- errors.New("got " + got)
					return
				}
			}
			done <- nil
		}()
	}
	for range sockets {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

// Who closes a socket or lets its deadline pass ends the watch, also when that comes before it.
func TestWatchEnds(t *testing.T) {
	for name, tt := range map[string]struct {
		end  func(*Socket)
		want error
	}{
		"closed":   {func(s *Socket) { s.Close() }, net.ErrClosed},
		"deadline": {func(s *Socket) { s.SetReadDeadline(longAgo) }, os.ErrDeadlineExceeded},
	} {
		t.Run(name, func(t *testing.T) {
			s, peer := pair(t, "tcp")
			h := watch(t, s, true)
			peer.Write([]byte("x"))
			<-h.got
			tt.end(s)
			if err := <-h.err; !errors.Is(err, tt.want) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
			<-h.left
			if s.Watch(h) {
				t.Error("the loop takes a socket that has nothing to come")
			}
			if name == "deadline" {
				s.SetReadDeadline(time.Time{})
				h := watch(t, s, true)
				peer.Write([]byte("y"))
				if got := <-h.got; got != "y" {
					t.Errorf("got %q after the deadline was lifted", got)
				}
				s.Close()
				<-h.left
			}
			if n, err := peer.Read(make([]byte, 1)); n != 0 || err != io.EOF {
				t.Errorf("the peer read %d, %v, want the end", n, err)
			}
		})
	}
}

// Watches and ends that meet: every watch that began ends, whoever comes first.
func TestWatchMeetsClose(t *testing.T) {
	for range 300 {
		s, _ := pair(t, "tcp")
		h := newHandler(s, true)
		closed := make(chan struct{})
		go func() {
			s.Close()
			close(closed)
		}()
		if s.Watch(h) {
			<-h.left
		}
		<-closed
	}
}

// Go's poller, once it has waited for the socket, forgets it when the loop watches it.
func TestWatchForgets(t *testing.T) {
	s, peer := pair(t, "tcp")
	for range 3 {
		peer.Write([]byte("x"))
		if n, err := s.Read(make([]byte, 4)); n != 1 || err != nil {
			t.Fatalf("read %d, %v", n, err)
		}
		if !s.Polled() {
			t.Error("a socket that was waited for is not polled")
		}
		h := watch(t, s, false)
		if s.Polled() {
			t.Error("a socket that the loop watches is polled")
		}
		peer.Write([]byte("y"))
		<-h.left
	}
}

// A loop with too much to do gives back what has input, and takes nothing more, until its rest is over.
func TestBusyLoop(t *testing.T) {
	setBusy := func(until time.Time) {
		shared.mu.Lock()
		shared.load.until = until
		shared.mu.Unlock()
	}
	t.Cleanup(func() { SetPatient(true) })
	s, peer := pair(t, "tcp")
	quiet, _ := pair(t, "tcp")
	h, idle := watch(t, s, true), watch(t, quiet, true)
	setBusy(time.Now().Add(time.Hour))
	peer.Write([]byte("x"))
	<-h.left
	if got := <-h.got; got != "x" {
		t.Errorf("got %q", got)
	}
	if s.Watch(h) {
		t.Error("a busy loop takes a socket")
	}
	select {
	case <-idle.left:
		t.Error("a socket without input was given back")
	default:
	}
	setBusy(time.Time{})
	h = watch(t, s, true)
	for _, s := range []*Socket{s, quiet} {
		s.Close()
	}
	<-h.left
	<-idle.left
}

// Where there is one processor only, the loop would keep it from others: it takes nothing, and gives back what it has.
func TestOneProcessor(t *testing.T) {
	s, peer := pair(t, "tcp")
	h := watch(t, s, true)
	before := runtime.GOMAXPROCS(1)
	defer runtime.GOMAXPROCS(before)
	t.Cleanup(func() { SetPatient(true) })
	for left := false; !left; {
		if _, err := peer.Write([]byte("x")); err != nil {
			t.Fatal("the loop gives nothing back:", err)
		}
		select {
		case <-h.got:
		case <-h.left:
			left = true
		}
	}
	if s.Watch(newHandler(s, true)) {
		t.Error("the loop takes a socket")
	}
}

// What others have to do counts while the loop watches something, and for nobody else.
func TestElsewhere(t *testing.T) {
	until := func(counts bool) {
		for end := time.Now().Add(10 * time.Second); shared.counts.Load() != counts; runtime.Gosched() {
			if time.Now().After(end) {
				t.Fatalf("that others' turns count is not %t", counts)
			}
		}
	}
	s, peer := pair(t, "tcp")
	h := watch(t, s, true)
	peer.Write([]byte("x"))
	<-h.got
	until(true)
	before := shared.others.Load()
	if Elsewhere(); shared.others.Load() != before+1 {
		t.Error("a turn of others does not count")
	}
	s.Close()
	<-h.left
	until(false)
	before = shared.others.Load()
	if Elsewhere(); shared.others.Load() != before {
		t.Error("a turn of others counts for a loop that watches nothing")
	}
}
