// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package relay

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/manifold-grpc/manifold/internal/h2"
	"github.com/manifold-grpc/manifold/internal/tlsconn"
)

// State is the state of an endpoint.
type State int32

// States of an endpoint.
const (
	// Connecting: no connection yet, none failed; calls wait for it.
	Connecting State = iota
	// Ready: at least one connection takes calls.
	Ready
	// Failing: the last attempt to connect failed, and the next is due after a pause.
	Failing
	// Closed by [Endpoint.Close] or [Endpoint.Shutdown].
	Closed
	// Silent: connected, and calls wait for answers, but it has not even answered a PING for a second; calls
	// go elsewhere until it does, or the connection is given up (see KeepaliveTimeout).
	Silent
)

var stateNames = [...]string{"connecting", "ready", "failing", "closed", "silent"}

func (s State) String() string { return stateNames[s] }

// EndpointConfig says how to reach an endpoint. The zero value means plaintext HTTP/2
// and the defaults.
type EndpointConfig struct {
	// TLS has the connections use TLS; nil means plaintext. ServerName defaults to the host of the
	// address, and NextProtos is set to "h2".
	TLS *tls.Config

	// CurrentTLS, if set, returns the TLS configuration of the next connection in place of TLS, which must be set too; for
	// authorities that change.
	CurrentTLS func() *tls.Config

	// Authority replaces the :authority of the calls; empty leaves the caller's.
	Authority string

	// Dial makes the connections; nil dials the address: host:port, or unix:path.
	Dial func(ctx context.Context) (net.Conn, error)

	// ConnectTimeout bounds one attempt: dial, TLS handshake and the upstream's SETTINGS. Default
	// 10 s: with the longest pause after it, an endpoint that comes back is in use within 30 s.
	ConnectTimeout time.Duration

	// MaxConnections bounds the connections; a further one is made when every other has as many
	// streams as the upstream allows. Default 16.
	MaxConnections int

	// MaxWaiting bounds the calls that wait for a connection or a stream. Default 1000.
	MaxWaiting int

	// BackoffBase and BackoffMax bound the growing pause between attempts to connect.
	// Defaults 1 s and 15 s.
	BackoffBase, BackoffMax time.Duration

	// KeepaliveTime and KeepaliveTimeout: a PING after so much silence of a connection with calls, and
	// the end when it is not answered. Defaults 30 s and 10 s; negative: no PINGs. An upstream that sends
	// no messages gets one in 5 minutes at most, and one more when calls are sent to it: gRPC servers
	// cut off who sends more (gRFC A8).
	KeepaliveTime, KeepaliveTimeout time.Duration

	// MaxHeaderBytes bounds a response's header list. Default 64 KiB.
	MaxHeaderBytes uint32

	// OnState is told of every change of state, and of the error that made it Failing. It is
	// called with a lock held: it must neither block nor call the endpoint. nil: nobody.
	OnState func(e *Endpoint, s State, err error)

	// ShareReader has the plaintext connections with little to do read by the one goroutine that [Server.ShareReader] speaks of.
	// What backends answer is told to the hooks in that goroutine.
	ShareReader bool

	// Buffer is the server's budget that the connections share for slow upstreams.
	// nil means [DefaultBuffer].
	Buffer *Buffer

	// Owner is what [Endpoint.Owner] returns, for who made the endpoint.
	Owner any
}

// An Endpoint is one address that serves calls, with its pool of connections. It is
// connected from the start and again when a connection is lost. Safe for concurrent use.
type Endpoint struct {
	addr   string
	cfg    EndpointConfig
	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	runs   sync.WaitGroup // connections, from dial to end
	local  net.Listener   // of services in this process; else nil

	state    atomic.Int32
	inFlight atomic.Int64
	turn     atomic.Uint32
	counts   endpointCounts
	offered  atomic.Pointer[[]*upConn] // conns, or nil while calls wait: they come first; see offer

	mu sync.Mutex
	// Guarded by mu.
	conns   []*upConn  // ready; replaced by setConns, never changed in place
	offers  *[]*upConn // a copy of conns
	dialing int
	waiting []seeker
	serving bool // one was taken from waiting, and may come back: it is before all that wait and come
	fails   int  // attempts in a row
	useless int  // connections in a row that were lost at once and had served nobody
	err     error
	retry   *time.Timer
	pause   time.Time // no attempt before: the pause after a failure
	closed  bool
	retired bool          // Shutdown: takes no calls, and those there are run to their end
	changed chan struct{} // closed at the next change of state
}

