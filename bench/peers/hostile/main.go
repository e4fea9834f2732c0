// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

// Command hostile measures what hostile and overwhelming clients do to others: the p99 of a
// bystander's calls through the relay while somebody attacks it, beside that of a quiet moment, and
// beside that while the same octets go to a process that spends on each as much CPU as the relay did, and has no
// part in the calls: what any program that is as busy costs on the same machine. Each party is a process of its own. docs/limits.md has its figures.
//
//	go run ./hostile                                  # all: about 3 minutes
//	go run ./hostile -pin                             # with a core for the attacker alone
//	go run ./hostile -only 'ping|overload' -duration 1s
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"os/signal"
	"regexp"
	"syscall"
	"time"

	"github.com/manifold-grpc/manifold/bench/peers/child"
	"github.com/manifold-grpc/manifold/bench/peers/load"
	"github.com/manifold-grpc/manifold/bench/peers/proxies"
)

// The roles of the processes beside the proxy.
const (
	roleBackend  = "backend"
	roleLoad     = "load"
	roleAttacker = "attacker"
	roleSink     = "sink"
	roleCrowd    = "crowd"
)

func roles() map[string]child.Role {
	all := proxies.Roles()
	maps.Copy(all, map[string]child.Role{roleBackend: backendRole, roleLoad: load.Role, roleAttacker: attackerRole, roleSink: sinkRole, roleCrowd: crowdRole})
	return all
}

func main() {
	if child.Run(roles()) {
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "hostile:", err)
		stop()
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out io.Writer) error {
	flags := flag.NewFlagSet("hostile", flag.ContinueOnError)
	only := flags.String("only", "", "only attacks whose names match the regular `expression`")
	duration := flags.Duration("duration", 3*time.Second, "`time` of each measurement")
	rounds := flags.Int("rounds", 5, "`number` of rounds of each attack: quiet, attacked, and the same octets elsewhere, in turn; medians are shown")
	proxy := flags.String("proxy", "relay", "`name` of the proxy: one of those of the benchmark, or direct for none")
	pin := flags.Bool("pin", false, "attackers and crowds get the last core for themselves, all others share the rest (Linux)")
	if err := flags.Parse(args); err != nil {
		return err
	}
	match, err := regexp.Compile(*only)
	if err != nil {
		return err
	}
	m := &measurement{ctx: ctx, out: out, duration: *duration, rounds: *rounds, proxy: *proxy, pin: *pin}
	if err := m.attacks(match); err != nil {
		return err
	}
	if match.MatchString("overload") {
		if err := m.overload(); err != nil {
			return err
		}
	}
	if match.MatchString("capacity") {
		return m.capacity()
	}
	return nil
}
