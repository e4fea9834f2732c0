// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/manifold-grpc/manifold/internal/methodkind"
	"github.com/manifold-grpc/manifold/internal/upstream"
)

// The bounds of a reflector.
const (
	// reflectTimeout is how long calls may wait for the first answer about their service.
	reflectTimeout = 2 * time.Second
	// reflectFor is how long an answer is taken for good, and reflectAgain how long a failure is.
	reflectFor   = 5 * time.Minute
	reflectAgain = 10 * time.Second
	// maxReflected bounds the services, which callers name: those of which nothing is known make room for others. maxReflecting bounds
	// those asked about at once, and maxUndecided the calls that wait. What goes beyond is taken for streaming.
	maxReflected  = 1000
	maxReflecting = 4
	maxUndecided  = 1000
	// reflectTries is how many endpoints are asked, and reflectHedge the time after which the next is.
	reflectTries = 3
	reflectHedge = 200 * time.Millisecond
)

// A reflector knows which methods of a backend stream their responses, by the reflection of its endpoints. Its owner
// closes it.
type reflector struct {
	backend *upstream.Backend
	plan    *backendPlan
	log     *slog.Logger

	ctx    context.Context // ends with close
	cancel context.CancelFunc
	asking sync.WaitGroup

	mu sync.Mutex
	// Guarded by mu.
	services map[string]*reflected
	busy     int // services that are being asked about
	waiting  int // calls
}

// reflected is what is known of a service.
type reflected struct {
	set     methodkind.Set // nil: nothing yet
	until   time.Time
	busy    bool
	waiting []func(methodkind.Set) // decide calls; until there is a set
}

func newReflector(b *upstream.Backend, plan *backendPlan, log *slog.Logger) *reflector {
	r := &reflector{backend: b, plan: plan, log: log, services: map[string]*reflected{}}
	r.ctx, r.cancel = context.WithCancel(context.Background())

	return r
}

// close ends what is going on; calls that wait are decided.
func (r *reflector) close() {
	r.cancel()
	r.asking.Wait()
}

// ask has decide told whether a method streams its responses: at once if its service is known, else
// within reflectTimeout and from another goroutine.
func (r *reflector) ask(service, fullMethod string, decide func(streams bool)) {
	r.mu.Lock()
	s := r.services[service]
	if s == nil && (len(r.services) < maxReflected || r.forget()) {
		s = &reflected{}
		r.services[service] = s
	}
	if s != nil && !s.busy && time.Now().After(s.until) && r.busy < maxReflecting && r.ctx.Err() == nil {
		s.busy = true
		r.busy++
		r.asking.Go(func() { r.reflect(service, s) }) // ends within reflectTimeout, or with close
	}
	if s != nil && s.set == nil && s.busy && r.waiting < maxUndecided {
		r.waiting++
		s.waiting = append(s.waiting, func(set methodkind.Set) { decide(streamsBy(set, fullMethod)) })
		r.mu.Unlock()
		return
	}
	var set methodkind.Set
	if s != nil {
		set = s.set
	}
	r.mu.Unlock()
	decide(streamsBy(set, fullMethod))
}

// forget drops a service of which nothing is known, and reports whether there was one: callers may name any number of services that
// no backend has, and shall not keep those from being known that are there. mu is held.
func (r *reflector) forget() bool {
	for name, s := range r.services {
		if !s.busy && len(s.set) == 0 {
			delete(r.services, name)
			return true
		}
	}

	return false
}

// streamsBy reports what is known of a method; what is not known streams.
func streamsBy(set methodkind.Set, fullMethod string) bool {
	streams, known := set.Streams(fullMethod)

	return streams || !known
}

// reflect asks about a service, and decides the calls that wait for it.
func (r *reflector) reflect(service string, s *reflected) {
	set, err := r.query(service)
	if err != nil && r.ctx.Err() == nil {
		r.log.Warn("method kinds unknown, calls are taken for streaming", "backend", r.backend.Name(), "service", service, "error", err)
	}
	r.mu.Lock()
	s.busy = false
	r.busy--
	switch {
	case err == nil:
		s.set, s.until = set, time.Now().Add(reflectFor)
	case s.set == nil:
		s.set = methodkind.Set{}
		fallthrough
	default:
		s.until = time.Now().Add(reflectAgain)
	}
	waiting, known := s.waiting, s.set
	s.waiting = nil
	r.waiting -= len(waiting)
	r.mu.Unlock()
	for _, decide := range waiting {
		decide(known)
	}
}

// query asks the endpoints, those first that take calls like any other: one more whenever one has not answered for a while, or
// has nothing to tell. So a silent one costs calls that wait no more than reflectHedge.
func (r *reflector) query(service string) (methodkind.Set, error) {
	var asking sync.WaitGroup
	defer asking.Wait()
	ctx, cancel := context.WithTimeout(r.ctx, reflectTimeout)
	defer cancel()
	all := r.candidates()
	answers := make(chan reflection, len(all))
	next := time.NewTimer(0)
	defer next.Stop()
	last := reflection{err: errors.New("the backend has no endpoint")}
	for asked, heard := 0, 0; heard < len(all); {
		select {
		case <-next.C:
			if asked < len(all) {
				e := all[asked]
				asking.Go(func() { // ends with its answer, or with query
					set, err := r.queryAt(ctx, e, service)
					answers <- reflection{set, err}
				})
				asked++
				next.Reset(reflectHedge)
			}
		case a := <-answers:
			if len(a.set) > 0 {
				return a.set, nil
			}
			if heard++; heard == 1 || a.err == nil {
				last = a
			}
			next.Reset(0)
		}
	}

	return last.set, last.err
}

// reflection is what one endpoint says of a service: nothing, if it does not know it.
type reflection struct {
	set methodkind.Set
	err error
}

// candidates returns the endpoints to ask.
func (r *reflector) candidates() []upstream.EndpointStatus {
	all := r.backend.Endpoints()
	slices.SortStableFunc(all, func(a, b upstream.EndpointStatus) int {
		switch {
		case a.Usable() == b.Usable():
			return 0
		case a.Usable():
			return -1
		}
		return 1
	})

	return all[:min(len(all), reflectTries)]
}

func (r *reflector) queryAt(ctx context.Context, e upstream.EndpointStatus, service string) (methodkind.Set, error) {
	tls, err := r.plan.ClientTLS(r.log)
	if err != nil {
		return nil, err
	}
	creds := insecure.NewCredentials()
	if e.Address.TLS || r.plan.TLS != nil {
		creds = credentials.NewTLS(tls)
	}
	target := "passthrough:///" + e.Address.Addr
	if e.Address.Network == "unix" {
		target = "unix:" + e.Address.Addr
	}
	options := []grpc.DialOption{grpc.WithTransportCredentials(creds), grpc.WithDisableServiceConfig(), grpc.WithNoProxy()}
	if r.plan.Authority != "" {
		options = append(options, grpc.WithAuthority(r.plan.Authority))
	}
	conn, err := grpc.NewClient(target, options...)
	if err != nil {
		return nil, err
	}
	defer conn.Close() //nolint:errcheck // it has told what it knows

	return methodkind.Ask(ctx, conn, service)
}
