// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/net/http2/hpack"

	"github.com/manifold-grpc/manifold/bench/peers/child"
	"github.com/manifold-grpc/manifold/bench/peers/wire"
)

const (
	// crowdSize is the length of the messages.
	crowdSize = 8 << 10
	// perConnection is how many calls a connection has at once.
	perConnection = 100
	// crowdPatience is how long a connection may take to begin, and its last calls to end.
	crowdPatience = 20 * time.Second
)

// crowdPlan is what a crowd does: as many connections with as many calls at once as there may be, for a time.
type crowdPlan struct {
	Addr        string
	Connections int
	Duration    time.Duration
	Hold        time.Duration // the backend answers after it
	Pause       time.Duration // after a refused call
}

// crowdResult counts its calls by their status.
type crowdResult struct {
	Codes map[string]int
	Wall  time.Duration
}

// crowdRole is a crowd as a process. A call that was refused is made again after a pause, as clients do. It speaks the protocol by
// package wire: thousands of calls of grpc-go's would take the CPU that is to be measured.
func crowdRole(_ json.RawMessage, session *child.Session) error {
	return session.Serve(nil, func(text json.RawMessage) (any, error) {
		var p crowdPlan
		if err := json.Unmarshal(text, &p); err != nil {
			return nil, err
		}
		return p.run()
	})
}

func (p crowdPlan) run() (r crowdResult, err error) {
	members := make([]*member, p.Connections)
	for i := range members {
		if members[i], err = p.join(uint64(i)); err != nil {
			return r, err
		}
		defer members[i].conn.Close()
	}
	r.Codes = map[string]int{}
	var mu sync.Mutex
	var errs []error
	var running sync.WaitGroup
	begin := time.Now()
	for _, m := range members {
		running.Go(func() { // ends by the time
			err := m.callUntil(begin.Add(p.Duration))
			mu.Lock()
			defer mu.Unlock()
			errs = append(errs, err)
			for code, n := range m.ended {
				r.Codes[code] += n
			}
		})
	}
	running.Wait()
	r.Wall = time.Since(begin)
	return r, errors.Join(errs...)
}

// A member is a connection of a crowd.
type member struct {
	plan    crowdPlan
	nc      net.Conn
	conn    *wire.Conn
	request *wire.Template
	nextID  uint64
	ended   map[string]int
	waiting []time.Duration // when refused calls are made again, by conn.Now
	last    time.Duration   // after it nothing counts
}

// memberCall is a call under way.
type memberCall struct {
	id       uint64
	messages int
	code     string
}

var _ wire.Side = (*member)(nil)

// join connects member number i.
func (p crowdPlan) join(i uint64) (*member, error) {
	path := "/bench.Peers/Echo"
	if p.Hold > 0 {
		path = "/bench.Peers/Hold"
	}
	m := &member{plan: p, nextID: i << 32, ended: map[string]int{}, request: wire.NewTemplate(":method", "POST", ":scheme", "http", ":path", path,
		":authority", "localhost", "content-type", "application/grpc", "user-agent", "grpc-go/1.85.0", "te", "trailers")}
	nc, err := net.DialTimeout("tcp", p.Addr, crowdPatience)
	if err != nil {
		return nil, err
	}
	if err := nc.SetDeadline(time.Now().Add(crowdPatience)); err != nil {
		return nil, errors.Join(err, nc.Close())
	}
	m.nc = nc
	m.conn, err = wire.NewClient(nc, m, wire.DefaultJoin)
	return m, err
}

// callUntil calls until end.
func (m *member) callUntil(end time.Time) error {
	if err := m.nc.SetDeadline(end.Add(crowdPatience)); err != nil {
		return err
	}
	m.conn.Tick()
	m.last = m.conn.Now() + time.Until(end)
	for range perConnection {
		if err := m.call(); err != nil {
			return err
		}
	}
	for {
		m.conn.Tick()
		for len(m.waiting) > 0 && m.waiting[0] <= m.conn.Now() {
			m.waiting = m.waiting[1:]
			if err := m.call(); err != nil {
				return err
			}
		}
		if m.conn.Now() >= m.last {
			return nil
		}
		next := m.next()
		if err := m.nc.SetReadDeadline(time.Now().Add(next - m.conn.Now())); err != nil {
			return err
		}
		// Until then, or until something is due before.
		err := m.conn.Serve(func() bool { return m.conn.Now() >= next || m.next() != next })
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			return err
		}
	}
}

// next is when there is something to do, whatever arrives.
func (m *member) next() time.Duration {
	if len(m.waiting) > 0 {
		return min(m.last, m.waiting[0])
	}
	return m.last
}

// call makes a call.
func (m *member) call() error {
	s := m.conn.Open(m.request, hpack.HeaderField{})
	k, ok := s.User.(*memberCall)
	if !ok {
		k = new(memberCall)
		s.User = k
	}
	*k = memberCall{id: m.nextID}
	m.nextID++
	if err := s.SendLast(wire.Head{Call: k.id, Want: uint32(m.plan.Hold / time.Millisecond)}, crowdSize, 1); err != nil {
		return err
	}
	return m.conn.FlushJoined()
}

// Block notes the status.
func (m *member) Block(s *wire.Stream, b *wire.Block, end bool) error {
	if b.Get(":status") != "" && b.Get(":status") != "200" {
		return fmt.Errorf("HTTP status %q", b.Get(":status"))
	}
	if end {
		s.User.(*memberCall).code = b.Get("grpc-status")
	}
	return nil
}

// Message checks that the answer is the call's own.
func (m *member) Message(s *wire.Stream, h wire.Head, size int) error {
	k := s.User.(*memberCall)
	if k.messages++; h.Call != k.id || size != crowdSize {
		return fmt.Errorf("call %d got an answer to %d of %d octets", k.id, h.Call, size)
	}
	return nil
}

// End counts the call, and has another follow: at once, or after a pause.
func (m *member) End(s *wire.Stream) error {
	k := s.User.(*memberCall)
	switch {
	case k.code == "":
		return errors.New("a call ended without a status")
	case k.code == "0" && k.messages != 1:
		return fmt.Errorf("a call succeeded with %d messages", k.messages)
	case m.conn.Now() >= m.last:
		return nil
	}
	m.ended[k.code]++
	if k.code == "0" {
		return m.call()
	}
	m.waiting = append(m.waiting, m.conn.Now()+m.plan.Pause)
	return nil
}
