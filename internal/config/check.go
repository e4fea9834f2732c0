// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"encoding/base64"
	"fmt"
	"maps"
	"math"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/manifold-grpc/manifold/internal/address"
	"github.com/manifold-grpc/manifold/internal/route"
)

// A checker finds what is wrong with the meaning of a file. It passes over what could
// not be read, which has errors already.
type checker struct {
	*parsed
	broken map[string]bool
	errs   Errors
}

// fail adds an error at a path.
func (c *checker) fail(path, format string, args ...any) {
	pos := c.at.of(path)
	c.errs = append(c.errs, Error{Line: pos.line, Col: pos.col, Message: fmt.Sprintf(format, args...)})
}

func (c *checker) check() {
	c.frontends()
	for _, name := range slices.Sorted(maps.Keys(c.config.Backends)) {
		c.backend(name)
	}
	for i := range c.config.Routes {
		c.route(i)
	}
	c.operation()
	c.conflicts()
	if d := &c.config.Drain; d.Timeout != 0 && d.Timeout < d.Delay && !c.broken["drain"] {
		c.fail("drain.timeout", "%v, expected at least drain.delay, %v", time.Duration(d.Timeout), time.Duration(d.Delay))
	}
}

func (c *checker) frontends() {
	frontends := c.config.Frontends
	if len(frontends) == 0 && !c.broken["frontends"] && c.at.of("frontends") != c.at[""] {
		c.fail("frontends", "no frontend, expected at least one")
	}
	for i := range frontends {
		f := &frontends[i]
		path := fmt.Sprintf("frontends[%d]", i)
		if f.Name == "" && !c.broken[path] {
			c.fail(path+".name", "no name, expected one")
		}
		for j := range frontends[:i] {
			c.pair(f, &frontends[j], path)
		}
		if f.TLS != nil && len(f.TLS.Certificates) == 0 && !c.broken[path+".tls"] {
			c.fail(path+".tls.certificates", "no certificate, expected at least one")
		}
		if f.SocketMode != 0 && f.Listen.Network != "unix" && !c.broken[path+".listen"] {
			c.fail(path+".socket_mode", "mode of %q, expected it for a Unix socket that the daemon makes", f.Listen)
		}
		c.limits(&f.Limits, path+".limits")
	}
}

// limits checks against what the protocol can say.
func (c *checker) limits(l *Limits, path string) {
	for _, s := range []struct {
		key   string
		size  Size
		bound int64
	}{
		{"max_header_bytes", l.MaxHeaderBytes, math.MaxUint32},
		{"max_request_message", l.MaxRequestMessage, math.MaxUint32},
		{"stream_window", l.StreamWindow, math.MaxInt32},
		{"max_stream_window", l.MaxStreamWindow, math.MaxInt32},
	} {
		c.size(s.size, s.bound, path+"."+s.key)
	}
	c.windows(l, path)
	c.times(l, path)
}

func (c *checker) size(s Size, bound int64, path string) {
	if int64(s) > bound {
		c.fail(path, "%d bytes, expected at most %d", s, bound)
	}
}

// pair checks what two frontends may not share.
func (c *checker) pair(f, earlier *Frontend, path string) {
	if f.Name != "" && f.Name == earlier.Name {
		c.fail(path+".name", "frontend %q is given twice, expected another name", f.Name)
	}
	if overlap(f.Listen, earlier.Listen) {
		c.fail(path+".listen", "%q overlaps %q of frontend %q, expected another address", f.Listen, earlier.Listen, earlier.Name)
	}
}

// overlap reports whether two listeners cannot both be opened. Names of hosts are compared as they are.
func overlap(a, b address.Address) bool {
	if a.Network != b.Network || a.Network == "" {
		return false
	}
	if a.Network != "tcp" {
		return a.Addr == b.Addr
	}
	aHost, aPort, aErr := net.SplitHostPort(a.Addr)
	bHost, bPort, bErr := net.SplitHostPort(b.Addr)
	if aErr != nil || bErr != nil || aPort != bPort || aPort == "0" {
		return false
	}

	return aHost == bHost || wildcard(aHost) || wildcard(bHost)
}

// wildcard reports whether a host stands for all interfaces.
func wildcard(host string) bool {
	ip, err := netip.ParseAddr(host)

	return host == "" || err == nil && ip.IsUnspecified()
}

// twice checks that no endpoint is given twice.
func (c *checker) twice(endpoints Endpoints, path string) {
	first := map[address.Endpoint]int{}
	for i, e := range endpoints {
		if e.Endpoint == (address.Endpoint{}) {
			continue
		}
		if j, ok := first[e.Endpoint]; ok {
			at := c.at.of(fmt.Sprintf("%s.endpoints[%d]", path, j))
			c.fail(fmt.Sprintf("%s.endpoints[%d]", path, i), "endpoint %q is given twice, expected it once: the first is at %d:%d", e.Endpoint, at.line, at.col)
			continue
		}
		first[e.Endpoint] = i
	}
}

func (c *checker) route(i int) {
	r := &c.config.Routes[i]
	path := fmt.Sprintf("routes[%d]", i)
	c.destination(r, path)
	c.targets(r.Backend, path+".backend")
	c.match(&r.Match, path+".match")
	c.mirror(r, path+".mirror")
	c.routeMethods(r, path+".methods")
	c.size(r.MaxRequestMessage, math.MaxUint32, path+".max_request_message")
	if r.FanOut != nil {
		c.fanOut(r.FanOut, path+".fan_out")
		if r.IdleTimeout > 0 {
			c.fail(path+".idle_timeout", "idle_timeout on a one-to-many route, expected it in fan_out: it is for each target")
		}
	}
	c.denied(r, path)
	c.headers(r.RequestHeaders, path+".request_headers")
	c.headers(r.ResponseHeaders, path+".response_headers")
}

