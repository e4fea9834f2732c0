// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/manifold-grpc/manifold/bench/peers/backend"
	"github.com/manifold-grpc/manifold/bench/peers/load"
	"github.com/manifold-grpc/manifold/bench/peers/proxies"
	"github.com/manifold-grpc/manifold/bench/peers/report"
	"github.com/manifold-grpc/manifold/bench/peers/usage"
)

// sample starts a proxy, puts one slice of load on it, and ends it: what a proxy
// keeps of one load is no part of the next.
func (b *bench) sample(ctx context.Context, s Scenario, k proxies.Kind) (report.Sample, error) {
	dir, err := os.MkdirTemp(b.dir, k.Name)
	if err != nil {
		return report.Sample{}, err
	}
	cfg := proxies.Config{Backend: b.addr, Dir: dir, Threads: b.options.threads, Connections: s.connections(), Buffer: s.Buffer}
	if b.options.profiles != "" {
		cfg.Profile = filepath.Join(b.options.profiles, k.Name+"."+s.Name+".pprof")
	}
	plan := s.Load
	if s.TLS {
		cfg.TLS, plan.CA = &b.tls.files, b.tls.files.Cert
	}
	p, err := k.Start(ctx, cfg)
	if err != nil {
		return report.Sample{}, err
	}
	defer p.Stop()
	plan.Addr, plan.Join = p.Addr, b.options.join
	sample, err := b.under(ctx, s, plan, p, dir)
	if cerr := b.load.Ask(load.Request{Close: true}, nil); err == nil {
		err = cerr
	}
	return sample, b.explain(err)
}

// explain adds to an error what the backend knows of it. Its finding fault is an
// error by itself.
func (b *bench) explain(err error) error {
	var a backend.Answer
	if aerr := b.backend.Ask(nil, &a); aerr != nil {
		return fmt.Errorf("backend: %w", aerr)
	}
	switch {
	case a.Fault == "":
		return err
	case err == nil:
		return fmt.Errorf("%s", a.Fault)
	}
	return fmt.Errorf("%w; %s", err, a.Fault)
}

func (b *bench) under(ctx context.Context, s Scenario, plan load.Plan, p *proxies.Running, dir string) (report.Sample, error) {
	if plan.Call.Hold {
		return b.idle(plan, p)
	}
	if s.Beside.Connections > 0 {
		return b.beside(s, plan, p)
	}
	if err := b.load.Ask(load.Request{Open: &plan}, nil); err != nil {
		return report.Sample{}, err
	}
	if _, err := b.put(b.options.duration / 4); err != nil {
		return report.Sample{}, err
	}
	before, err := b.look(p)
	if err != nil {
		return report.Sample{}, err
	}
	result, err := b.put(b.options.duration)
	if err != nil {
		return report.Sample{}, err
	}
	after, err := b.look(p)
	if err != nil {
		return report.Sample{}, err
	}
	sample := sampleOf(after.since(before), float64(result.Calls*s.Units))
	sample.Rate = float64(result.Calls*s.Units) / result.Wall.Seconds()
	sample.P50, sample.P99 = result.P50, result.P99
	if b.options.syscalls && p.PID != 0 {
		sample.Syscalls, err = b.syscalls(ctx, s, p, dir)
	}
	return sample, err
}

// put puts load on the proxy for a time.
func (b *bench) put(d time.Duration) (r load.Result, err error) {
	return r, b.load.Ask(load.Request{Run: d}, &r)
}

// syscalls counts the proxy's system calls, per unit.
func (b *bench) syscalls(ctx context.Context, s Scenario, p *proxies.Running, dir string) (float64, error) {
	var result load.Result
	calls, err := usage.Syscalls(ctx, p.PID, dir, func() (err error) {
		result, err = b.put(b.options.duration / 2)
		return err
	})
	if err != nil {
		return 0, err
	}
	var sum float64
	units := float64(result.Calls * s.Units)
	for name, n := range calls {
		sum += float64(n)
		if float64(n) > units/1000 {
			fmt.Fprintf(b.progress, "  %-16s %8.3f\n", name, float64(n)/units)
		}
	}
	return sum / units, nil
}

// idle opens connections that do nothing, and tells what each of them takes.
func (b *bench) idle(plan load.Plan, p *proxies.Running) (report.Sample, error) {
	all := plan.Connections
	plan.Connections = 1
	if err := b.load.Ask(load.Request{Open: &plan}, nil); err != nil {
		return report.Sample{}, err
	}
	first, err := b.look(p)
	if err != nil {
		return report.Sample{}, err
	}
	plan.Connections = all
	if err := b.load.Ask(load.Request{Open: &plan}, nil); err != nil {
		return report.Sample{}, err
	}
	time.Sleep(b.options.duration / 2)
	before, err := b.look(p)
	if err != nil {
		return report.Sample{}, err
	}
	time.Sleep(b.options.duration / 2)
	after, err := b.look(p)
	if err != nil {
		return report.Sample{}, err
	}
	sample := sampleOf(after.since(before), float64(all))
	sample.Memory = max(0, float64(after.proxy.RSS-first.proxy.RSS)/float64(all))
	return sample, nil
}

// sight is what everybody has used up to a moment.
type sight struct {
	at      time.Time
	proxy   usage.Process
	ends    time.Duration // CPU of load and backend
	heap    proxies.Heap
	isGo    bool
	machine usage.Machine
}

func (b *bench) look(p *proxies.Running) (s sight, err error) {
	s.at = time.Now()
	if p.PID != 0 {
		if s.proxy, err = usage.Of(p.PID); err != nil {
			return s, err
		}
	}
	for _, pid := range []int{b.load.PID(), b.backend.PID()} {
		u, err := usage.Of(pid)
		if err != nil {
			return s, err
		}
		s.ends += u.CPU
	}
	if s.heap, s.isGo, err = p.Heap(); err != nil {
		return s, err
	}
	s.machine, err = usage.OfMachine()
	return s, err
}

// since returns what was used between two sights; what is no sum stays as it is.
func (s sight) since(before sight) (d sight) {
	d = s
	d.proxy.CPU -= before.proxy.CPU
	d.proxy.Switches -= before.proxy.Switches
	d.ends -= before.ends
	d.heap.Objects -= before.heap.Objects
	d.machine.Busy -= before.machine.Busy
	d.machine.Stole -= before.machine.Stole
	d.at = time.Time{}.Add(s.at.Sub(before.at))
	return d
}

func sampleOf(d sight, units float64) report.Sample {
	sample := report.Sample{
		CPU:      float64(d.proxy.CPU) / units,
		RSS:      d.proxy.RSS,
		Switches: float64(d.proxy.Switches) / units,
		EndsCPU:  float64(d.ends) / units,
		Objects:  -1,
		Syscalls: -1,
	}
	if d.isGo {
		sample.Objects = float64(d.heap.Objects) / units
	}
	wall := d.at.Sub(time.Time{}) * time.Duration(runtime.NumCPU())
	others := d.machine.Busy + d.machine.Stole - d.proxy.CPU - d.ends
	sample.Others = min(1, max(0, float64(others)/float64(wall)))
	return sample
}