// NewEndpoint returns an endpoint for addr, "host:port" or "unix:path", and starts to
// connect it. Close it in the end.
func NewEndpoint(addr string, cfg EndpointConfig) *Endpoint {
	e := newEndpoint(addr, cfg)
	e.mu.Lock()
	defer e.mu.Unlock()
	e.dialLocked()
	return e
}

// newEndpoint returns an endpoint that does nothing yet.
func newEndpoint(addr string, cfg EndpointConfig) *Endpoint {
	cfg.ConnectTimeout = or(cfg.ConnectTimeout, 10*time.Second)
	cfg.MaxConnections = or(cfg.MaxConnections, 16)
	cfg.MaxWaiting = or(cfg.MaxWaiting, 1000)
	cfg.BackoffBase = or(cfg.BackoffBase, time.Second)
	cfg.BackoffMax = or(cfg.BackoffMax, 15*time.Second)
	cfg.KeepaliveTime = orNever(cfg.KeepaliveTime, 30*time.Second)
	cfg.KeepaliveTimeout = or(cfg.KeepaliveTimeout, 10*time.Second)
	cfg.MaxHeaderBytes = or(cfg.MaxHeaderBytes, 64<<10)
	cfg.Buffer = or(cfg.Buffer, DefaultBuffer)
	cfg.TLS = endpointTLS(cfg.TLS, addr)
	e := &Endpoint{addr: addr, cfg: cfg, changed: make(chan struct{})}
	e.ctx, e.cancel = context.WithCancel(context.Background())
	return e
}

// endpointTLS completes the TLS configuration.
func endpointTLS(base *tls.Config, addr string) *tls.Config {
	if base == nil {
		return nil
	}
	t := base.Clone()
	t.NextProtos = []string{"h2"}
	t.DynamicRecordSizingDisabled = true
	if t.ServerName == "" {
		if host, _, err := net.SplitHostPort(addr); err == nil {
			t.ServerName = host
		}
	}
	return t
}

// Owner returns what the configuration says.
func (e *Endpoint) Owner() any { return e.cfg.Owner }

// currentTLS returns the configuration of the next handshake.
func (e *Endpoint) currentTLS() *tls.Config {
	if e.cfg.CurrentTLS == nil {
		return e.cfg.TLS
	}
	return endpointTLS(e.cfg.CurrentTLS(), e.addr)
}

// Addr returns the address.
func (e *Endpoint) Addr() string { return e.addr }

// State returns the state.
func (e *Endpoint) State() State { return State(e.state.Load()) }

// WaitForStateChange returns when the state is other than s, or false when ctx ends before.
func (e *Endpoint) WaitForStateChange(ctx context.Context, s State) bool {
	for {
		e.mu.Lock()
		changed := e.changed
		e.mu.Unlock()
		if e.State() != s {
			return true
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return false
		}
	}
}

// InFlight returns the number of calls that wait for the endpoint or are at it.
func (e *Endpoint) InFlight() int { return int(e.inFlight.Load()) }

// Connections returns the number of connections that take calls.
func (e *Endpoint) Connections() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.conns)
}

// Err returns why the last attempt to connect failed, or nil once one succeeded.
func (e *Endpoint) Err() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.err
}

// Close ends the endpoint at once: its connections are closed, and calls at it end with UNAVAILABLE. It returns when
// nothing is left running.
func (e *Endpoint) Close() {
	e.mu.Lock()
	e.closed = true
	e.setState()
	if e.retry != nil {
		e.retry.Stop()
	}
	conns := e.conns
	e.mu.Unlock()
	e.cancel()
	if e.local != nil {
		e.local.Close() //nolint:errcheck // always nil
	}
	for _, u := range conns {
		u.h2.Close()
	}
	e.runs.Wait()
	e.moveWaiting()
}

