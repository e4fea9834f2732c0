// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/manifold-grpc/manifold/bench/peers/backend"
	"github.com/manifold-grpc/manifold/bench/peers/child"
	"github.com/manifold-grpc/manifold/bench/peers/proxies"
	"github.com/manifold-grpc/manifold/bench/peers/report"
)

// The kinds of ends, and their roles: a process has the names of both.
const (
	endsWire    = "wire"    // package wire's
	endsGRPC    = "grpc-go" // grpc-go's
	roleBackend = " backend"
	roleLoad    = " load"
)

// bench is the benchmark with the two processes that all proxies share.
type bench struct {
	options  options
	progress io.Writer
	dir      string // for files of the run
	tls      *certificate
	load     *child.Child
	backend  *child.Child
	addr     string // of the backend
}

// measure runs the benchmark.
func measure(ctx context.Context, o options, progress io.Writer) (*report.Run, error) {
	some, err := chosen(o.scenarios, o.ends)
	if err != nil {
		return nil, err
	}
	kinds, err := kindsOf(o.proxies)
	if err != nil {
		return nil, err
	}
	b, err := start(ctx, o, progress)
	if err != nil {
		return nil, err
	}
	defer b.stop()
	r := &report.Run{
		Date: time.Now().UTC().Format("2006-01-02 15:04 UTC"), Machine: machine(),
		Rounds: o.rounds, Duration: o.duration, Threads: o.threads,
	}
	if o.ends != endsWire {
		r.Ends = o.ends
	}
	for _, k := range kinds {
		version := k.Version(ctx)
		r.Proxies = append(r.Proxies, report.Proxy{Name: k.Name, About: k.About, Version: version, Peer: k.Peer, Floor: k.Name == proxies.Forward})
	}
	for _, s := range some {
		result, err := b.scenario(ctx, s, kinds)
		if err != nil {
			return nil, err
		}
		r.Scenarios = append(r.Scenarios, result)
	}
	return r, nil
}

func kindsOf(names string) ([]proxies.Kind, error) {
	var kinds []proxies.Kind
	for name := range strings.SplitSeq(names, ",") {
		k, err := proxies.ByName(name)
		if err != nil {
			return nil, err
		}
		if err := k.Installed(); err != nil {
			return nil, err
		}
		kinds = append(kinds, k)
	}
	return kinds, nil
}

// start starts the two ends.
func start(ctx context.Context, o options, progress io.Writer) (b *bench, err error) {
	b = &bench{options: o, progress: progress}
	defer func() {
		if err != nil {
			b.stop()
		}
	}()
	if b.dir, err = os.MkdirTemp("", "peers"); err != nil {
		return nil, err
	}
	if b.tls, err = newCertificate(b.dir); err != nil {
		return nil, err
	}
	var hello backend.Hello
	// One thread for each end: their work is the same for all proxies, and takes
	// no CPU from them but that of its own thread.
	if b.backend, err = child.Start(ctx, o.ends+roleBackend, backend.Config{Join: o.join}, 1, &hello); err != nil {
		return nil, err
	}
	b.addr = hello.Addr
	b.load, err = child.Start(ctx, o.ends+roleLoad, nil, 1, nil)
	return b, err
}

func (b *bench) stop() {
	for _, c := range []*child.Child{b.load, b.backend} {
		if c != nil {
			c.Stop()
		}
	}
	if b.dir != "" {
		_ = os.RemoveAll(b.dir)
	}
}

// scenario measures all proxies in turn, round by round. Each round starts with
// another one, for what a machine does now and then.
func (b *bench) scenario(ctx context.Context, s Scenario, kinds []proxies.Kind) (report.Scenario, error) {
	result := report.Scenario{Name: s.Name, Title: s.Title, Unit: s.Unit, Cost: s.Cost, Bars: s.Bars, Cells: make([]report.Cell, len(kinds))}
	for i, k := range kinds {
		result.Cells[i].Proxy, result.Cells[i].Skipped = k.Name, k.Refuses(s.connections())
	}
	for round := range b.options.rounds {
		for i := range kinds {
			which := (i + round) % len(kinds)
			cell := &result.Cells[which]
			if cell.Skipped != "" {
				continue
			}
			sample, err := b.sample(ctx, s, kinds[which])
			if ctx.Err() != nil {
				return result, ctx.Err()
			}
			if err != nil {
				fmt.Fprintf(b.progress, "%-20s %-12s round %d: %v\n", s.Name, cell.Proxy, round+1, err)
				cell.Errors = append(cell.Errors, err.Error())
				continue
			}
			sample.Round = round
			cell.Samples = append(cell.Samples, sample)
			fmt.Fprintf(b.progress, "%-20s %-12s round %d: %8.2f µs/%s\n", s.Name, cell.Proxy, round+1, sample.CPU/1000, s.Unit)
		}
	}
	return result, nil
}

// machine describes what the benchmark runs on.
func machine() string {
	var u unix.Utsname
	kernel := "kernel unknown"
	if err := unix.Uname(&u); err == nil {
		kernel = unix.ByteSliceToString(u.Sysname[:]) + " " + unix.ByteSliceToString(u.Release[:])
	}
	model := "unknown CPU"
	if text, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(text)) {
			if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
				model = strings.TrimSpace(value)
				break
			}
		}
	}
	return fmt.Sprintf("%d × %s, %s, %s", runtime.NumCPU(), model, kernel, runtime.Version())
}
