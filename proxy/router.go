// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Route leads the calls of some services or methods to a director.
type Route struct {
	// Pattern says which calls. It is one of
	//
	//	pkg.Service          every method of one service
	//	pkg.Service/Method   one method
	//	pkg.Service/Get*     the methods of one service whose names begin so
	//	pkg.*                every service whose full name begins so
	//	*                    every service
	//
	// A leading slash is allowed, and pkg.Service/* is pkg.Service. There is no other use of the star: services are
	// matched by the text in front of it, so pkg.User* matches pkg.User and pkg.Users.v1.Admin.
	Pattern string

	// Director decides about the calls, with the whole method name: [Upstream] and [RoundRobin] have one.
	Director StreamDirector
}

// Router is a director that chooses among directors by the name of the method.
//
// The most specific route wins, whatever the order they were given in: a method before a beginning of methods before
// its service before a beginning of services, and of two beginnings the longer. A call that no route takes is refused
// with codes.Unimplemented, as a server does that lacks the service.
//
// So is a call whose path is not exactly /service/method in plain characters. Names with a percent sign, a
// question mark or a further slash read differently to different servers, and must not be matched by a prefix that one
// of them would not see.
//
// A Router is immutable and safe for concurrent use. The zero value has no routes.
type Router struct {
	services map[string]*methodRoutes // by full name
	prefixes prefixes                 // of service names
}

// methodRoutes are the routes within one service.
type methodRoutes struct {
	all      StreamDirector // may be nil
	methods  map[string]StreamDirector
	prefixes prefixes // of method names
}

var _ StreamDirector = (*Router)(nil).Direct

// NewRouter returns a router for the routes. It reports every route that cannot be: a malformed pattern, a missing
// director, a pattern that matches just the calls of an earlier one.
func NewRouter(routes ...Route) (*Router, error) {
	r := &Router{services: make(map[string]*methodRoutes)}
	first := make(map[pattern]int) // index of the route that has it

	var errs []error

	for i, route := range routes {
		p, err := parsePattern(route.Pattern)
		if err == nil && route.Director == nil {
			err = errors.New("it has no director")
		}

		if err != nil {
			errs = append(errs, fmt.Errorf("proxy: route #%d %q: %w", i, route.Pattern, err))

			continue
		}

		if j, taken := first[p]; taken {
			errs = append(errs, fmt.Errorf("proxy: route #%d %q matches the same calls as route #%d %q", i, route.Pattern, j, routes[j].Pattern))

			continue
		}

		first[p] = i
		r.add(p, route.Director)
	}

	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}

	return r, nil
}

// Direct is the [StreamDirector].
func (r *Router) Direct(ctx context.Context, fullMethodName string) (Mode, []Backend, error) {
	service, method, ok := splitMethod(fullMethodName)
	if !ok {
		return One2One, nil, status.Errorf(codes.Unimplemented, "proxy: malformed method name %q, expected /service/method", fullMethodName)
	}

	d := r.lookup(service, method)
	if d == nil {
		return One2One, nil, status.Errorf(codes.Unimplemented, "proxy: no route for method %s", fullMethodName)
	}

	return d(ctx, fullMethodName)
}

// lookup returns the director of the most specific route, or nil.
func (r *Router) lookup(service, method string) StreamDirector {
	if s := r.services[service]; s != nil {
		if d := s.methods[method]; d != nil {
			return d
		}

		if d := s.prefixes.longest(method); d != nil {
			return d
		}

		if s.all != nil {
			return s.all
		}
	}

	return r.prefixes.longest(service)
}

// add enters a route that conflicts with none before it.
func (r *Router) add(p pattern, d StreamDirector) {
	if p.scope == servicesWithPrefix {
		r.prefixes.add(p.service, d)

		return
	}

	s := r.services[p.service]
	if s == nil {
		s = &methodRoutes{methods: make(map[string]StreamDirector)}
		r.services[p.service] = s
	}

	switch p.scope {
	case oneMethod:
		s.methods[p.method] = d
	case methodsWithPrefix:
		s.prefixes.add(p.method, d)
	default:
		s.all = d
	}
}

