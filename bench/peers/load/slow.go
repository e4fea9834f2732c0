// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package load

import (
	"errors"
	"fmt"
	"math"
	"net"
	"sync"
	"time"
)

// smallBuffer is the receive buffer of a client that reads slowly, so that what it
// does not read is the proxy's to keep rather than its own kernel's.
const smallBuffer = 4 << 10

// readEvery is how often a client that reads slowly does so.
const readEvery = 250 * time.Millisecond

// Beside opens the connections of a plan and begins its calls, which are then read as
// slowly as Plan.Read says, until Close.
func (g *Generator) Beside(p Plan) error {
	if err := p.Call.check(); err != nil {
		return err
	}
	if p.Call.Hold || p.CA != "" {
		return errors.New("calls beside others are not held, and in plaintext")
	}
	for range p.Connections {
		// Far from the numbers of clients, so that no call has that of another.
		s, err := newSlow(p, math.MaxUint32-uint64(len(g.beside)))
		if err != nil {
			return fmt.Errorf("connection %d beside: %w", len(g.beside)+1, err)
		}
		g.beside = append(g.beside, s)
	}
	return nil
}

// slow is a client that reads slowly.
type slow struct {
	client *client
	conn   *throttle
	done   chan struct{} // closed when nobody reads any more

	mu  sync.Mutex
	err error // guarded by mu: why it ended before close
}

func newSlow(p Plan, number uint64) (*slow, error) {
	nc, err := net.DialTimeout("tcp", p.Addr, patience)
	if err != nil {
		return nil, err
	}
	if err := nc.(*net.TCPConn).SetReadBuffer(smallBuffer); err != nil {
		_ = nc.Close()
		return nil, err
	}
	s := &slow{conn: &throttle{Conn: nc, stop: make(chan struct{})}, done: make(chan struct{})}
	if s.client, err = openOver(s.conn, p, number); err != nil {
		return nil, err
	}
	c := s.client
	c.end = math.MaxInt64
	c.conn.Tick()
	if err = c.fill(); err == nil {
		err = c.conn.Serve(func() bool { return true }) // flushes, and reads nothing
	}
	if err == nil {
		err = nc.SetDeadline(time.Time{})
	}
	if err != nil {
		c.conn.Close()
		return nil, err
	}
	if p.Read == 0 {
		close(s.done)
		return s, nil
	}
	s.conn.rate = p.Read
	go s.read() // ends with close, or when the proxy ends the connection
	return s, nil
}

func (s *slow) read() {
	defer close(s.done)
	err := s.client.conn.Serve(func() bool { return false })
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = err
}

// failed returns why the client ended, if it did.
func (s *slow) failed() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

func (s *slow) close() {
	close(s.conn.stop)
	s.client.conn.Close()
	<-s.done
}

// throttle is a connection that is read at a rate.
type throttle struct {
	net.Conn
	rate int // octets per second; 0 means all that is there. It is set before Read is called from another goroutine.
	stop chan struct{}
}

func (t *throttle) Read(p []byte) (int, error) {
	if t.rate == 0 {
		return t.Conn.Read(p)
	}
	timer := time.NewTimer(readEvery)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-t.stop:
		return 0, net.ErrClosed
	}
	share := max(1, int(int64(t.rate)*int64(readEvery)/int64(time.Second)))
	return t.Conn.Read(p[:min(len(p), share)])
}
