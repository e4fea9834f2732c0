// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package relay

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/manifold-grpc/manifold/internal/h2"
	"github.com/manifold-grpc/manifold/internal/h2/flow"
)

// A Server relays the calls of clients. Its fields must not change after the first
// Serve; [Server.Update] replaces those that may. Its methods are safe for concurrent use.
type Server struct {
	// Route decides where each call goes. It must see to it that
	// [Call.Forward] or [Call.Reject] is called, at once or later from any
	// goroutine; until then the call is held, by its window. It must not block: it runs in the goroutine that
	// reads the client's connection. Required.
	Route func(*Call)

	// HTTP serves what is no gRPC: HTTP/2 requests of other content-types, and HTTP/1.1. nil
	// answers them with 415 and 505.
	HTTP http.Handler

	// TLS has the listeners speak TLS; nil means plaintext: HTTP/2 with prior
	// knowledge. NextProtos is set.
	TLS *tls.Config

	// ForwardedFor adds x-forwarded-for, -host and -proto to requests.
	ForwardedFor bool

	// OmitErrorInfo leaves the google.rpc.ErrorInfo detail out of the relay's own failures, for listeners
	// that shall tell strangers no more than a code and a message.
	OmitErrorInfo bool

	// TrustedClient tells which clients' forwarding headers are kept, and which are not
	// counted towards MaxConnectionsPerAddress. nil trusts none.
	TrustedClient func(net.Addr) bool

	// Preamble reads what stands on a connection before TLS and HTTP/2, such as a header of the PROXY protocol,
	// and returns the address of the client that it speaks of, nil for the connection's own. It must read nothing of what
	// follows. An error ends the connection. It is called in the connection's own goroutine with a read deadline, Limits.HandshakeTimeout from now. nil:
	// nothing stands there.
	Preamble func(net.Conn) (client net.Addr, err error)

	// ShareReader has one goroutine read all plaintext connections that have little to do, on Linux and with more than one processor. Calls that
	// come alone cost less CPU then, as they wake fewer threads; a connection with much to do is read by a goroutine of its own as
	// without ShareReader. Route and Hooks are called in that goroutine: one that blocks holds up all these connections, not only its own.
	ShareReader bool

	// Limits bound what clients may cost.
	Limits Limits

	// Hooks observe.
	Hooks Hooks

	once       sync.Once
	settings   atomic.Pointer[settings] // for connections that come
	budget     *flow.Budget
	http1      *http1Server
	overloaded atomic.Bool
	loose      atomic.Int64 // targets that go on after their calls
	inFlight   atomic.Int64
	calls      sync.Pool // memory of calls that are over
	lists      knownLists
	stop       chan struct{} // closed by Close: ends the janitor
	conns      sync.WaitGroup
	janitors   sync.WaitGroup

	mu sync.Mutex
	// Guarded by mu.
	listeners map[net.Listener]struct{}
	open      map[*downConn]struct{}
	pending   map[net.Conn]bool // before HTTP/2; true: what it speaks is not known yet
	perAddr   map[string]int
	count     int
	draining  bool
	closed    bool
}

// ErrServerClosed is what Serve returns after Shutdown or Close.
var ErrServerClosed = errors.New("relay: server closed")

// DefaultBuffer is the budget of endpoints that have none of their own: 256 MiB, but no more than a quarter of the
// Go memory limit (GOMEMLIMIT) that the process was started with.
var DefaultBuffer = NewBuffer(defaultBuffer(debug.SetMemoryLimit(-1)))

// A Buffer is a budget for octets that wait for slow upstreams, shared by endpoints.
type Buffer struct{ budget *flow.Budget }

// NewBuffer returns a budget of limit octets.
func NewBuffer(limit int64) *Buffer { return &Buffer{flow.NewBudget(limit)} }

// Used returns the octets that wait now.
func (b *Buffer) Used() int64 { return b.budget.Used() }

// tickInterval is how often connections look at the clock.
const tickInterval = time.Second

// init prepares the server at its first use.
func (s *Server) init() {
	s.once.Do(func() {
		set := newSettings(s.settingsOfFields())
		s.budget = flow.NewBudget(set.limits.Buffer)
		set.conns = s.connLimits(set)
		s.settings.Store(set)
		s.stop = make(chan struct{})
		s.listeners = make(map[net.Listener]struct{})
		s.open = make(map[*downConn]struct{})
		s.pending = make(map[net.Conn]bool)
		s.perAddr = make(map[string]int)
		s.http1 = newHTTP1Server(s, &set.limits)
		s.janitors.Add(1)
		go s.janitor() // ends with Close or Shutdown
	})
}

