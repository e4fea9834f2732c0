// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"maps"
	"slices"
	"strings"

	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/manifold-grpc/manifold/internal/config"
)

// backendPrefix comes before the name of a backend as grpc.health.v1 knows it. No service has a slash in its name.
const backendPrefix = "backend/"

// readiness is what grpc.health.v1 answers from, in one world:
//
//   - "" is the daemon as a whole: it takes calls. One backend that is down is no reason to take the others out of service.
//   - "backend/NAME" is SERVING while the backend has an endpoint that takes calls.
//   - A service that a route names exactly is SERVING while one of the backends that such routes lead to has. A route that denies leads
//     nowhere, and a backend of weight 0 gets no calls.
//
// It is pure but for ready, and has no state.
type readiness struct {
	backends []string            // sorted
	services map[string][]string // the backends that calls of a service may go to
	ready    func(backend string) bool
}

// servicesOf returns the backends that calls may go to, of each service that a route names exactly.
func servicesOf(routes []routePlan) map[string][]string {
	services := map[string][]string{}
	for i := range routes {
		r := &routes[i]
		name := r.Match.Service
		if name == "" || strings.HasSuffix(name, "*") || name == config.HealthService { // that one is not asked here then
			continue
		}
		for _, b := range leadsTo(r) {
			if !slices.Contains(services[name], b) {
				services[name] = append(services[name], b)
			}
		}
	}

	return services
}

// leadsTo returns the names of the backends that calls of a route may go to.
func leadsTo(r *routePlan) []string {
	switch {
	case r.Deny != "":
		return nil
	case r.FanOut != nil && r.FanOut.Backend != "":
		return []string{r.FanOut.Backend}
	case r.FanOut != nil:
		return r.FanOut.Backends
	}
	var names []string
	for _, t := range r.Backend {
		if t.Weight > 0 {
			names = append(names, t.Name)
		}
	}

	return names
}

// of returns the status of a name.
func (r readiness) of(name string, draining bool) healthpb.HealthCheckResponse_ServingStatus {
	var needs []string // one of them
	if b, ok := strings.CutPrefix(name, backendPrefix); ok {
		if _, ok := slices.BinarySearch(r.backends, b); !ok {
			return healthpb.HealthCheckResponse_SERVICE_UNKNOWN
		}
		needs = []string{b}
	} else if name != "" {
		if needs, ok = r.services[name]; !ok {
			return healthpb.HealthCheckResponse_SERVICE_UNKNOWN
		}
	}
	if draining || name != "" && !slices.ContainsFunc(needs, r.ready) {
		return healthpb.HealthCheckResponse_NOT_SERVING
	}

	return healthpb.HealthCheckResponse_SERVING
}

// names returns all that have a status.
func (r readiness) names() []string {
	names := []string{""}
	for _, b := range r.backends {
		names = append(names, backendPrefix+b)
	}

	return append(names, slices.Sorted(maps.Keys(r.services))...)
}

// forStrangers returns r without the backends: a client that may call a service can find out whether it is there, but what is behind
// is nobody's business.
func (r readiness) forStrangers() readiness {
	r.backends = nil

	return r
}

// readiness returns that of the world in use.
func (d *Daemon) readiness() readiness {
	w := d.world.Load()

	return readiness{backends: w.names, services: w.services, ready: func(backend string) bool {
		b := w.upstreams[backend]

		return b != nil && usable(b)
	}}
}
