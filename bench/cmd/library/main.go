// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

// Command library measures what a proxied call costs package proxy and its
// ancestor, in turn, and prints a table. Its package bench says how.
//
//	go run ./cmd/library                     # all, in about two minutes
//	go run ./cmd/library -run unary -rounds 21
//	go run ./cmd/library -check              # fail when a promise is not kept
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/manifold-grpc/manifold/bench"
)

func main() {
	if bench.RunChild() {
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "library:", err)
		stop()
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("library", flag.ContinueOnError)
	var (
		slice  = flags.Duration("slice", 400*time.Millisecond, "`time` of load for each sample")
		rounds = flags.Int("rounds", 11, "`number` of samples for each workload and library")
		only   = flags.String("run", "", "measure only workloads that match the regular `expression`")
		dir    = flags.String("profile", "", "leave CPU profiles of the proxies in this `directory`")
		check  = flags.Bool("check", false, "fail when a ratio is above its target")
	)
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *rounds < 1 || *slice <= 0 {
		return errors.New("-rounds and -slice must be positive")
	}
	match, err := regexp.Compile(*only)
	if err != nil {
		return err
	}
	p, err := startSides(ctx, *dir)
	if err != nil {
		return err
	}
	defer p.stop()
	var results []result
	for _, w := range bench.Workloads() {
		if !match.MatchString(w.Name) {
			continue
		}
		r, err := p.compare(ctx, w, *rounds, *slice)
		if err != nil {
			return err
		}
		results = append(results, r)
	}
	fmt.Printf("Cost of a call to the proxy's process: medians of %[5]d samples of %[6]v, the libraries in turn.\n"+
		"Ratios are of CPU to the ancestor's: medians of neighbouring samples'. %[1]s/%[2]s, %[3]d CPUs, %[4]s.\n\n",
		runtime.GOOS, runtime.GOARCH, runtime.NumCPU(), runtime.Version(), *rounds, *slice)
	return report(results, *check)
}

// libraries are the sides of the comparison. The first is what the others are compared with.
var libraries = [...]bench.Library{bench.Ancestor, bench.Moved, bench.Manifold, bench.Channel}

const channel = len(libraries) - 1 // the side that has targets: package proxy at its leanest

// sides is a proxy over each library in front of the same backends.
type sides struct {
	proxies [len(libraries)]*bench.Process
	stops   []func()
}

func startSides(ctx context.Context, profiles string) (p *sides, err error) {
	p = new(sides)
	defer func() {
		if err != nil {
			p.stop()
		}
	}()
	var backends []string
	for range bench.FanOut {
		addr, stop, err := bench.StartBackend()
		if err != nil {
			return nil, err
		}
		p.stops = append(p.stops, stop)
		backends = append(backends, addr)
	}
	for i, l := range libraries {
		profile := ""
		if profiles != "" {
			profile = filepath.Join(profiles, string(l)+".pprof")
		}
		if p.proxies[i], err = bench.StartProcess(ctx, l, backends, profile); err != nil {
			return nil, err
		}
		p.stops = append(p.stops, p.proxies[i].Stop)
	}
	return p, nil
}

// stop ends the proxies and then the backends.
func (p *sides) stop() {
	for _, stop := range slices.Backward(p.stops) {
		stop()
	}
}

// result is what one workload costs each library.
type result struct {
	workload bench.Workload
	cost     [len(libraries)]bench.Sample // each field the median
	ratio    [len(libraries)]quartiles    // of CPU to the ancestor's, of neighbouring samples
}

// quartiles are a median and the quarters around it.
type quartiles struct{ median, low, high float64 }

// compare samples the libraries in turn. The order within a round of samples
// changes too, for what a machine does every other second.
func (p *sides) compare(ctx context.Context, w bench.Workload, rounds int, slice time.Duration) (result, error) {
	fmt.Fprintf(os.Stderr, "%s ...\n", w.Name)
	var (
		samples [len(libraries)][]bench.Sample
		ratios  [len(libraries)][]float64
	)
	for round := -1; round < rounds; round++ {
		var cost [len(libraries)]bench.Sample
		for i := range p.proxies {
			side := (i + round + 1) % len(p.proxies)
			s, err := p.proxies[side].Measure(ctx, w, slice)
			if err != nil {
				return result{}, fmt.Errorf("%s: %w", libraries[side], err)
			}
			cost[side] = s
		}
		if round < 0 { // warms up pools, connections and the CPU
			continue
		}
		for side, s := range cost {
			samples[side] = append(samples[side], s)
			ratios[side] = append(ratios[side], float64(s.CPU)/float64(cost[0].CPU))
		}
	}
	r := result{workload: w}
	for side := range libraries {
		r.cost[side] = medians(samples[side])
		slices.Sort(ratios[side])
		n := len(ratios[side])
		r.ratio[side] = quartiles{ratios[side][n/2], ratios[side][n/4], ratios[side][n-1-n/4]}
	}
	return r, nil
}

// medians returns the median of each field.
func medians(samples []bench.Sample) bench.Sample {
	return bench.Sample{
		CPU:     median(samples, func(s bench.Sample) time.Duration { return s.CPU }),
		Bytes:   median(samples, func(s bench.Sample) float64 { return s.Bytes }),
		Objects: median(samples, func(s bench.Sample) float64 { return s.Objects }),
		Wall:    median(samples, func(s bench.Sample) time.Duration { return s.Wall }),
	}
}

func median[T cmp.Ordered](samples []bench.Sample, field func(bench.Sample) T) T {
	values := make([]T, len(samples))
	for i, s := range samples {
		values[i] = field(s)
	}
	slices.Sort(values)
	return values[len(values)/2]
}

// report prints the table, and returns an error if it is to check the targets
// and one is missed.
func report(results []result, check bool) error {
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "\tCPU µs\t\t\t\tmoved\t\tmanifold\t\tchannel\t\t\tallocations\t\tKiB allocated\t\tlatency µs\t\t")
	fmt.Fprintln(w, "per call\tancestor\tmoved\tmanifold\tchannel\tratio\tquartiles\tratio\tquartiles\tratio\tquartiles\ttarget\tancestor\tchannel\tancestor\tchannel\tancestor\tchannel\t")
	missed := 0
	for _, r := range results {
		ratio := r.ratio[channel].median
		target := "-"
		if t := r.workload.Target; t > 0 && ratio <= t {
			target = fmt.Sprintf("%.2f ok", t)
		} else if t > 0 {
			target = fmt.Sprintf("%.2f MISSED", t)
			missed++
		}
		fmt.Fprintf(w, "%s\t%.1f\t%.1f\t%.1f\t%.1f", r.workload.Name,
			micros(r.cost[0].CPU), micros(r.cost[1].CPU), micros(r.cost[2].CPU), micros(r.cost[channel].CPU))
		for _, q := range r.ratio[1:] {
			fmt.Fprintf(w, "\t%.2f\t%.2f-%.2f", q.median, q.low, q.high)
		}
		a, m := r.cost[0], r.cost[channel]
		fmt.Fprintf(w, "\t%s\t%.0f\t%.0f\t%.1f\t%.1f\t%.0f\t%.0f\t\n",
			target, a.Objects, m.Objects, a.Bytes/1024, m.Bytes/1024, micros(a.Wall), micros(m.Wall))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if check && missed > 0 {
		return fmt.Errorf("%d of %d workloads cost more than their target", missed, len(results))
	}
	return nil
}

func micros(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }
