// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
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

// backendConfig is what a backend gets: how many calls a connection may have at once; 0: any number.
type backendConfig struct{ Streams uint32 }

// backendRole is a server of grpc-go's that forgives, unlike the one of the benchmark: it answers each message with
// itself, or with as many of them as it asks for, or after as many milliseconds.
func backendRole(text json.RawMessage, session *child.Session) error {
	var c backendConfig
	if err := json.Unmarshal(text, &c); err != nil {
		return err
	}
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	options := []grpc.ServerOption{grpc.ForceServerCodec(octets{}), grpc.UnknownServiceHandler(answer)}
	if c.Streams > 0 {
		options = append(options, grpc.MaxConcurrentStreams(c.Streams))
	}
	s := grpc.NewServer(options...)
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
		if strings.HasSuffix(method, "Hold") && len(m) >= 16 {
			select {
			case <-time.After(time.Duration(binary.BigEndian.Uint32(m[12:])) * time.Millisecond):
			case <-st.Context().Done():
				return st.Context().Err()
			}
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
	pin      bool // attackers get a core of their own
}

// parties are the processes of a measurement.
type parties struct {
	backend, load, attacker, sink *child.Child
	proxy                         *proxies.Running
	trash                         string // the sink's address
}

func (m *measurement) start(c backendConfig) (p *parties, err error) {
	p = &parties{}
	defer func() {
		if err != nil {
			p.stop()
		}
	}()
	var b, s hello
	if p.attacker, err = m.startHostile(roleAttacker, 1); err != nil {
		return nil, err
	}
	return p, m.on(false, func() (err error) {
		if p.backend, err = child.Start(m.ctx, roleBackend, c, 2, &b); err != nil {
			return err
		}
		if p.load, err = child.Start(m.ctx, roleLoad, nil, 1, nil); err != nil {
			return err
		}
		if p.sink, err = child.Start(m.ctx, roleSink, nil, 2, &s); err != nil {
			return err
		}
		p.trash = s.Addr
		kind, err := proxies.ByName(m.proxy)
		if err != nil {
			return err
		}
		p.proxy, err = kind.Start(m.ctx, proxies.Config{Backend: b.Addr, Threads: 2})
		return err
	})
}

// startHostile starts a process on the core of the attackers.
func (m *measurement) startHostile(role string, threads int) (c *child.Child, err error) {
	err = m.on(true, func() error {
		c, err = child.Start(m.ctx, role, nil, threads, nil)
		return err
	})
	return c, err
}

// on has start start processes, which run on the core of the attackers, or on the others.
func (m *measurement) on(hostile bool, start func() error) error {
	if !m.pin {
		return start()
	}
	return pinned(hostile, start)
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

// attacks prints a line for each attack: medians of its rounds, and how far the ratio to quiet went.
func (m *measurement) attacks(match *regexp.Regexp) error {
	fmt.Fprintf(m.out, "| attack | p99 quiet | same CPU elsewhere | attacked | ratio to quiet | to elsewhere | units/s | connections | relay's CPU | RSS grew by |\n|---|---|---|---|---|---|---|---|---|---|\n")
	for _, a := range attacks() {
		if !match.MatchString(a.name) {
			continue
		}
		lines, err := m.attack(a)
		if err != nil {
			return fmt.Errorf("%s: %w", a.name, err)
		}
		low, toQuiet, high := spread(lines, func(l line) float64 { return float64(l.attacked) / float64(max(l.quiet, 1)) })
		_, toElsewhere, _ := spread(lines, func(l line) float64 { return float64(l.attacked) / float64(max(l.control, 1)) })
		_, rate, _ := spread(lines, func(l line) float64 { return float64(l.did.Units) / m.duration.Seconds() })
		_, conns, _ := spread(lines, func(l line) int { return l.did.Connections })
		_, cpu, _ := spread(lines, func(l line) float64 { return l.cpu.Seconds() / m.duration.Seconds() })
		_, _, grown := spread(lines, func(l line) int64 { return l.grown })
		p99 := func(of func(line) time.Duration) time.Duration {
			_, d, _ := spread(lines, of)
			return d.Round(time.Microsecond)
		}
		fmt.Fprintf(m.out, "| %s | %v | %v | %v | %.1f (%.1f to %.1f) | %.1f | %.0f | %d | %.0f %% | %.1f MiB |\n", a.name,
			p99(func(l line) time.Duration { return l.quiet }), p99(func(l line) time.Duration { return l.control }),
			p99(func(l line) time.Duration { return l.attacked }), toQuiet, low, high, toElsewhere, rate, conns, 100*cpu, float64(grown)/(1<<20))
	}
	return nil
}

// spread returns the least, the median and the greatest of what lines have.
func spread[T cmp.Ordered](lines []line, of func(line) T) (low, median, high T) {
	var all []T
	for _, l := range lines {
		all = append(all, of(l))
	}
	slices.Sort(all)
	return all[0], all[len(all)/2], all[len(all)-1]
}

// line is what one round found: p99s, and what attacker and relay did meanwhile.
type line struct {
	quiet, attacked, control time.Duration
	did                      deed
	cpu                      time.Duration
	grown                    int64
}

// attack measures in turns: what else the machine does changes from one second to the next, and a ratio is of what was measured side by side.
func (m *measurement) attack(a attack) (lines []line, err error) {
	p, err := m.start(backendConfig{})
	if err != nil {
		return nil, err
	}
	defer p.stop()
	plan := bystander
	plan.Addr = p.proxy.Addr
	if err := p.load.Ask(load.Request{Open: &plan}, nil); err != nil {
		return nil, err
	}
	if _, _, err := p.calls(m.duration / 4); err != nil { // to warm up
		return nil, err
	}
	for range m.rounds {
		l, err := p.round(a, m.duration)
		if err != nil {
			return nil, err
		}
		lines = append(lines, l)
	}
	return lines, nil
}

// round measures once each: quiet, attacked, and while a sink is attacked.
func (p *parties) round(a attack, d time.Duration) (l line, err error) {
	quiet, idle, err := p.calls(d)
	if err != nil {
		return l, err
	}
	attacked, busy, did, err := p.while(order{a.name, p.proxy.Addr}, d)
	if err != nil {
		return l, err
	}
	// What the relay spent on the attack: without what the bystanders' calls cost it.
	spent := busy.CPU - idle.CPU*time.Duration(attacked.Calls)/time.Duration(max(quiet.Calls, 1))
	if err := p.sink.Ask(price{float64(max(spent, 0)) / float64(max(did.Octets, 1))}, nil); err != nil {
		return l, err
	}
	control, _, _, err := p.while(order{a.name, p.trash}, d)
	l = line{quiet.P99, attacked.P99, control.P99, did, busy.CPU, busy.RSS}
	return l, err
}

// calls has the bystander call for a time, and says what the proxy spent meanwhile.
func (p *parties) calls(d time.Duration) (r load.Result, u usage.Process, err error) {
	before, err := p.usage()
	if err != nil {
		return r, u, err
	}
	if err := p.load.Ask(load.Request{Run: d}, &r); err != nil {
		return r, u, err
	}
	after, err := p.usage()
	return r, usage.Process{CPU: after.CPU - before.CPU, RSS: after.RSS - before.RSS}, err
}

// usage is that of the proxy; none where there is none.
func (p *parties) usage() (usage.Process, error) {
	if p.proxy.PID == 0 {
		return usage.Process{}, nil
	}
	return usage.Of(p.proxy.PID)
}

// while measures while an attack goes on.
func (p *parties) while(o order, d time.Duration) (r load.Result, u usage.Process, did deed, err error) {
	if err := p.attacker.Ask(o, nil); err != nil {
		return r, u, did, err
	}
	r, u, err = p.calls(d)
	if serr := p.attacker.Ask(order{}, &did); err == nil {
		err = serr
	}
	return r, u, did, err
}
