// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"io"
	"math"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2/hpack"

	"github.com/manifold-grpc/manifold/bench/peers/child"
	"github.com/manifold-grpc/manifold/internal/h2/frame"
)

// An attack is a client that repeats itself as fast as it can, on one connection after the other.
type attack struct {
	name string
	// begin appends what a connection begins with, after its preface.
	begin func(*script)
	// unit appends the octets of unit i.
	unit func(s *script, i int)
	// mute attackers read nothing.
	mute bool
	// hold sends this many units and then keeps the connection open, and reads nothing of it.
	hold int
	// conns is the number of connections at a time; 0: one.
	conns int
	// pace is the pause between two writes; 0: none.
	pace time.Duration
}

func attacks() []attack {
	id := func(i int) uint32 { return uint32(2*i + 1) }
	open := func(s *script) { s.headers(1, 0) }
	reset := func(s *script, i int) {
		s.headers(id(i), 0)
		s.out = frame.AppendRST(s.out, id(i), frame.Cancel)
	}
	return []attack{
		{name: "rapid reset", unit: reset},
		{name: "rapid reset, 100 connections", conns: 100, unit: reset},
		{name: "made you reset", unit: func(s *script, i int) {
			s.headers(id(i), 0)
			s.out = frame.AppendWindowUpdate(s.out, id(i), 0)
		}},
		{name: "ping flood", unit: func(s *script, _ int) { s.out = frame.AppendPing(s.out, false, [8]byte{}) }},
		{name: "settings flood, unread", mute: true, unit: func(s *script, _ int) { s.out = frame.AppendSettings(s.out) }},
		{name: "empty data flood", begin: open, unit: func(s *script, _ int) { s.out = frame.AppendHeader(s.out, 0, frame.TypeData, 0, 1) }},
		{name: "calls that are refused", unit: func(s *script, i int) { s.request(id(i), frame.FlagEndStream, ":path", "/bad") }},
		{name: "header bombs", unit: func(s *script, i int) { s.bomb(id(i)) }},
		{name: "connections", unit: func(s *script, _ int) { s.out = append(s.out, strings.Repeat("\xff", 64)...) }},
		{name: "calls as fast as they go", unit: func(s *script, i int) {
			s.headers(id(i), 0)
			s.message(id(i), 0)
		}},
		{name: "200 unread streams of 1 MiB", conns: 2, hold: 100, unit: func(s *script, i int) {
			s.headers(id(i), 0)
			s.message(id(i), 1024)
		}},
		{name: "slow reader", begin: open, pace: 10 * time.Millisecond, unit: func(s *script, i int) {
			if i == 0 {
				s.message(1, 1<<20)
			}
			s.out = frame.AppendWindowUpdate(s.out, 1, 1)
			s.out = frame.AppendWindowUpdate(s.out, 0, 1)
		}},
	}
}

// script writes frames.
type script struct {
	out   []byte
	block bytes.Buffer
	enc   *hpack.Encoder
}

func newScript() *script {
	s := &script{}
	s.enc = hpack.NewEncoder(&s.block)
	return s
}

// request appends a header block; pairs come after the usual fields or, as pseudo-header fields, in their place.
func (s *script) request(id uint32, f frame.Flags, pairs ...string) {
	fields := []string{":method", "POST", ":scheme", "http", ":path", "/bench.Peers/Pull", "content-type", "application/grpc", "te", "trailers"}
	if len(pairs) > 1 && pairs[0] == ":path" {
		fields[5], pairs = pairs[1], pairs[2:]
	}
	s.block.Reset()
	for _, list := range [][]string{fields, pairs} {
		for i := 0; i < len(list); i += 2 {
			_ = s.enc.WriteField(hpack.HeaderField{Name: list[i], Value: list[i+1]})
		}
	}
	s.append(id, f)
}

func (s *script) append(id uint32, f frame.Flags) {
	s.out = frame.AppendHeader(s.out, s.block.Len(), frame.TypeHeaders, f|frame.FlagEndHeaders, id)
	s.out = append(s.out, s.block.Bytes()...)
}

func (s *script) headers(id uint32, f frame.Flags) { s.request(id, f) }

// bomb appends a block of which most octets stand for 4 KiB each.
func (s *script) bomb(id uint32) {
	s.request(id, frame.FlagEndStream, "bomb", strings.Repeat("x", 3900))
	s.block.Write(bytes.Repeat([]byte{0x80 | 62}, 4<<10))
	s.out = s.out[:0]
	s.append(id, frame.FlagEndStream)
}

// message appends a request of 1 KiB that wants so many answers of its size.
func (s *script) message(id uint32, want uint32) {
	payload := make([]byte, 1024)
	payload[12], payload[13], payload[14], payload[15] = byte(want>>24), byte(want>>16), byte(want>>8), byte(want)
	s.out = frame.AppendHeader(s.out, 5+len(payload), frame.TypeData, frame.FlagEndStream, id)
	s.out = append(append(s.out, 0, 0, 0, 4, 0), payload...)
}

