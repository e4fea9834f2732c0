// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/manifold-grpc/manifold/internal/route"
)

// A Query is a call whose route is asked for.
type Query struct {
	Host            string
	Service, Method string
	Metadata        map[string][]string // keys in lower case
}

// call returns the query in the terms of package route.
func (q *Query) call() *route.Call {
	return &route.Call{Host: q.Host, Service: q.Service, Method: q.Method, Values: func(key string, yield func(string) bool) {
		for _, v := range q.Metadata[key] {
			if !yield(v) {
				return
			}
		}
	}}
}

// ExplainFile reads and checks a file as [Load] does, and writes to w which route a call takes and why.
func ExplainFile(w io.Writer, name string, q Query) error {
	text, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	s := Source{Name: name, Env: os.LookupEnv, Exists: readable}
	p, errs := s.parse(text)
	if len(errs) > 0 {
		return errs
	}
	_, err = io.WriteString(w, p.explain(name, q))

	return err
}

// Explain returns which route a call takes and why.
func (c *Config) Explain(q Query) string {
	p := &parsed{config: *c}

	return p.explain("", q)
}

// explain returns the answer, a line for each reason.
func (p *parsed) explain(file string, q Query) string {
	var b strings.Builder
	say := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	taken := p.order(q)

	if q.Service == HealthService && (len(taken) == 0 || p.config.Routes[taken[0]].Match.Service != HealthService) {
		say("%s: the daemon answers itself, no route has exactly this service", path(q))
		return b.String()
	}
	if len(taken) == 0 {
		say("%s: no route, answered with UNIMPLEMENTED", path(q))
		return b.String()
	}
	r := &p.config.Routes[taken[0]]
	say("%s: %s", path(q), p.where(file, taken[0]))
	for _, reason := range r.Match.reasons() {
		say("  matches by %s", reason)
	}
	if !r.Methods.Set().Lets("/"+q.Service+"/"+q.Method, q.Method) {
		say("  is denied with PERMISSION_DENIED: the route's methods do not let it through")
	} else {
		for _, effect := range r.effects() {
			say("  %s", effect)
		}
		for _, line := range r.policies(p.config.Backends) {
			say("  %s", line)
		}
	}
	if Guarded(q.Service) && !r.Match.Names() {
		say("  denied on frontends with TLS: the route does not name the service")
	}
	for i, other := range taken[1:] {
		say("goes before %s, which has %s", p.where(file, other), p.config.Routes[taken[i]].Match.before(&p.config.Routes[other].Match))
	}

	return b.String()
}

func path(q Query) string { return q.Host + "/" + q.Service + "/" + q.Method }

// where returns the name and place of a route.
func (p *parsed) where(file string, i int) string {
	name := fmt.Sprintf("routes[%d]", i)
	if file == "" {
		return name
	}
	pos := p.at.of(name)

	return fmt.Sprintf("%s (%s:%d:%d)", name, file, pos.line, pos.col)
}

// order returns all routes that match, the one that takes the call first.
func (p *parsed) order(q Query) []int {
	rest := p.config.matches()
	numbers := make([]int, len(rest))
	for i := range numbers {
		numbers[i] = i
	}
	var order []int
	for {
		table, _ := route.New(rest)
		i, ok := table.Lookup(q.call())
		if !ok {
			return order
		}
		order = append(order, numbers[i])
		rest, numbers = slices.Delete(rest, i, i+1), slices.Delete(numbers, i, i+1)
	}
}

// reasons returns what of m a call has met.
func (m *Match) reasons() []string {
	var reasons []string
	add := func(field, value string) {
		if value != "" && value != "*" {
			reasons = append(reasons, field+" "+value)
		}
	}
	add("host", m.Host)
	add("service", m.Service)
	add("method", m.Method)
	for _, key := range slices.Sorted(maps.Keys(m.Metadata)) {
		reasons = append(reasons, fmt.Sprintf("metadata %s: %s", key, m.Metadata[key]))
	}
	if len(reasons) == 0 {
		return []string{"asking nothing"}
	}

	return reasons
}

// before returns why m goes before another match of the same call: the first rule of precedence
// by which they differ.
func (m *Match) before(other *Match) string {
	switch {
	case m.Host != other.Host:
		return "a less specific host: " + orAny(other.Host)
	case m.Service != other.Service && (m.Names() || other.Names()):
		return "a less specific service: " + orAny(other.Service)
	case m.Method != other.Method:
		return "no method"
	case len(m.Metadata) != len(other.Metadata):
		return fmt.Sprintf("less metadata: %d, not %d", len(other.Metadata), len(m.Metadata))
	default:
		return "the same precedence and comes later"
	}
}

func orAny(pattern string) string {
	if pattern == "" || pattern == "*" {
		return "any"
	}

	return pattern
}

// effects returns what a route does with its calls.
func (r *Route) effects() []string {
	var effects []string
	add := func(given bool, format string, args ...any) {
		if given {
			effects = append(effects, fmt.Sprintf(format, args...))
		}
	}
	for _, t := range r.Backend {
		add(len(r.Backend) == 1, "goes to backend %s", t.Name)
		add(len(r.Backend) > 1, "goes to backend %s with weight %d", t.Name, t.Weight)
	}
	if r.FanOut != nil {
		effects = append(effects, r.FanOut.effects()...)
	}
	if r.Mirror != nil {
		effects = append(effects, r.Mirror.effect())
	}
	add(r.Deny != "", "is denied with %s", strings.ToUpper(string(r.Deny)))
	add(r.MaxDuration > 0, "may take %v", time.Duration(r.MaxDuration))
	add(r.IdleTimeout > 0, "may be idle for %v", time.Duration(r.IdleTimeout))
	add(r.MaxRequestMessage > 0, "may have messages of %d bytes", r.MaxRequestMessage)
	add(r.RequestHeaders != nil, "has its request headers changed")
	add(r.ResponseHeaders != nil, "has its response headers changed")

	return effects
}
