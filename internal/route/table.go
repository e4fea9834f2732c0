// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package route

import (
	"cmp"
	"fmt"
	"iter"
	"maps"
	"net"
	"slices"
	"strings"
)

// Table finds routes. The zero value has none.
type Table struct {
	matches []Match
	exact   map[string]*hostTable // by host
	wild    map[string]*hostTable // by suffix, ".example.com"
	anyHost *hostTable
	asks    bool // a match has metadata
}

// hostTable is the routes of one host pattern.
type hostTable struct {
	exact      map[string]*serviceTable // by service
	globs      map[string]*serviceTable // by prefix, "shop.v1."
	anyService *serviceTable
}

// serviceTable is the routes of one service pattern, as indices into Table.matches,
// the most specific first.
type serviceTable struct {
	methods   map[string]*[]int
	anyMethod []int
}

// Conflict is a route that no call can take, since an earlier one asks the same.
type Conflict struct {
	Route, Earlier int    // indices
	Example        string // a call that both match
}

// New builds a table of matches that [Match.Check] finds nothing wrong with. The index of a match is the
// number of its route.
func New(matches []Match) (*Table, []Conflict) {
	t := &Table{matches: slices.Clone(matches), exact: map[string]*hostTable{}, wild: map[string]*hostTable{}}
	var conflicts []Conflict
	for i := range t.matches {
		m := &t.matches[i]
		t.asks = t.asks || len(m.Metadata) > 0
		list := t.host(m.Host).service(m.Service).list(m.Method)
		for _, j := range *list {
			if maps.Equal(t.matches[j].Metadata, m.Metadata) {
				conflicts = append(conflicts, Conflict{Route: i, Earlier: j, Example: m.example()})
				break
			}
		}
		*list = append(*list, i)
		slices.SortStableFunc(*list, func(a, b int) int {
			return cmp.Compare(len(t.matches[b].Metadata), len(t.matches[a].Metadata))
		})
	}
	return t, conflicts
}

// host returns the table of a host pattern, made at its first use.
func (t *Table) host(h string) *hostTable {
	if h == "" {
		return made(&t.anyHost)
	}
	if s, ok := hostSuffix(h); ok {
		return madeIn(t.wild, s)
	}
	return madeIn(t.exact, h)
}

// service returns the table of a service pattern.
func (h *hostTable) service(s string) *serviceTable {
	if s == "" || s == anyValue {
		return made(&h.anyService)
	}
	if p, ok := globPrefix(s); ok {
		if h.globs == nil {
			h.globs = map[string]*serviceTable{}
		}
		return madeIn(h.globs, p)
	}
	if h.exact == nil {
		h.exact = map[string]*serviceTable{}
	}
	return madeIn(h.exact, s)
}

// list returns the routes of a method; "" for those that name none.
func (s *serviceTable) list(method string) *[]int {
	if method == "" {
		return &s.anyMethod
	}
	if s.methods == nil {
		s.methods = map[string]*[]int{}
	}
	return madeIn(s.methods, method)
}

func made[T any](p **T) *T {
	if *p == nil {
		*p = new(T)
	}
	return *p
}

func madeIn[T any](m map[string]*T, key string) *T {
	p := m[key]
	if p == nil {
		p = new(T)
		m[key] = p
	}
	return p
}

// example returns a call that m matches, in words.
func (m *Match) example() string {
	host, service, method := m.Host, m.Service, m.Method
	if s, ok := hostSuffix(host); ok {
		host = "any" + s
	}
	if p, ok := globPrefix(service); ok {
		service = p + "Any"
	}
	if service == "" || service == anyValue {
		service = "any.Service"
	}
	if method == "" {
		method = "Any"
	}
	text := fmt.Sprintf("/%s/%s", service, method)
	if host != "" {
		text = host + text
	}
	for _, key := range slices.Sorted(maps.Keys(m.Metadata)) {
		text += fmt.Sprintf(" with %s: %s", key, m.Metadata[key])
	}
	return text
}

// Lookup returns the number of the route that c takes; ok is false if there is none.
func (t *Table) Lookup(c *Call) (route int, ok bool) {
	if len(t.exact) > 0 || len(t.wild) > 0 {
		if route, ok = t.ofHost(canonicalHost(c.Host), c); ok {
			return route, true
		}
	}
	return t.inHost(t.anyHost, c)
}

// ofHost looks among the routes that name hosts.
func (t *Table) ofHost(host string, c *Call) (route int, ok bool) {
	if route, ok = t.inHost(t.exact[host], c); ok {
		return route, true
	}
	for suffix := range suffixes(host) {
		if route, ok = t.inHost(t.wild[suffix], c); ok {
			return route, true
		}
	}
	return 0, false
}

// AsksMetadata reports whether a route asks for metadata. If none does, Lookup does not call [Call.Values].
func (t *Table) AsksMetadata() bool { return t.asks }

// inHost looks among the routes of one host pattern.
func (t *Table) inHost(h *hostTable, c *Call) (route int, ok bool) {
	if h == nil {
		return 0, false
	}
	if route, ok = t.inService(h.exact[c.Service], c); ok {
		return route, true
	}
	if h.globs != nil {
		for end := strings.LastIndexByte(c.Service, '.'); end >= 0; end = strings.LastIndexByte(c.Service[:end], '.') {
			if route, ok = t.inService(h.globs[c.Service[:end+1]], c); ok {
				return route, true
			}
		}
	}
	return t.inService(h.anyService, c)
}

// inService looks among the routes of one service pattern.
func (t *Table) inService(s *serviceTable, c *Call) (route int, ok bool) {
	if s == nil {
		return 0, false
	}
	if list := s.methods[c.Method]; list != nil {
		if route, ok = t.first(*list, c); ok {
			return route, true
		}
	}
	return t.first(s.anyMethod, c)
}

// first returns the first route whose metadata matches.
func (t *Table) first(list []int, c *Call) (route int, ok bool) {
	for _, i := range list {
		if t.matches[i].matches(c) {
			return i, true
		}
	}
	return 0, false
}

// suffixes yields what wildcards may end with, the longest first: ".b.com" and
// ".com" of "a.b.com".
func suffixes(host string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for {
			dot := strings.IndexByte(host, '.')
			if dot < 0 || !yield(host[dot:]) {
				return
			}
			host = host[dot+1:]
		}
	}
}

// canonicalHost returns a host in lower case without its port.
func canonicalHost(h string) string {
	if strings.IndexByte(h, ':') >= 0 {
		if host, _, err := net.SplitHostPort(h); err == nil {
			h = host
		}
	}
	return strings.ToLower(strings.TrimSuffix(h, "."))
}
