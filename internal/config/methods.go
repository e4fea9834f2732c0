// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"slices"
	"strings"

	"github.com/manifold-grpc/manifold/internal/route"
)

// Methods is which methods a route lets through, of those that it takes.
type Methods struct {
	Allow []string `yaml:"allow" doc:"The only methods that go through, as names or as /service/method." default:"all"`
	Deny  []string `yaml:"deny" doc:"Methods that do not go through, also where allow has their name or /service/method." default:"none"`
}

// A MethodSet is Methods for looking up. It is only read, by any number of goroutines. nil lets all through.
type MethodSet struct {
	allow, deny map[string]bool // by name, and by full name with its slash; allow is nil for all
}

// Set returns m for looking up; m may be nil.
func (m *Methods) Set() *MethodSet {
	if m == nil {
		return nil
	}
	of := func(names []string) map[string]bool {
		if len(names) == 0 {
			return nil
		}
		set := make(map[string]bool, len(names))
		for _, name := range names {
			set[name] = true
		}

		return set
	}

	return &MethodSet{allow: of(m.Allow), deny: of(m.Deny)}
}

// Lets reports whether a method goes through, by its path, "/service/method", and its name. A method in both
// lists does not.
func (s *MethodSet) Lets(path, method string) bool {
	switch {
	case s == nil:
		return true
	case s.deny[method] || s.deny[path]:
		return false
	default:
		return s.allow == nil || s.allow[method] || s.allow[path]
	}
}

// routeMethods checks the lists of a route.
func (c *checker) routeMethods(r *Route, path string) {
	m := r.Methods
	if m == nil {
		return
	}
	switch {
	case r.Match.Method != "":
		c.fail(path, "methods on a route of one method, expected one of methods and match.method")
	case r.Deny != "":
		c.fail(path, "methods on a route that denies all, expected one of methods and deny")
	case len(m.Allow) == 0 && len(m.Deny) == 0 && !c.broken[path]:
		c.fail(path, "no methods, expected allow or deny")
	}
	c.methods(m.Allow, path+".allow")
	c.methods(m.Deny, path+".deny")
	c.taken(r, m.Allow, path+".allow")
	c.taken(r, m.Deny, path+".deny")
	for i, name := range m.Deny {
		if slices.Contains(m.Allow, name) {
			c.fail(fmt.Sprintf("%s.deny[%d]", path, i), "method %q is in allow too, expected it in one of them", name)
		}
	}
}

// taken checks that the route takes the services of the methods, and that none is given twice.
func (c *checker) taken(r *Route, methods []string, path string) {
	m := route.Match{Service: r.Match.Service}
	bad := len(m.Check()) > 0
	table, _ := route.New([]route.Match{m})
	for i, name := range methods {
		at := fmt.Sprintf("%s[%d]", path, i)
		if slices.Contains(methods[:i], name) {
			c.fail(at, "method %q is given twice, expected it once", name)
		}
		service, method, full := strings.Cut(strings.TrimPrefix(name, "/"), "/")
		if !full || service == "" || method == "" || name[0] != '/' || bad {
			continue // told already
		}
		if _, ok := table.Lookup(&route.Call{Service: service}); !ok {
			c.fail(at, "method %q of a service that the route does not take, expected one of %s", name, r.Match.Service)
		}
	}
}
