// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

// Package route finds the route of a call. It is pure: a [Table] is built once
// from the routes in their order, tells what is wrong with them, and is then only
// read, by any number of goroutines.
//
// Of the routes that match a call, the most specific one is taken, as Gateway
// API's GRPCRoute has it:
//
//  1. an exact host before a wildcard, a longer wildcard before a shorter one, and
//     both before no host;
//  2. an exact service before a glob, a longer glob before a shorter one, and both
//     before no service;
//  3. a method before none;
//  4. more metadata matches before fewer;
//  5. the earlier one.
//
// What is exact is found by maps and a glob by the dots in the name, so the cost
// of a lookup does not grow with the number of routes.
package route

import (
	"fmt"
	"strings"
)

// Match is what a route asks of a call. A zero field asks nothing.
type Match struct {
	// Host is a host name without a port, in lower case: exact, or "*.example.com",
	// which matches names with at least one more label in its place.
	Host string

	// Service is a service's full name: exact, or a glob that ends in ".*", which
	// matches every service in that package and those below. "*" is the same as none.
	Service string

	// Method is a method's name.
	Method string

	// Metadata is keys in lower case with the value that one of the call's values
	// must equal, or "*" for any value.
	Metadata map[string]string
}

// Call is what is matched.
type Call struct {
	// Host is the :authority; a port and upper case are of no account.
	Host string
	// Service and Method are the parts of the path.
	Service, Method string
	// Values yields the call's values of a metadata key in lower case until yield returns false. nil: the
	// call has none. It is called only for keys that a route asks for.
	Values func(key string, yield func(value string) bool)
}

// matches reports whether the call has what m asks of its metadata.
func (m *Match) matches(c *Call) bool {
	for key, want := range m.Metadata {
		if !has(c, key, want) {
			return false
		}
	}
	return true
}

// any stands for every value.
const anyValue = "*"

func has(c *Call, key, want string) bool {
	if c.Values == nil {
		return false
	}
	found := false
	c.Values(key, func(v string) bool {
		found = want == anyValue || v == want
		return !found
	})
	return found
}

// globPrefix returns what a service must begin with for a glob: "shop.v1." for "shop.v1.*".
func globPrefix(service string) (prefix string, ok bool) {
	p, ok := strings.CutSuffix(service, "*")
	return p, ok && strings.HasSuffix(p, ".")
}

// hostSuffix returns what a host must end with for a wildcard: ".example.com".
func hostSuffix(host string) (suffix string, ok bool) {
	s, ok := strings.CutPrefix(host, "*")
	return s, ok && len(s) > 1 && s[0] == '.'
}

// Check returns what is wrong with m in itself, one error for each thing.
func (m *Match) Check() (errs []error) {
	add := func(field, value, want string) {
		errs = append(errs, fmt.Errorf("%s %q: expected %s", field, value, want))
	}
	if !goodHost(m.Host) {
		add("host", m.Host, "a host name in lower case without a port, or *.name")
	}
	if !goodService(m.Service) {
		add("service", m.Service, "a full name such as shop.v1.Catalog, or a glob such as shop.v1.*")
	}
	if strings.ContainsAny(m.Method, "/*") {
		add("method", m.Method, "the name of one method, without service and slash")
	}
	if m.Method != "" && (m.Service == "" || m.Service == anyValue) {
		add("method", m.Method, "a service beside it")
	}
	for key := range m.Metadata {
		if key == "" || key != strings.ToLower(key) || strings.HasPrefix(key, ":") {
			add("metadata", key, "a key in lower case")
		}
	}
	return errs
}

func goodHost(h string) bool {
	if s, ok := hostSuffix(h); ok {
		h = s[1:]
	}
	return h == strings.ToLower(h) && !strings.ContainsAny(h, "*/: ") && !strings.HasPrefix(h, ".") && !strings.HasSuffix(h, ".")
}

func goodService(s string) bool {
	if s == anyValue {
		return true
	}
	if p, ok := globPrefix(s); ok {
		s = p[:len(p)-1]
		return s != "" && !strings.ContainsAny(s, "*/ ")
	}
	return !strings.ContainsAny(s, "*/ ")
}
