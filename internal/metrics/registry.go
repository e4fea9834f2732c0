// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"slices"
	"strings"
	"sync"
)

// A Registry holds the cells and the counters of frontends and backends. The zero value is ready; its methods are safe for
// concurrent use.
type Registry struct {
	mu sync.Mutex
	// Guarded by mu.
	cells      map[Key]*Cell
	frontends  map[string]*Frontend
	backends   map[string]*Backend
	generation uint64
}

// A Pattern is what a route asks of services and methods: names, a glob such as "shop.v1.*" for the service, or
// empty for any.
type Pattern struct{ Service, Method string }

// label returns the labels of methods that have no name of their own.
func (p Pattern) label() (service, method string) {
	switch {
	case p.Service == "" || p.Service == "*":
		return Other, Other
	case p.Method == "":
		return p.Service, "*"
	default:
		return p.Service, p.Method
	}
}

// takes reports whether a method may be one of the pattern's.
func (p Pattern) takes(service, method string) bool {
	if prefix, ok := strings.CutSuffix(p.Service, "*"); ok {
		return strings.HasPrefix(service, prefix)
	}

	return (p.Service == "" || p.Service == service) && (p.Method == "" || p.Method == method)
}

// Methods are methods that may be named, by their paths, "/service/method".
type Methods map[string]Kind

// A Route finds the cells of one route's calls to one backend. It does not change.
type Route struct {
	pattern *Cell            // of what has no name
	named   map[string]*Cell // by path; nil if there are none
}

// Cell returns the cell of a method, by its path.
func (r *Route) Cell(path string) *Cell {
	if r.named != nil {
		if c := r.named[path]; c != nil {
			return c
		}
	}

	return r.pattern
}

// Begin begins a new set of routes; [Registry.Sweep] forgets those that are of none but earlier ones.
func (r *Registry) Begin() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.generation++
}

// Route returns the cells for calls that come by a frontend, take a route that asks for a pattern, and go to a backend. The
// cells that are there already, with what they have counted, are used again.
func (r *Registry) Route(frontend, route, backend string, p Pattern, methods Methods) *Route {
	r.mu.Lock()
	defer r.mu.Unlock()
	key := Key{Frontend: frontend, Route: route, Backend: backend, Kind: BidiStream}
	key.Service, key.Method = p.label()
	if kind, ok := methods["/"+key.Service+"/"+key.Method]; ok {
		key.Kind = kind
	}
	found := &Route{pattern: r.cell(key)}
	for path, kind := range methods {
		service, method, ok := strings.Cut(strings.TrimPrefix(path, "/"), "/")
		if !ok || !p.takes(service, method) || p.Method != "" {
			continue
		}
		if found.named == nil {
			found.named = map[string]*Cell{}
		}
		key.Service, key.Method, key.Kind = service, method, kind
		found.named[path] = r.cell(key)
	}

	return found
}

// cell returns the cell of a key. mu is held.
func (r *Registry) cell(k Key) *Cell {
	c := r.cells[k]
	if c == nil {
		c = &Cell{Key: k}
		if r.cells == nil {
			r.cells = map[Key]*Cell{}
		}
		r.cells[k] = c
	}
	c.generation = r.generation

	return c
}

// Sweep forgets the cells that no route since the last Begin has asked for, and frontends and backends likewise, so that a
// daemon that is configured anew a thousand times does not remember a thousand configurations. It is for when no
// call of earlier routes is left.
func (r *Registry) Sweep() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for k, c := range r.cells {
		if c.generation != r.generation {
			delete(r.cells, k)
		}
	}
	for name, f := range r.frontends {
		if f.generation != r.generation {
			delete(r.frontends, name)
		}
	}
	for name, b := range r.backends {
		if b.generation != r.generation {
			delete(r.backends, name)
		}
	}
}

// list returns the cells in the order of their keys.
func (r *Registry) list() []*Cell {
	r.mu.Lock()
	cells := make([]*Cell, 0, len(r.cells))
	for _, c := range r.cells {
		cells = append(cells, c)
	}
	r.mu.Unlock()
	slices.SortFunc(cells, func(a, b *Cell) int { return a.compare(&b.Key) })

	return cells
}

// compare puts those side by side that differ in the route alone.
func (k *Key) compare(o *Key) int {
	for _, c := range [...]int{
		strings.Compare(k.Frontend, o.Frontend), strings.Compare(k.Backend, o.Backend), strings.Compare(k.Service, o.Service),
		strings.Compare(k.Method, o.Method), strings.Compare(string(k.Kind), string(o.Kind)), strings.Compare(k.Route, o.Route),
	} {
		if c != 0 {
			return c
		}
	}

	return 0
}