// prefixes finds the longest of a set of prefixes by one lookup for each length that occurs, which are few however
// many the prefixes. The zero value is empty.
type prefixes struct {
	directors map[string]StreamDirector
	lengths   []int // of the keys, longest first, each once
}

func (p *prefixes) add(prefix string, d StreamDirector) {
	if p.directors == nil {
		p.directors = make(map[string]StreamDirector)
	}

	p.directors[prefix] = d

	longerFirst := func(a, b int) int { return b - a }
	if i, found := slices.BinarySearchFunc(p.lengths, len(prefix), longerFirst); !found {
		p.lengths = slices.Insert(p.lengths, i, len(prefix))
	}
}

// longest returns the director of the longest prefix of name, or nil.
func (p *prefixes) longest(name string) StreamDirector {
	for _, n := range p.lengths {
		if n > len(name) {
			continue
		}

		if d := p.directors[name[:n]]; d != nil {
			return d
		}
	}

	return nil
}

// scope is what kind of calls a pattern matches.
type scope int

const (
	oneService scope = iota
	oneMethod
	methodsWithPrefix
	servicesWithPrefix
)

// pattern is a Route.Pattern taken apart. Two patterns that match the same calls are equal.
type pattern struct {
	scope   scope
	service string // or its prefix
	method  string // or its prefix; empty for services
}

func parsePattern(s string) (pattern, error) {
	service, method, hasMethod := strings.Cut(strings.TrimPrefix(s, "/"), "/")

	prefix, serviceGlob := strings.CutSuffix(service, "*")
	if serviceGlob {
		if hasMethod && method != "*" {
			return pattern{}, errors.New("a star in the service takes no method after it")
		}

		return pattern{scope: servicesWithPrefix, service: prefix}, checkPrefix("service", prefix)
	}

	if err := checkName("service", service); err != nil {
		return pattern{}, err
	}

	prefix, methodGlob := strings.CutSuffix(method, "*")

	switch {
	case !hasMethod || method == "*":
		return pattern{scope: oneService, service: service}, nil
	case methodGlob:
		return pattern{scope: methodsWithPrefix, service: service, method: prefix}, checkPrefix("method", prefix)
	default:
		return pattern{scope: oneMethod, service: service, method: method}, checkName("method", method)
	}
}

func checkName(part, name string) error {
	if name == "" {
		return fmt.Errorf("the name of the %s is empty", part)
	}

	return checkPrefix(part, name)
}

func checkPrefix(part, prefix string) error {
	if i := badByte(prefix); i >= 0 {
		r, _ := utf8.DecodeRuneInString(prefix[i:])

		return fmt.Errorf("%q cannot be in the name of a %s; a star may only end it", r, part)
	}

	return nil
}

// splitMethod takes apart "/service/method". It reports false for anything else.
func splitMethod(fullMethodName string) (service, method string, ok bool) {
	path, slash := strings.CutPrefix(fullMethodName, "/")
	service, method, _ = strings.Cut(path, "/")

	return service, method, slash && plainName(service) && plainName(method)
}

// plainName reports whether name can be that of a service or a method, and not a step in a path.
func plainName(name string) bool {
	return name != "" && name != "." && name != ".." && badByte(name) < 0
}

// inName has the bytes of names. Interface languages other than protobuf have names of their own, so what is left
// out is only what HTTP or a file system would read as something else, and the star of patterns.
var inName = func() (set [256]bool) {
	for b := '!'; b <= '~'; b++ {
		set[b] = !strings.ContainsRune(`/\%?#*;`, b)
	}

	return set
}()

// badByte returns the index of the first byte of s that cannot be in a name, or -1.
func badByte(s string) int {
	for i := range len(s) {
		if !inName[s[i]] {
			return i
		}
	}

	return -1
}
