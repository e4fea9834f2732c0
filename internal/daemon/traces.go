// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"fmt"
	"sync/atomic"

	"google.golang.org/grpc/credentials"

	"github.com/manifold-grpc/manifold/internal/config"
	"github.com/manifold-grpc/manifold/internal/metrics"
	"github.com/manifold-grpc/manifold/internal/status"
	"github.com/manifold-grpc/manifold/internal/tracing"
	"github.com/manifold-grpc/manifold/internal/upstream"
	"github.com/manifold-grpc/manifold/relay"
)

// tracingOf returns a file's tracing in the tracer's terms. Its files are read.
func tracingOf(t *config.Tracing, cfg *Config) (tracing.Config, error) {
	c := tracing.Config{
		Endpoint: "dns:///" + t.Endpoint.Addr, Headers: t.Headers, Sample: float64(config.DefaultSample), IgnoreCaller: t.IgnoreCaller,
		ServiceName: t.ServiceName, Version: cfg.Version, Log: cfg.Log,
	}
	if t.Endpoint.Network == "unix" {
		c.Endpoint = "unix:" + t.Endpoint.Addr
	}
	if t.Sample != nil {
		c.Sample = float64(*t.Sample)
	}
	if c.ServiceName == "" {
		c.ServiceName = "manifold"
	}
	if t.TLS == nil && !t.Endpoint.TLS {
		return c, nil
	}
	u := upstream.Config{Backend: config.Backend{TLS: t.TLS}}
	client, err := u.ClientTLS(cfg.Log)
	if err != nil {
		return c, fmt.Errorf("tracing: %w", err)
	}
	c.Credentials = credentials.NewTLS(client)

	return c, nil
}

// openTracer opens what the configuration has of it.
func (o *observer) openTracer(t *config.Tracing, cfg *Config) error {
	c, err := tracingOf(t, cfg)
	if err != nil {
		return err
	}
	if o.tracer, err = tracing.Open(c); err != nil {
		return fmt.Errorf("tracing: %w", err)
	}

	return nil
}

// traceID returns the trace that a call is part of, for the access log.
func (o *observer) traceID(c *relay.Call) string {
	var call *tracing.Call
	if t := tracedOf(c); t != nil {
		call = t.call
	}

	return o.tracer.TraceOf(c, call)
}

// traces returns what became of spans; nil without tracing.
func (o *observer) traces() *status.Tracing {
	if o.tracer == nil {
		return nil
	}
	s := o.tracer.Stats()

	return &status.Tracing{Sent: s.Sent, Dropped: s.Dropped, Failed: s.Failed}
}

// traced is the tag of a sampled call; that of others is its cell alone.
type traced struct {
	call *tracing.Call
	cell atomic.Pointer[metrics.Cell] // nil: it has no route yet, or none
}

// tracedOf returns that of a call; nil if it is not sampled.
func tracedOf(c *relay.Call) *traced {
	t, _ := c.Tag().(*traced)

	return t
}

// trace begins the spans of a call, if it is sampled. routed is whether it has a route.
func (r *router) trace(c *relay.Call, routed bool) {
	if r.tracer == nil {
		return
	}
	if call := r.tracer.Begin(c, r.frontend.name, routed); call != nil {
		c.SetTag(&traced{call: call})
	}
}

func targetOpening(c *relay.Call, target int, to *relay.Target, _ int) {
	if t := tracedOf(c); t != nil {
		t.call.TargetOpening(c, target, to)
	}
}
