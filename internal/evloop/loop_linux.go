// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package evloop

import (
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// shared is the loop of this program.
var shared loop

// A loop watches sockets. Its goroutine runs while there are any.
type loop struct {
	mu sync.Mutex
	// Guarded by mu.
	opened  bool // ep and pipe are
	ep      int
	pipe    [2]int // what is written to the second wakes the goroutine
	woken   bool   // something was, and not read yet
	running bool
	watched []watched // by descriptor
	count   int
	kicked  []*Socket // to be told of, though they may have no input
	load    load

	counts atomic.Bool  // it matters what others have to do
	others atomic.Int64 // how often they had something to do

	// Owned by the goroutine.
	events [64]syscall.EpollEvent
	ready  []watched
	kicks  []*Socket
	busy   bool  // what has input is given back
	turns  int64 // handlers that were called since the load was judged
}

type watched struct {
	s *Socket
	h Handler
	// over says that there is an end to read after what there is: a handler reads once, and is told of the same thing once.
	over bool
}

// SetPatient has the loop find that it never has too much to do, or judge it anew: for tests that must know who reads.
func SetPatient(patient bool) {
	shared.mu.Lock()
	defer shared.mu.Unlock()
	shared.load = load{patient: patient}
}

// edge has the kernel tell of input once, when it comes: told until it is read, it looks once more for each. An
// end that came with the input is told with it (EPOLLRDHUP), so that nobody need read twice to see it.
const edge = 1 << 31 // EPOLLET, which package syscall has as a negative number

// maxReads is how often a socket with an end is read for it: one that does not show it so soon is its owner's.
const maxReads = 16

// yieldTime is how often the goroutine passes through the scheduler while it has something to do. The runtime's monitor looks every
// 10 ms, and would take the processor of one that has not, and look 50 times in the millisecond after that whether it should again.
const yieldTime = 9 * time.Millisecond

// minProcs is how many processors there must be: who waits inside of a system call keeps one from others until the runtime takes
// it back, which may be 10 ms.
const minProcs = 2

// Elsewhere notes that a connection that is not for the loop had something to do: with TLS, or with more than the loop takes. For
// concurrent use.
func Elsewhere() {
	if shared.counts.Load() {
		shared.others.Add(1)
	}
}

// open reports whether the loop takes sockets.
func (l *loop) open() bool {
	if runtime.GOMAXPROCS(0) < minProcs {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return !l.load.over(time.Now())
}

// add begins to watch s, whose mu is held.
func (l *loop) add(s *Socket, h Handler) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.init() || !s.acquire() {
		return false
	}
	for len(l.watched) <= s.fd {
		l.watched = append(l.watched, watched{})
	}
	ev := syscall.EpollEvent{Events: syscall.EPOLLIN | syscall.EPOLLRDHUP | edge, Fd: int32(s.fd)}
	if syscall.EpollCtl(l.ep, syscall.EPOLL_CTL_ADD, s.fd, &ev) != nil {
		s.uses.Add(-1) // not the last: who calls has not closed it
		return false
	}
	l.watched[s.fd], s.watched = watched{s: s, h: h}, true
	if l.count++; !l.running {
		l.running = true
		go l.run() // ends when it watches nothing any more
	}
	return true
}

// init makes the descriptors, which stay. mu is held.
func (l *loop) init() bool {
	if l.opened {
		return true
	}
	ep, err := syscall.EpollCreate1(syscall.EPOLL_CLOEXEC)
	if err != nil {
		return false
	}
	if err = syscall.Pipe2(l.pipe[:], syscall.O_CLOEXEC|syscall.O_NONBLOCK); err != nil {
		syscall.Close(ep) //nolint:errcheck // nobody to tell
		return false
	}
	ev := syscall.EpollEvent{Events: syscall.EPOLLIN, Fd: int32(l.pipe[0])}
	if err = syscall.EpollCtl(ep, syscall.EPOLL_CTL_ADD, l.pipe[0], &ev); err != nil {
		syscall.Close(ep)        //nolint:errcheck // likewise
		syscall.Close(l.pipe[0]) //nolint:errcheck // likewise
		syscall.Close(l.pipe[1]) //nolint:errcheck // likewise
		return false
	}
	l.ep, l.opened = ep, true
	return true
}

// kick has the handler of s called, if s is watched.
func (l *loop) kick(s *Socket) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !s.watched {
		return
	}
	l.kicked = append(l.kicked, s)
	if !l.woken {
		l.woken = true
		syscall.Write(l.pipe[1], []byte{0}) //nolint:errcheck // there is room for one
	}
}

func (l *loop) run() {
	yielded := time.Now()
	for {
		n, err := syscall.EpollWait(l.ep, l.events[:], -1)
		if err != nil && err != syscall.EINTR {
			panic(fmt.Sprintf("evloop: epoll_wait: %v", err)) // of a descriptor that nobody else has
		}
		now := time.Now()
		l.collect(max(n, 0), now)
		for i, w := range l.ready {
			l.ready[i] = watched{}
			l.serve(w, now)
		}
		for i, s := range l.kicks {
			l.kicks[i] = nil
			if w := l.find(s); w.s == s {
				l.serve(w, now)
			}
		}
		if l.rest(now) {
			return
		}
		if now.Sub(yielded) >= yieldTime {
			yielded = now
			runtime.Gosched()
		}
	}
}

// collect finds who the first n events are for, and takes over who was kicked.
func (l *loop) collect(n int, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.busy = l.load.over(now)
	l.ready = l.ready[:0]
	for _, ev := range l.events[:n] {
		if int(ev.Fd) == l.pipe[0] {
			var p [1]byte
			syscall.Read(l.pipe[0], p[:]) //nolint:errcheck // it is there
			l.woken = false
			continue
		}
		w := l.watched[ev.Fd]
		w.over = ev.Events&(syscall.EPOLLRDHUP|syscall.EPOLLHUP|syscall.EPOLLERR) != 0
		l.ready = append(l.ready, w)
	}
	l.kicked, l.kicks = l.kicks[:0], l.kicked
}

// find returns how s is watched, or the zero value. Whoever has input was served before, and may have left.
func (l *loop) find(s *Socket) watched {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !s.watched {
		return watched{}
	}
	return l.watched[s.fd]
}

// serve calls a handler that may have something to do.
func (l *loop) serve(w watched, now time.Time) {
	l.turns++
	stay := w.h.Ready(now)
	for n := 0; stay && w.over; n++ { // until it has read the end
		stay = n < maxReads && w.h.Ready(now)
	}
	if stay && !l.busy {
		return
	}
	l.mu.Lock()
	syscall.EpollCtl(l.ep, syscall.EPOLL_CTL_DEL, w.s.fd, nil) //nolint:errcheck // it is there
	l.watched[w.s.fd], w.s.watched = watched{}, false
	l.count--
	l.mu.Unlock()
	w.s.release()
	w.h.Left()
}

// rest judges how busy the loop is, and reports whether there is nothing left to watch.
func (l *loop) rest(now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.load.due(now) {
		if runtime.GOMAXPROCS(0) < minProcs {
			l.load.stop(now)
		}
		var u syscall.Rusage
		if syscall.Getrusage(syscall.RUSAGE_THREAD, &u) == nil {
			l.load.note(now, syscall.Gettid(), time.Duration(u.Utime.Nano()+u.Stime.Nano()), l.turns, l.others.Swap(0))
		}
		l.turns = 0
	}
	l.running = l.count > 0
	if counts := l.running && !l.load.over(now); counts != l.counts.Load() {
		l.counts.Store(counts)
	}
	return !l.running
}