// setState derives the state. mu is held.
func (e *Endpoint) setState() {
	s := Connecting
	switch {
	case e.closed || e.retired:
		s = Closed
	case len(e.conns) > 0 && e.silent():
		s = Silent
	case len(e.conns) > 0:
		s = Ready
	case e.fails > 0:
		s = Failing
	}
	if State(e.state.Swap(int32(s))) == s {
		return
	}
	close(e.changed)
	e.changed = make(chan struct{})
	if h := e.cfg.OnState; h != nil {
		h(e, s, e.err)
	}
}

// dialLocked starts a connection. mu is held.
func (e *Endpoint) dialLocked() {
	if e.closed || e.retired {
		return
	}
	e.dialing++
	e.runs.Add(1)
	go e.run() // ends with the connection; Close closes it
}

// run makes one connection and reads it until it ends.
func (e *Endpoint) run() {
	defer e.runs.Done()
	u, err := e.connect()
	if err == nil {
		stop := context.AfterFunc(e.ctx, u.h2.Close)
		u.ticker = time.AfterFunc(tickInterval, u.tick)
		err = u.h2.Serve()
		u.ticker.Stop()
		stop()
	}
	e.connEnded(u, err)
}

// connect dials, and shakes hands where TLS is asked for.
func (e *Endpoint) connect() (*upConn, error) {
	ctx, cancel := context.WithTimeout(e.ctx, e.cfg.ConnectTimeout)
	defer cancel()
	nc, err := e.dial(ctx)
	if err != nil {
		return nil, err
	}
	u := &upConn{ep: e, scheme: "http"}
	if e.cfg.TLS != nil {
		u.scheme = "https"
		if nc, err = handshake(ctx, nc, e.currentTLS()); err != nil {
			return nil, err
		}
	}
	u.h2 = h2.New(nc, h2.Config{
		Client:           true,
		MaxHeaderBytes:   e.cfg.MaxHeaderBytes,
		SettingsTimeout:  e.cfg.ConnectTimeout,
		KeepaliveTime:    e.cfg.KeepaliveTime,
		KeepaliveTimeout: e.cfg.KeepaliveTimeout,
		KeepaliveRest:    pingRest,
		ShareReader:      e.cfg.ShareReader,
		Budget:           e.cfg.Buffer.budget,
	}, u)
	return u, nil
}

// dial makes the network connection.
func (e *Endpoint) dial(ctx context.Context) (net.Conn, error) {
	if e.cfg.Dial != nil {
		return e.cfg.Dial(ctx)
	}
	var d net.Dialer
	if path, ok := strings.CutPrefix(e.addr, "unix:"); ok {
		return d.DialContext(ctx, "unix", strings.TrimPrefix(path, "//"))
	}
	return d.DialContext(ctx, "tcp", e.addr)
}

// handshake shakes hands as a TLS client; the server must agree to HTTP/2 (RFC 9113 section 3.2).
func handshake(ctx context.Context, nc net.Conn, cfg *tls.Config) (net.Conn, error) {
	tc := tlsconn.Client(nc, cfg)
	if err := tc.HandshakeContext(ctx); err != nil {
		nc.Close() //nolint:errcheck // of no use any more
		return nil, fmt.Errorf("TLS handshake: %w", err)
	}
	if p := tc.ConnectionState().NegotiatedProtocol; p != "h2" {
		nc.Close() //nolint:errcheck // of no use any more
		return nil, fmt.Errorf("TLS handshake: server chose the protocol %q, expected h2", p)
	}
	return tc, nil
}

// pingRest is what gRPC servers want between two PINGs while they send nothing (gRFC A8: 5 min), and
// something for networks that jitter.
const pingRest = 5*time.Minute + 10*time.Second

var (
	errNoSettings = errors.New("connection ended before the server's SETTINGS")
	errShortLived = errors.New("connection was lost as soon as it was made")
)
