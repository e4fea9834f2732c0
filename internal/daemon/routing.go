// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"maps"
	"slices"
	"sync/atomic"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/manifold-grpc/manifold/internal/config"
	"github.com/manifold-grpc/manifold/internal/metrics"
	"github.com/manifold-grpc/manifold/internal/route"
	"github.com/manifold-grpc/manifold/internal/tracing"
	"github.com/manifold-grpc/manifold/relay"
)

// router decides where the calls of one frontend go, in one world.
type router struct {
	frontend *frontendPlan
	table    *route.Table
	routes   []*pathRoute
	health   *relay.Backend     // the daemon's own
	cells    [][]*metrics.Route // see observer.cells
	tracer   *tracing.Tracer    // nil: none
}

// pathRoute is a route on the data path.
type pathRoute struct {
	*routePlan
	choice choice       // empty where nothing is forwarded to one backend
	fan    *fanRoute    // nil where nothing is forwarded to many
	mirror *mirrorRoute // nil where nothing is copied

	methods         *config.MethodSet    // nil for all
	responseHeaders *relay.HeaderChanges // nil for none
}

// newPathRoute returns a route without its destination.
func newPathRoute(p *routePlan) *pathRoute {
	return &pathRoute{routePlan: p, methods: p.Methods.Set(), responseHeaders: responseChanges(p.ResponseHeaders)}
}

// choice is the backends of a route by weights. The shares are exact over any
// few calls: a golden-ratio sequence visits every part of a range evenly.
type choice struct {
	backends []*relay.Backend
	bounds   []uint64 // sums of the weights up to each
	turn     *atomic.Uint64
}

// goldenRatio is 2^64 over the golden ratio.
const goldenRatio = 0x9e3779b97f4a7c15

// next returns the place of the next call's backend.
func (c *choice) next() int {
	if len(c.backends) == 1 {
		return 0
	}
	total := c.bounds[len(c.bounds)-1]
	point := (c.turn.Add(1) * goldenRatio >> 32) * total >> 32
	for i, bound := range c.bounds {
		if point < bound {
			return i
		}
	}

	return len(c.backends) - 1
}

// take is the relay's Route function.
func (r *router) take(c *relay.Call) {
	q := route.Call{Host: c.Host(), Service: c.Service(), Method: c.Method()}
	if r.table.AsksMetadata() {
		q.Values = valuesOf(c)
	}
	i, ok := r.table.Lookup(&q)
	service := c.Service()
	if service == config.HealthService && (!ok || r.routes[i].Match.Service != config.HealthService) {
		if r.frontend.guarded {
			c.SetHeader(strangerHeader, "1")
		}
		c.Forward(r.health)
		return
	}
	r.trace(c, ok)
	switch {
	case !ok:
		reject(c, codes.Unimplemented, "manifold: no route for "+c.Path(), reasonNoRoute)
	case r.frontend.guarded && config.Guarded(service) && !r.routes[i].Match.Names():
		reject(c, codes.Unimplemented, "manifold: "+service+" is denied here, expected a route that names it", reasonDenied)
	default:
		r.follow(c, i)
	}
}

// valuesOf returns what yields the call's values of a metadata key.
func valuesOf(c *relay.Call) func(key string, yield func(string) bool) {
	return func(key string, yield func(string) bool) {
		for name, value := range c.Headers() {
			if name == key && !yield(value) {
				return
			}
		}
	}
}

// Reasons of calls that no backend gets.
const (
	reasonNoRoute = relay.ReasonNoRoute
	reasonDenied  = "DENIED"
)

func reject(c *relay.Call, code codes.Code, message, reason string) {
	rejectWith(c, status.New(code, message), reason)
}

// rejectWith rejects a call, and tells the reason as the relay does.
func rejectWith(c *relay.Call, st *status.Status, reason string) {
	if with, err := st.WithDetails(&errdetails.ErrorInfo{Reason: reason, Domain: relay.ErrorDomain}); err == nil {
		st = with
	}
	c.Reject(st, reason)
}

// follow sends a call where its route says.
func (r *router) follow(c *relay.Call, i int) {
	to := r.routes[i]
	place := 0
	if len(to.choice.backends) > 0 {
		place = to.choice.next()
	}
	r.observe(c, i, place)
	switch to.Deny {
	case config.Unimplemented:
		reject(c, codes.Unimplemented, "manifold: "+c.Path()+" is denied", reasonDenied)
		return
	case config.PermissionDenied:
		reject(c, codes.PermissionDenied, "manifold: "+c.Path()+" is denied", reasonDenied)
		return
	}
	if !to.methods.Lets(c.Path(), c.Method()) {
		reject(c, codes.PermissionDenied, "manifold: "+c.Path()+" is denied", reasonDenied)
		return
	}
	var targets []relay.Target
	if to.fan != nil {
		var ok bool
		if targets, ok = to.fan.begin(c); !ok {
			return
		}
	}
	change(c, to.RequestHeaders)
	if to.responseHeaders != nil {
		c.SetResponseHeaders(to.responseHeaders)
	}
	if r.frontend.identified {
		if who := identity(c.TLS()); who != "" {
			c.SetHeader(identityHeader, who)
		}
	}
	c.SetTimeout(time.Duration(to.MaxDuration))
	if to.IdleTimeout > 0 {
		c.SetIdleTimeout(time.Duration(to.IdleTimeout))
	}
	if n := to.MaxRequestMessage; n > 0 {
		c.SetMaxRequestMessage(uint32(n))
	}
	if to.fan != nil {
		to.fan.send(c, targets)
		return
	}
	if to.mirror != nil && to.mirror.next() {
		c.Mirror(to.mirror.backend)
	}
	c.Forward(to.choice.backends[place])
}

// change makes a route's changes to the headers of a request.
func change(c *relay.Call, h *config.HeaderChanges) {
	if h == nil {
		return
	}
	for _, name := range h.Remove {
		c.DelHeader(name)
	}
	for name, value := range h.Set {
		c.SetHeader(name, value)
	}
	for name, value := range h.Add {
		c.AddHeader(name, value)
	}
}

// responseChanges returns a route's changes to the headers of responses in the engine's terms.
func responseChanges(h *config.HeaderChanges) *relay.HeaderChanges {
	if h == nil {
		return nil
	}
	fields := func(values map[string]string) (list []relay.HeaderField) {
		for _, name := range slices.Sorted(maps.Keys(values)) {
			list = append(list, relay.HeaderField{Name: name, Value: values[name]})
		}

		return list
	}

	return &relay.HeaderChanges{Remove: h.Remove, Set: fields(h.Set), Add: fields(h.Add)}
}
