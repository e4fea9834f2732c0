// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"regexp"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/manifold-grpc/manifold/bench/peers/child"
	"github.com/manifold-grpc/manifold/bench/peers/load"
	"github.com/manifold-grpc/manifold/bench/peers/proxies"
	"github.com/manifold-grpc/manifold/bench/peers/usage"
)

// hello is what backend and sink start with.
type hello struct{ Addr string }

// octets is a codec that takes messages as they are.
type octets struct{}

func (octets) Marshal(v any) ([]byte, error)   { return *v.(*[]byte), nil }
func (octets) Unmarshal(p []byte, v any) error { *v.(*[]byte) = slices.Clone(p); return nil }
func (octets) Name() string                    { return "octets" }

// backendRole is a server of grpc-go's that forgives, unlike the one of the benchmark: it answers each message with
// itself, or with as many of them as it asks for.
func backendRole(_ json.RawMessage, session *child.Session) error {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	s := grpc.NewServer(grpc.ForceServerCodec(octets{}), grpc.UnknownServiceHandler(answer))
	go s.Serve(lis) //nolint:errcheck // ends with Stop
	defer s.Stop()
	return session.Serve(hello{lis.Addr().String()}, func(json.RawMessage) (any, error) { return nil, nil })
}

func answer(_ any, st grpc.ServerStream) error {
	if err := st.SetHeader(metadata.Pairs("bench-leading", "header")); err != nil {
		return err
	}
	st.SetTrailer(metadata.Pairs("bench-trailing", "trailer"))
	method, _ := grpc.MethodFromServerStream(st)
	for {
		var m []byte
		if err := st.RecvMsg(&m); err != nil {
			if err == io.EOF {
				return nil
			}
			return err
		}
		n := 1
		if strings.HasSuffix(method, "Pull") && len(m) >= 16 {
			n = int(binary.BigEndian.Uint32(m[12:]))
		}
		for range n {
			if err := st.SendMsg(&m); err != nil {
				return err
			}
		}
	}
}

// measurement is a run of the command.
type measurement struct {
	ctx      context.Context
	out      io.Writer
	duration time.Duration
	rounds   int
	proxy    string
}

// parties are the processes of a measurement.
type parties struct {
	backend, load, attacker, sink *child.Child
	proxy                         *proxies.Running
	trash                         string // the sink's address
}

func (m *measurement) start() (p *parties, err error) {
	p = &parties{}
	defer func() {
		if err != nil {
			p.stop()
		}
	}()
	var b, s hello
	if p.backend, err = child.Start(m.ctx, roleBackend, nil, 2, &b); err != nil {
		return nil, err
	}
	if p.load, err = child.Start(m.ctx, roleLoad, nil, 1, nil); err != nil {
		return nil, err
	}
	if p.attacker, err = child.Start(m.ctx, roleAttacker, nil, 1, nil); err != nil {
		return nil, err
	}
	if p.sink, err = child.Start(m.ctx, roleSink, nil, 1, &s); err != nil {
		return nil, err
	}
	p.trash = s.Addr
	kind, err := proxies.ByName(m.proxy)
	if err != nil {
		return nil, err
	}
	p.proxy, err = kind.Start(m.ctx, proxies.Config{Backend: b.Addr, Threads: 2})
	return p, err
}

func (p *parties) stop() {
	if p.proxy != nil {
		p.proxy.Stop()
	}
	for _, c := range []*child.Child{p.load, p.attacker, p.sink, p.backend} {
		if c != nil {
			c.Stop()
		}
	}
}

// bystander is two clients with a call at a time.
var bystander = load.Plan{Connections: 2, Streams: 1, Call: load.Call{Size: 64, Trips: 1}, Join: 1}

// attacks prints a line for each attack.
func (m *measurement) attacks(match *regexp.Regexp) error {
	fmt.Fprintf(m.out, "| attack | p99 quiet | attacked | ratio | octets to a sink | units/s | connections | relay's CPU | RSS grew by |\n|---|---|---|---|---|---|---|---|---|\n")
	for _, a := range attacks() {
		if !match.MatchString(a.name) {
			continue
		}
		var lines []line
		for range m.rounds {
			l, err := m.attack(a)
			if err != nil {
				return fmt.Errorf("%s: %w", a.name, err)
			}
			lines = append(lines, l)
		}
		slices.SortFunc(lines, func(x, y line) int { return int(x.attacked - y.attacked) })
		l := lines[len(lines)/2]
		fmt.Fprintf(m.out, "| %s | %v | %v | %.1f | %v | %.0f | %d | %.0f %% | %.1f MiB |\n", a.name, l.quiet.Round(time.Microsecond), l.attacked.Round(time.Microsecond),
			float64(l.attacked)/float64(l.quiet), l.control.Round(time.Microsecond), float64(l.did.Units)/m.duration.Seconds(), l.did.Connections,
			100*l.cpu.Seconds()/m.duration.Seconds(), float64(l.grown)/(1<<20))
	}
	return nil
}

// line is what one measurement found: p99s, and what attacker and relay did meanwhile.
type line struct {
	quiet, attacked, control time.Duration
	did                      deed
	cpu                      time.Duration
	grown                    int64
}

func (m *measurement) attack(a attack) (l line, err error) {
	p, err := m.start()
	if err != nil {
		return l, err
	}
	defer p.stop()
	plan := bystander
	plan.Addr = p.proxy.Addr
	if err := p.load.Ask(load.Request{Open: &plan}, nil); err != nil {
		return l, err
	}
	if _, err := p.p99(m.duration / 4); err != nil { // to warm up
		return l, err
	}
	if l.quiet, err = p.p99(m.duration); err != nil {
		return l, err
	}
	if l.control, _, err = p.while(order{a.name, p.trash}, m.duration); err != nil {
		return l, err
	}
	before, err := usage.Of(p.proxy.PID)
	if err != nil {
		return l, err
	}
	if l.attacked, l.did, err = p.while(order{a.name, p.proxy.Addr}, m.duration); err != nil {
		return l, err
	}
	after, err := usage.Of(p.proxy.PID)
	l.cpu, l.grown = after.CPU-before.CPU, after.RSS-before.RSS
	return l, err
}

// p99 has the bystander call for a time.
func (p *parties) p99(d time.Duration) (time.Duration, error) {
	var r load.Result
	err := p.load.Ask(load.Request{Run: d}, &r)
	return r.P99, err
}

// while measures while an attack goes on.
func (p *parties) while(o order, d time.Duration) (p99 time.Duration, did deed, err error) {
	if err := p.attacker.Ask(o, nil); err != nil {
		return 0, did, err
	}
	p99, err = p.p99(d)
	if serr := p.attacker.Ask(order{}, &did); err == nil {
		err = serr
	}
	return p99, did, err
}
