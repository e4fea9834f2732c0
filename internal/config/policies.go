// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
)

// policies returns how the backends of a route are treated, for people, in two lines each.
func (r *Route) policies(backends map[string]Backend) (lines []string) {
	var names []string
	for _, t := range r.Backend {
		names = append(names, t.Name)
	}
	if r.FanOut != nil {
		names = r.FanOut.names()
	}
	for i, name := range names {
		b, ok := backends[name]
		if !ok || slices.Contains(names[:i], name) {
			continue
		}
		what := []string{b.balanceText(), b.healthText(), b.Ejection.text()}
		if r.FanOut != nil && r.FanOut.Backend != "" {
			what = what[1:2] // each endpoint is a target, whatever its record
		}
		lines = append(lines, fmt.Sprintf("backend %s: %s", name, strings.Join(what, "; ")))
		what = []string{b.retryText(), b.Breaker.text()}
		if r.FanOut != nil {
			what[0] = "no retries of one-to-many calls"
		}
		lines = append(lines, fmt.Sprintf("backend %s: %s", name, strings.Join(what, "; ")))
	}

	return lines
}

func (b *Backend) balanceText() string {
	balance := string(cmp.Or(b.Balance, RoundRobin))
	if b.HashKey != "" {
		balance += " by " + b.HashKey
	}
	if b.Target != "" {
		return balance + " over what " + b.Target + " leads to"
	}

	return fmt.Sprintf("%s over %s", balance, plural(len(b.Endpoints), "endpoint"))
}

func (b *Backend) healthText() string {
	h := b.Health
	if h == nil {
		return "health not checked"
	}
	of := ""
	if h.Service != "" {
		of = " of " + h.Service
	}

	return fmt.Sprintf("health%s checked each %v, out after %s", of, orTime(h.Interval, 5*time.Second), plural(int(cmp.Or(h.Unhealthy, 2)), "failure"))
}

func (e *Ejection) text() string {
	if e.Disabled {
		return "no ejection"
	}

	return fmt.Sprintf("ejected for %v or more after %s in a row, or a high rate of them",
		orTime(e.BaseTime, 5*time.Second), plural(int(cmp.Or(e.Consecutive, 5)), "failed call"))
}

func (b *Backend) retryText() string {
	r := b.Retry
	if r == nil {
		return "retried only where provably no endpoint was reached"
	}
	var codes []string
	for _, c := range r.Codes {
		codes = append(codes, nameOf(c))
	}
	if len(codes) == 0 {
		codes = []string{"UNAVAILABLE"}
	}

	return fmt.Sprintf("up to %d attempts on %s, with a budget of %s", cmp.Or(r.MaxAttempts, 3), strings.Join(codes, ", "), plural(int(cmp.Or(r.Budget.MaxTokens, 10)), "token"))
}

func (b *Breaker) text() string {
	calls := "any number of calls at once"
	if b.MaxRequests > 0 {
		calls = "at most " + plural(int(b.MaxRequests), "call") + " at once"
	}

	return fmt.Sprintf("%s, %d waiting and %s for each endpoint", calls, cmp.Or(b.MaxPending, 1000), plural(int(cmp.Or(b.MaxConnections, 16)), "connection"))
}

// names returns the backends that the file names.
func (f *FanOut) names() []string {
	if f.Backend != "" {
		return []string{f.Backend}
	}

	return f.Backends
}

// plural returns a number of things.
func plural(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}

	return fmt.Sprintf("%d %ss", n, thing)
}
