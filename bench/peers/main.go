// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

// Command peers measures what a call costs proxies, side by side: package relay,
// HAProxy, nginx, nghttpx, a proxy over grpc-go, and a TCP forwarder as the floor. How
// it does that, and how to read what it writes: docs/benchmarks.md.
//
//	./install.sh                                  # the peers, from Debian's packages
//	go run .                                      # all: about 20 minutes
//	go run . -quick                               # all, but in 4 minutes and less exact
//	go run . -ends grpc-go                        # between a client and a server of grpc-go's
//	go run . -proxies relay,tcp-forward -scenarios 1x100 -rounds 3 -duration 1s
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/manifold-grpc/manifold/bench/peers/backend"
	"github.com/manifold-grpc/manifold/bench/peers/child"
	"github.com/manifold-grpc/manifold/bench/peers/load"
	"github.com/manifold-grpc/manifold/bench/peers/proxies"
	"github.com/manifold-grpc/manifold/bench/peers/report"
	"github.com/manifold-grpc/manifold/bench/peers/wire"
)

// roles are what this program is when it starts itself.
func roles() map[string]child.Role {
	all := proxies.Roles()
	maps.Copy(all, map[string]child.Role{
		endsWire + roleBackend: backend.Role, endsWire + roleLoad: load.Role,
		endsGRPC + roleBackend: backend.StockRole, endsGRPC + roleLoad: load.StockRole,
	})
	return all
}

func main() {
	if child.Run(roles()) {
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "peers:", err)
		stop()
		os.Exit(1)
	}
}

// options are the flags.
type options struct {
	proxies, scenarios    string
	rounds, threads, join int
	ends                  string
	duration              time.Duration
	syscalls              bool
	profiles, out, from   string
	record                string
}

func parse(args []string) (o options, err error) {
	flags := flag.NewFlagSet("peers", flag.ContinueOnError)
	flags.StringVar(&o.proxies, "proxies", strings.Join(proxies.Defaults(), ","), "`names` of the proxies; also: "+proxies.Direct)
	flags.StringVar(&o.scenarios, "scenarios", "", "only scenarios whose names match the regular `expression`")
	quick := flags.Bool("quick", false, "the same as -rounds 1 -duration 300ms: what is wrong shows, what things cost only about")
	flags.IntVar(&o.rounds, "rounds", 5, "`number` of samples for each proxy and scenario")
	flags.DurationVar(&o.duration, "duration", time.Second, "`time` of load for each sample, after a quarter of it to warm up")
	flags.IntVar(&o.threads, "threads", 1, "`number` of threads for each proxy")
	flags.IntVar(&o.join, "join", wire.DefaultJoin, "`octets` that load and backend gather for a write, though they have more to send")
	flags.StringVar(&o.ends, "ends", endsWire, "who calls and who answers: "+endsWire+", which cost next to nothing, or "+endsGRPC+", client and server as most have them, for calls in a closed loop")
	flags.BoolVar(&o.syscalls, "syscalls", false, "count system calls too, with strace, in load of their own")
	flags.StringVar(&o.profiles, "profiles", "", "leave profiles of the Go proxies' CPU time and allocations in this `directory`")
	flags.StringVar(&o.out, "out", "results", "`directory` for results.json, table.md and cpu.svg")
	flags.StringVar(&o.from, "from", "", "measure nothing, but make table and plot from this results.json `file`")
	flags.StringVar(&o.record, "record", "", "put plot and tables into these `documents` too, with commas between them")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if *quick {
		o.rounds, o.duration = 1, 300*time.Millisecond
	}
	if o.ends != endsWire && o.ends != endsGRPC {
		return o, fmt.Errorf("-ends %q, expected %s or %s", o.ends, endsWire, endsGRPC)
	}
	if flags.NArg() > 0 || o.rounds < 1 || o.duration <= 0 || o.threads < 1 {
		return o, errors.New("expected no arguments, and -rounds, -duration and -threads above 0")
	}
	return o, nil
}

// run writes the tables to stdout, and what it is at to progress.
func run(ctx context.Context, args []string, stdout, progress io.Writer) error {
	o, err := parse(args)
	if errors.Is(err, flag.ErrHelp) {
		return nil
	}
	if err != nil {
		return err
	}
	var results *report.Run
	if o.from != "" {
		results, err = read(o.from)
	} else {
		results, err = measure(ctx, o, progress)
	}
	if err != nil {
		return err
	}
	if err := write(o.out, results); err != nil {
		return err
	}
	if o.record != "" {
		if err := record(strings.Split(o.record, ","), results); err != nil {
			return err
		}
	}
	fmt.Fprintln(stdout, results.Markdown())
	if n := results.Errors(); n > 0 {
		return fmt.Errorf("%d samples failed", n)
	}
	return nil
}

func read(file string) (*report.Run, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var r report.Run
	return &r, json.Unmarshal(text, &r)
}

// write leaves the measurements and what is made of them in dir.
func write(dir string, r *report.Run) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	text, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return err
	}
	for name, content := range map[string][]byte{
		"results.json": append(text, '\n'),
		"table.md":     []byte(r.Markdown()),
		"cpu.svg":      []byte(r.Plot()),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o644); err != nil {
			return err
		}
	}
	return nil
}
