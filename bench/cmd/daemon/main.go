// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

// Command daemon measures what the daemon costs beyond the relay that it is made of: bare, with 100 routes,
// metrics and health checks, and with an access log to a file besides. Its package bench says how.
//
//	go run ./cmd/daemon                      # in about a minute and a half
//	go run ./cmd/daemon -run x32 -rounds 21
//	go run ./cmd/daemon -check               # fail when a promise is not kept
package main

import (
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
		fmt.Fprintln(os.Stderr, "daemon:", err)
		stop()
		os.Exit(1)
	}
}

// side is what is measured, with the most that it may cost as a part of the first one's.
type side struct {
	library bench.Library
	target  float64
}

var sides = []side{{bench.Relay, 0}, {bench.Daemon, 0}, {bench.Observed, 1.15}, {bench.Logged, 1.40}}

// workloads are the calls for which the targets hold: small ones, one at a time and many at once.
var workloads = []string{"unary-64B", "unary-64B-x32"}

type options struct {
	slice   time.Duration
	rounds  int
	profile string
}

func run(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("daemon", flag.ContinueOnError)
	var o options
	flags.DurationVar(&o.slice, "slice", 700*time.Millisecond, "`time` of load for each sample")
	flags.IntVar(&o.rounds, "rounds", 15, "`number` of samples for each workload and side")
	flags.StringVar(&o.profile, "profile", "", "leave CPU profiles of the proxies in this `directory`")
	only := flags.String("run", "", "measure only workloads that match the regular `expression`")
	check := flags.Bool("check", false, "fail when a ratio is above its target")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if o.rounds < 1 || o.slice <= 0 {
		return errors.New("-rounds and -slice must be positive")
	}
	match, err := regexp.Compile(*only)
	if err != nil {
		return err
	}
	proxies, stop, err := start(ctx, o.profile)
	defer stop()
	if err != nil {
		return err
	}
	fmt.Printf("Cost of a call to the proxy's process: medians of %d samples of %v, the sides in turn.\n"+
		"Ratios are of CPU to the relay's: medians, and quartiles, of neighbouring samples'. %s/%s, %d CPUs, %s.\n\n",
		o.rounds, o.slice, runtime.GOOS, runtime.GOARCH, runtime.NumCPU(), runtime.Version())
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "per call\t\tCPU µs\tratio\tquartiles\ttarget\tallocations\tKiB allocated\t")
	missed := 0
	for _, load := range bench.Workloads() {
		if !slices.Contains(workloads, load.Name) || !match.MatchString(load.Name) {
			continue
		}
		n, err := measure(ctx, w, proxies, load, &o)
		if err != nil {
			return err
		}
		missed += n
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if *check && missed > 0 {
		return fmt.Errorf("%d costs above their targets", missed)
	}
	return nil
}

// start runs the sides in front of one backend. stop ends what has begun, also after an error.
func start(ctx context.Context, profiles string) (proxies []*bench.Process, stop func(), err error) {
	var stops []func()
	stop = func() {
		for _, s := range slices.Backward(stops) {
			s()
		}
	}
	addr, end, err := bench.StartBackend()
	if err != nil {
		return nil, stop, err
	}
	stops = append(stops, end)
	for _, s := range sides {
		profile := ""
		if profiles != "" {
			profile = filepath.Join(profiles, string(s.library)+".pprof")
		}
		p, err := bench.StartProcess(ctx, s.library, []string{addr}, profile)
		if err != nil {
			return nil, stop, err
		}
		proxies, stops = append(proxies, p), append(stops, p.Stop)
	}
	return proxies, stop, nil
}

// measure samples the sides in turn, with another one first in each round, and prints a line for each. It returns how many miss
// their targets.
func measure(ctx context.Context, out *tabwriter.Writer, proxies []*bench.Process, load bench.Workload, o *options) (missed int, err error) {
	samples, ratios := make([][]bench.Sample, len(sides)), make([][]float64, len(sides))
	for round := -1; round < o.rounds; round++ {
		cost := make([]bench.Sample, len(sides))
		for i := range proxies {
			at := (i + round + 1) % len(proxies)
			if cost[at], err = proxies[at].Measure(ctx, load, o.slice); err != nil {
				return 0, fmt.Errorf("%s: %w", sides[at].library, err)
			}
		}
		if round < 0 { // warms up pools, connections and the CPU
			continue
		}
		for i, s := range cost {
			samples[i] = append(samples[i], s)
			ratios[i] = append(ratios[i], float64(s.CPU)/float64(cost[0].CPU))
		}
	}
	for i, s := range sides {
		slices.Sort(ratios[i])
		n := len(ratios[i])
		ratio, target := ratios[i][n/2], "-"
		if s.target > 0 {
			target = fmt.Sprintf("%.2f ok", s.target)
			if ratio > s.target {
				target = fmt.Sprintf("%.2f MISSED", s.target)
				missed++
			}
		}
		cpu := median(samples[i], func(s bench.Sample) float64 { return float64(s.CPU) / 1e3 })
		objects := median(samples[i], func(s bench.Sample) float64 { return s.Objects })
		octets := median(samples[i], func(s bench.Sample) float64 { return s.Bytes / 1024 })
		fmt.Fprintf(out, "%s\t%s\t%.2f\t%.2f\t%.2f-%.2f\t%s\t%.1f\t%.2f\t\n",
			load.Name, s.library, cpu, ratio, ratios[i][n/4], ratios[i][n-1-n/4], target, objects, octets)
	}
	return missed, nil
}

func median(samples []bench.Sample, field func(bench.Sample) float64) float64 {
	values := make([]float64, len(samples))
	for i, s := range samples {
		values[i] = field(s)
	}
	slices.Sort(values)
	return values[len(values)/2]
}