// order tells an attacker what to do; an empty one has it stop.
type order struct{ Attack, Addr string }

// deed is what an attacker did.
type deed struct{ Units, Connections, Octets int }

// attackerRole attacks from one order to the next.
func attackerRole(_ json.RawMessage, session *child.Session) error {
	var quit chan struct{}
	var done chan deed
	return session.Serve(nil, func(text json.RawMessage) (any, error) {
		var o order
		if err := json.Unmarshal(text, &o); err != nil {
			return nil, err
		}
		if o.Attack == "" {
			close(quit)
			return <-done, nil
		}
		for _, a := range attacks() {
			if a.name == o.Attack {
				quit, done = make(chan struct{}), make(chan deed, 1)
				go func() { done <- a.all(quit, o.Addr) }() // ends by quit
			}
		}
		return nil, nil
	})
}

// all attacks on as many connections at once as the attack has, until quit is closed.
func (a attack) all(quit chan struct{}, addr string) (sum deed) {
	each := make([]deed, max(a.conns, 1))
	var running sync.WaitGroup
	for i := range each {
		running.Go(func() { each[i] = a.until(quit, addr) }) // ends by quit
	}
	running.Wait()
	for _, d := range each {
		sum.Units, sum.Connections, sum.Octets = sum.Units+d.Units, sum.Connections+d.Connections, sum.Octets+d.Octets
	}
	return sum
}

// until attacks on one connection after the other until quit is closed.
func (a attack) until(quit chan struct{}, addr string) (d deed) {
	for {
		select {
		case <-quit:
			return d
		default:
		}
		nc, err := net.Dial("tcp", addr)
		if err != nil {
			time.Sleep(time.Millisecond)
			continue
		}
		d.Connections++
		units, octets := a.play(quit, nc)
		d.Units, d.Octets = d.Units+units, d.Octets+octets
		_ = nc.Close()
	}
}

// play attacks on one connection until it ends or quit is closed.
func (a attack) play(quit chan struct{}, nc net.Conn) (units, octets int) {
	var reading sync.WaitGroup
	defer reading.Wait()
	defer nc.Close() //nolint:errcheck // over either way
	over := make(chan struct{})
	defer close(over)
	reading.Go(func() { // ends with over
		select {
		case <-quit:
			_ = nc.Close()
		case <-over:
		}
	})
	if !a.mute && a.hold == 0 {
		reading.Go(func() { _, _ = io.Copy(io.Discard, nc) }) // ends with the connection
	}
	s := newScript()
	s.out = frame.AppendSettings(append(s.out, frame.ClientPreface...), frame.Setting{ID: frame.SettingInitialWindowSize, Value: 1 << 20})
	s.out = frame.AppendWindowUpdate(s.out, 0, 1<<30)
	if a.begin != nil {
		a.begin(s)
	}
	n, err := nc.Write(s.out)
	if octets += n; err != nil {
		return 0, octets
	}
	s.out = s.out[:0]
	for units < 1<<29 {
		a.unit(s, units)
		units++
		held := a.hold > 0 && units == a.hold
		if len(s.out) < 16<<10 && a.pace == 0 && a.name != "header bombs" && !held {
			continue
		}
		n, err := nc.Write(s.out)
		if octets += n; err != nil {
			return units, octets
		}
		s.out = s.out[:0]
		if held {
			<-quit
			return units, octets
		}
		time.Sleep(a.pace)
	}
	return units, octets
}

// price is what a sink spends on each octet, in nanoseconds of CPU.
type price struct{ Octet float64 }

// sinkRole throws away what it is sent, and spends on it the price that it was told last.
func sinkRole(_ json.RawMessage, session *child.Session) error {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer lis.Close() //nolint:errcheck // over either way
	var octet atomic.Uint64
	go func() { // ends with lis
		for {
			nc, err := lis.Accept()
			if err != nil {
				return
			}
			go swallow(nc, &octet) // ends with the connection
		}
	}()
	return session.Serve(hello{lis.Addr().String()}, func(text json.RawMessage) (any, error) {
		var p price
		if err := json.Unmarshal(text, &p); err != nil {
			return nil, err
		}
		octet.Store(math.Float64bits(p.Octet))
		return nil, nil
	})
}

// swallow reads a connection to its end, with reads as long as the relay's.
func swallow(nc net.Conn, octet *atomic.Uint64) {
	defer nc.Close() //nolint:errcheck // over either way
	buf := make([]byte, 64<<10)
	for {
		n, err := nc.Read(buf)
		if err != nil {
			return
		}
		spend(time.Duration(float64(n) * math.Float64frombits(octet.Load())))
	}
}