// Serve accepts connections of l and relays their calls until l fails, or the
// server is shut down: then it returns [ErrServerClosed] at once. It closes l.
func (s *Server) Serve(l net.Listener) error {
	if s.Route == nil {
		return errors.New("relay: Server.Route is nil, expected a function that decides where calls go")
	}
	s.init()
	defer l.Close() //nolint:errcheck // closed by Shutdown, or broken
	if !s.track(l) {
		return ErrServerClosed
	}
	for {
		nc, err := l.Accept()
		if err == nil {
			s.accept(nc)
			continue
		}
		if s.stopping() {
			return ErrServerClosed
		}
		if !temporary(err) {
			s.untrack(l)
			return err
		}
		s.pause()
	}
}

// temporary reports whether an Accept that failed may succeed later: out of file descriptors and the like.
func temporary(err error) bool {
	var ne interface{ Temporary() bool }
	return errors.As(err, &ne) && ne.Temporary()
}

// pause waits a little before the next Accept.
func (s *Server) pause() {
	t := time.NewTimer(50 * time.Millisecond)
	defer t.Stop()
	select {
	case <-t.C:
	case <-s.stop:
	}
}

func (s *Server) track(l net.Listener) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.draining || s.closed {
		return false
	}
	s.listeners[l] = struct{}{}
	return true
}

func (s *Server) untrack(l net.Listener) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.listeners, l)
}

func (s *Server) stopping() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.draining || s.closed
}

// Shutdown drains the server: listeners are closed, clients told by GOAWAY in two steps
// to open no further streams, and calls run to their end. It returns when the last
// connection is over, or closes what is left when ctx ends; if calls were cut then, it returns a *[CutError].
func (s *Server) Shutdown(ctx context.Context) error {
	s.init()
	s.mu.Lock()
	s.draining = true
	s.closeListeners()
	var open []*downConn
	for d := range s.open {
		open = append(open, d)
	}
	s.hurryPending()
	s.mu.Unlock()
	for _, d := range open {
		var b h2.Batch
		d.h2.Drain(&b)
		b.Flush()
	}
	done := make(chan struct{})
	go func() { // ends with the last connection: Close ends them all
		s.conns.Wait()
		close(done)
	}()
	s.http1.shutdown(ctx) //nolint:errcheck // Close does the rest
	var err error
	select {
	case <-done:
	case <-ctx.Done():
		if n := s.InFlight(); n > 0 {
			err = &CutError{Calls: n, Cause: context.Cause(ctx)}
		}
	}
	s.Close()
	<-done
	return err
}

// CutError is the error of a drain whose time was not enough.
type CutError struct {
	// Calls is the number of calls that were in flight when time was up.
	Calls int
	// Cause is why it was: the cause of the drain's context.
	Cause error
}

var _ error = (*CutError)(nil)

func (e *CutError) Error() string {
	return fmt.Sprintf("relay: %d calls cut off while draining: %v", e.Calls, e.Cause)
}

// Unwrap returns the cause.
func (e *CutError) Unwrap() error { return e.Cause }

// Close ends the server and all connections at once, and returns when no goroutine of theirs is left.
// Copies of calls that had ended (see [Call.Mirror]) go on until their time is up, or until their endpoint is closed: they are the endpoint's.
func (s *Server) Close() {
	s.init()
	s.mu.Lock()
	first := !s.closed
	s.closed = true
	s.closeListeners()
	for nc := range s.pending {
		nc.Close() //nolint:errcheck // it ends either way
	}
	for d := range s.open {
		d.h2.Close()
	}
	s.mu.Unlock()
	if first {
		close(s.stop)
		s.http1.close()
	}
	s.conns.Wait()
	s.janitors.Wait()
}

// closeListeners has every Serve return. mu is held.
func (s *Server) closeListeners() {
	for l := range s.listeners {
		l.Close() //nolint:errcheck // it ends either way
	}
	clear(s.listeners)
}

// Buffered returns the octets that wait for slow clients.
func (s *Server) Buffered() int64 {
	s.init()
	return s.budget.Used()
}

// InFlight returns the number of calls that have not ended.
func (s *Server) InFlight() int { return int(s.inFlight.Load()) }

// Connections returns the number of open connections.
func (s *Server) Connections() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.count
}

// janitor has all connections look at the clock, and watches the memory. It has one timer for both: two that fire at once under testing/synctest
// may have the race detector of Go 1.26 use one context from two threads, and crash.
func (s *Server) janitor() {
	defer s.janitors.Done()
	t := time.NewTimer(tickInterval)
	defer t.Stop()
	ticked := time.Now()
	var open []*downConn
	for {
		select {
		case <-s.stop:
			return
		case now := <-t.C:
			t.Reset(s.watchMemory(s.settings.Load().limits.MemoryShare))
			if now.Sub(ticked) < tickInterval-memoryInterval/2 {
				continue
			}
			ticked = now
			open = open[:0]
			s.mu.Lock()
			for d := range s.open {
				open = append(open, d)
			}
			s.mu.Unlock()
			for _, d := range open {
				d.h2.Tick(now)
				if s.Hooks.CallProgress != nil {
					d.calls.report(now, &s.Hooks)
				}
			}
			clear(open)
		}
	}
}