// destination checks that a route has exactly one.
func (c *checker) destination(r *Route, path string) {
	var given []string
	if len(r.Backend) > 0 {
		given = append(given, "backend")
	}
	if r.FanOut != nil {
		given = append(given, "fan_out")
	}
	if r.Deny != "" {
		given = append(given, "deny")
	}
	switch {
	case len(given) > 1:
		c.fail(path, "route with %s, expected one of them", strings.Join(given, " and "))
	case len(given) == 0 && !c.broken[path]:
		c.fail(path, "route without a destination, expected backend, fan_out or deny")
	}
}

func (c *checker) targets(targets Targets, path string) {
	total := 0
	seen := map[string]bool{}
	for i, t := range targets {
		at := fmt.Sprintf("%s[%d]", path, i)
		total += min(t.Weight, maxWeight+1)
		if t.Weight > maxWeight {
			c.fail(at+".weight", "weight %d, expected at most %d", t.Weight, maxWeight)
		}
		if c.broken[at] {
			continue
		}
		if !c.broken[path] {
			c.reference(t.Name, at+".name")
		}
		if seen[t.Name] {
			c.fail(at+".name", "backend %q is given twice, expected it once", t.Name)
		}
		seen[t.Name] = true
	}
	if len(targets) > 0 && total == 0 && !c.broken[path] {
		c.fail(path, "all weights are 0, expected one above")
	}
}

// maxWeight keeps sums far below what overflows.
const maxWeight = 1_000_000

// reference checks that a backend exists.
func (c *checker) reference(name, path string) {
	if _, ok := c.config.Backends[name]; ok || c.broken["backends"] && c.config.Backends == nil {
		return
	}
	known := slices.Sorted(maps.Keys(c.config.Backends))
	c.fail(path, "unknown backend %q%s, expected %s", name, nearest(name, known), either(known))
}

// match hands one field after the other to package route, so that each error has its place.
func (c *checker) match(m *Match, path string) {
	report := func(field string, m route.Match) {
		for _, err := range m.Check() {
			c.fail(path+"."+field, "%v", err)
		}
	}
	report("host", route.Match{Host: m.Host})
	report("service", route.Match{Service: m.Service})
	if m.Method != "" {
		service := m.Service
		if service != "" && service != "*" {
			service = "any.Service" // its own errors are reported
		}
		report("method", route.Match{Service: service, Method: m.Method})
	}
	for _, key := range slices.Sorted(maps.Keys(m.Metadata)) {
		report("metadata."+key, route.Match{Metadata: map[string]string{key: m.Metadata[key]}})
	}
}

func (c *checker) headers(h *HeaderChanges, path string) {
	if h == nil {
		return
	}
	for i, name := range h.Remove {
		c.header(name, "", fmt.Sprintf("%s.remove[%d]", path, i))
	}
	for _, name := range slices.Sorted(maps.Keys(h.Set)) {
		c.header(name, h.Set[name], path+".set."+name)
	}
	for _, name := range slices.Sorted(maps.Keys(h.Add)) {
		c.header(name, h.Add[name], path+".add."+name)
	}
}

// header checks a name and a value. Those that gRPC and HTTP/2 depend on are the proxy's own matter.
func (c *checker) header(name, value, path string) {
	switch {
	case !goodHeader(name):
		c.fail(path, "header %q, expected a name in lower case of letters, digits, - _ and .", name)
	case strings.HasPrefix(name, "grpc-") || slices.Contains(ownHeaders, name):
		c.fail(path, "header %q, expected none that gRPC or HTTP/2 depends on", name)
	case strings.ContainsFunc(value, func(r rune) bool { return r < ' ' || r > '~' }):
		c.fail(path, "value %q of header %s, expected printable ASCII", value, name)
	case strings.Trim(value, " ") != value: // RFC 9113 section 8.2.1
		c.fail(path, "value %q of header %s, expected no spaces at its ends", value, name)
	case strings.HasSuffix(name, "-bin") && !isBase64(value):
		c.fail(path, "value %q of header %s, expected base64, as names that end in -bin have", value, name)
	}
}

var ownHeaders = []string{"content-type", "te", "host", "connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade", "content-length"}

// isBase64 reports whether a value is one of a binary header: base64, with padding or without, and commas between several.
func isBase64(value string) bool {
	for part := range strings.SplitSeq(value, ",") {
		if _, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(part, "=")); err != nil {
			return false
		}
	}

	return true
}

func goodHeader(name string) bool {
	return name != "" && !strings.ContainsFunc(name, func(r rune) bool {
		return !strings.ContainsRune("abcdefghijklmnopqrstuvwxyz0123456789-_.", r)
	})
}

// conflicts finds the routes that no call can take.
func (c *checker) conflicts() {
	matches := c.config.matches()
	for i := range matches {
		if len(matches[i].Check()) > 0 {
			return // the table is for good ones
		}
	}
	_, conflicts := route.New(matches)
	for _, conflict := range conflicts {
		path := fmt.Sprintf("routes[%d]", conflict.Route)
		earlier := c.at.of(fmt.Sprintf("routes[%d]", conflict.Earlier))
		if c.broken[path+".match"] || c.broken[fmt.Sprintf("routes[%d].match", conflict.Earlier)] {
			continue
		}
		c.fail(path, "no call can take this route, expected another match: the one at %d:%d asks the same, such as of %s", earlier.line, earlier.col, conflict.Example)
	}
}

// matches returns what the routes ask, in their order.
func (c *Config) matches() []route.Match {
	matches := make([]route.Match, len(c.Routes))
	for i := range c.Routes {
		matches[i] = c.Routes[i].Match.route()
	}

	return matches
}
