// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

// Command fanout measures what a call to many targets costs: package proxy and package relay beside the
// ancestor of package proxy, in one run. Its package bench says how.
//
//	go run ./cmd/fanout                       # 1, 5, 20 and 100 targets, in about two minutes
//	go run ./cmd/fanout -targets 5,20 -run unary -rounds 21
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
	"strconv"
	"strings"
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
		fmt.Fprintln(os.Stderr, "fanout:", err)
		stop()
		os.Exit(1)
	}
}

// options are those of the command line.
type options struct {
	slice   time.Duration
	rounds  int
	only    *regexp.Regexp
	profile string
	sides   []bench.Library
}

func run(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("fanout", flag.ContinueOnError)
	var o options
	flags.DurationVar(&o.slice, "slice", 300*time.Millisecond, "`time` of load for each sample")
	flags.IntVar(&o.rounds, "rounds", 9, "`number` of samples for each workload and side")
	flags.StringVar(&o.profile, "profile", "", "leave CPU profiles of the proxies in this `directory`")
	only := flags.String("run", "", "measure only workloads that match the regular `expression`")
	targets := flags.String("targets", "1,5,20,100", "`numbers` of targets")
	sides := flags.String("sides", "ancestor,manifold,relay,daemon", "what to measure, the first being what the others are compared to")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if o.rounds < 1 || o.slice <= 0 {
		return errors.New("-rounds and -slice must be positive")
	}
	var err error
	if o.only, err = regexp.Compile(*only); err != nil {
		return err
	}
	for s := range strings.SplitSeq(*sides, ",") {
		o.sides = append(o.sides, bench.Library(s))
	}
	fmt.Printf("CPU of the proxy's process per call: medians of %d samples of %v, the sides in turn; ratios to %s are\n"+
		"medians of neighbouring samples'. %s/%s, %d CPUs, %s.\n\n",
		o.rounds, o.slice, o.sides[0], runtime.GOOS, runtime.GOARCH, runtime.NumCPU(), runtime.Version())
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(w, "\t")
	for _, s := range o.sides {
		fmt.Fprintf(w, "%s µs\tratio\tallocations\t", s)
	}
	fmt.Fprintln(w)
	for field := range strings.SplitSeq(*targets, ",") {
		n, err := strconv.Atoi(field)
		if err != nil || n < 1 {
			return fmt.Errorf("-targets: %q is no number of targets", field)
		}
		if err := o.measure(ctx, n, w); err != nil {
			return err
		}
	}
	return w.Flush()
}

// measure prints the lines of calls to n targets.
func (o *options) measure(ctx context.Context, n int, w *tabwriter.Writer) (err error) {
	var stops []func()
	defer func() {
		for _, stop := range slices.Backward(stops) {
			stop()
		}
	}()
	var backends []string
	for range n {
		addr, stop, err := bench.StartBackend()
		if err != nil {
			return err
		}
		stops = append(stops, stop)
		backends = append(backends, addr)
	}
	processes := make([]*bench.Process, len(o.sides))
	for i, side := range o.sides {
		profile := ""
		if o.profile != "" {
			profile = filepath.Join(o.profile, fmt.Sprintf("%s-%d.pprof", side, n))
		}
		if processes[i], err = bench.StartProcess(ctx, side, backends, profile); err != nil {
			return err
		}
		stops = append(stops, processes[i].Stop)
	}
	for _, load := range bench.FanOuts(n) {
		if !o.only.MatchString(load.Name) {
			continue
		}
		fmt.Fprintln(os.Stderr, load.Name, "...")
		if err := o.compare(ctx, load, processes, w); err != nil {
			return err
		}
	}
	return nil
}

// compare samples all sides in turn and prints a line.
func (o *options) compare(ctx context.Context, load bench.Workload, processes []*bench.Process, w *tabwriter.Writer) error {
	samples := make([][]bench.Sample, len(processes))
	for round := -1; round < o.rounds; round++ {
		for i := range processes {
			side := (i + max(round, 0)) % len(processes)
			s, err := processes[side].Measure(ctx, load, o.slice)
			if err != nil {
				return fmt.Errorf("%s: %w", o.sides[side], err)
			}
			if round >= 0 { // the first warms up pools, connections and the CPU
				samples[side] = append(samples[side], s)
			}
		}
	}
	fmt.Fprintf(w, "%s\t", load.Name)
	for side := range processes {
		ratios := make([]float64, o.rounds)
		for i, s := range samples[side] {
			ratios[i] = float64(s.CPU) / float64(samples[0][i].CPU)
		}
		fmt.Fprintf(w, "%.1f\t%.2f\t%.0f\t",
			median(samples[side], func(s bench.Sample) float64 { return float64(s.CPU) / float64(time.Microsecond) }),
			median(ratios, func(r float64) float64 { return r }),
			median(samples[side], func(s bench.Sample) float64 { return s.Objects }))
	}
	fmt.Fprintln(w)
	return nil
}

// median returns the median of what of takes from each.
func median[S any, T cmp.Ordered](samples []S, of func(S) T) T {
	values := make([]T, len(samples))
	for i, s := range samples {
		values[i] = of(s)
	}
	slices.Sort(values)
	return values[len(values)/2]
}
