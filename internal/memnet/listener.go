// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package memnet

import (
	"context"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
)

// backlog is how many connections may wait for Accept before dialling blocks.
const backlog = 128

// Listener is a net.Listener whose connections come from DialContext.
type Listener struct {
	// BufSize is the buffer of each direction of the connections, as for Pipe; 0
	// means DefaultBuf. It is set before the first dial.
	BufSize int

	addr    Addr
	queue   chan *Conn
	done    chan struct{}
	close   sync.Once
	dialled atomic.Uint64
}

var _ net.Listener = (*Listener)(nil)

// Listen returns a listener. The name shows in addresses and need not be unique:
// who holds the listener can dial it, nobody else.
func Listen(name string) *Listener {
	return &Listener{addr: Addr(name), queue: make(chan *Conn, backlog), done: make(chan struct{})}
}

// DialContext connects to the listener and returns the client's end, a *Conn.
// As with TCP it does not wait for Accept, unless many connections do already;
// then ctx bounds the wait. It fails with syscall.ECONNREFUSED once the listener
// is closed.
func (l *Listener) DialContext(ctx context.Context) (net.Conn, error) {
	if err := ctx.Err(); err != nil {
		return nil, l.dialError(err)
	}
	if l.closed() {
		return nil, l.dialError(syscall.ECONNREFUSED)
	}
	local := l.addr + Addr("#"+strconv.FormatUint(l.dialled.Add(1), 10))
	client, server := pipe(l.BufSize, local, l.addr)
	select {
	case l.queue <- server:
	case <-l.done:
		return nil, l.dialError(syscall.ECONNREFUSED)
	case <-ctx.Done():
		return nil, l.dialError(ctx.Err())
	}
	if l.closed() {
		l.refuse() // Close may have emptied the queue before ours was in it
	}
	return client, nil
}

func (l *Listener) dialError(err error) error {
	return &net.OpError{Op: "dial", Net: l.addr.Network(), Addr: l.addr, Err: err}
}

// Accept returns the server's end of the next connection, a *Conn. It fails with
// net.ErrClosed once the listener is closed.
func (l *Listener) Accept() (net.Conn, error) {
	if l.closed() {
		return nil, l.acceptError()
	}
	select {
	case c := <-l.queue:
		return c, nil
	case <-l.done:
		return nil, l.acceptError()
	}
}

func (l *Listener) acceptError() error {
	return &net.OpError{Op: "accept", Net: l.addr.Network(), Addr: l.addr, Err: net.ErrClosed}
}

// Close ends Accept and DialContext. Connections that nobody has accepted are
// cut; accepted ones live on.
func (l *Listener) Close() error {
	l.close.Do(func() { close(l.done) })
	l.refuse()
	return nil
}

// refuse cuts the connections in the queue.
func (l *Listener) refuse() {
	for {
		select {
		case c := <-l.queue:
			c.Cut()
		default:
			return
		}
	}
}

func (l *Listener) closed() bool {
	select {
	case <-l.done:
		return true
	default:
		return false
	}
}

// Addr returns the listener's name as an address.
func (l *Listener) Addr() net.Addr { return l.addr }
