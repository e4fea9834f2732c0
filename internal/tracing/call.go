// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package tracing

import (
	"context"
	"net"
	"strings"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
	otelcodes "go.opentelemetry.io/otel/codes"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc/codes"

	"github.com/manifold-grpc/manifold/relay"
)

// A Call is the spans of a sampled call. Its methods are for the Route function and the hooks of the same names; the
// hooks have the call's lock held. A nil *Call does nothing.
type Call struct {
	// Immutable.
	tracer *Tracer
	ctx    context.Context // has span
	span   trace.Span
	name   string // of spans, without what is before it
	fresh  bool   // the caller's own headers say nothing
	flags  trace.TraceFlags

	mu sync.Mutex
	// Guarded by mu: a call may end, by its deadline, while it is routed.
	attempt     trace.Span // the current one, nil between two
	number      int        // of attempt, from 0
	retries     int        // attempts before that the upstream may have seen
	transparent bool       // the upstream did nothing about the one before
	targets     []target
	last        time.Time // when a span began or ended last
}

// target is the span of a target; nil before its turn.
type target struct {
	span  trace.Span
	began time.Time
}

// Routed notes which way a call takes.
func (c *Call) Routed(route, backend string) {
	if c == nil {
		return
	}
	c.span.SetAttributes(attribute.String("manifold.route", route))
	if backend != "" {
		c.span.SetAttributes(attribute.String("manifold.backend", backend))
	}
}

// AttemptOpening begins the span of an attempt, and makes it the parent of what the upstream does.
func (c *Call) AttemptOpening(rc *relay.Call, n int) {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.attempt == nil { // else the one before could not be opened after all
		c.number = n
		c.attempt = c.start(rc.Backend(), attribute.Int("previous-rpc-attempts", c.retries), attribute.Bool("transparent-retry", c.transparent))
	}
	c.pass(rc, c.attempt)
}

// TargetOpening is AttemptOpening for the target of a one-to-many call at a place among its targets. All attempts at a target
// have one span.
func (c *Call) TargetOpening(rc *relay.Call, index int, to *relay.Target) {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.targets) <= index {
		c.targets = append(c.targets, target{})
	}
	t := &c.targets[index]
	if t.span == nil {
		t.span = c.start(to.Backend, attribute.String("manifold.target", to.Name))
		t.began = c.last
	}
	c.pass(rc, t.span)
}

// start begins a span below the call's. It is of kind CLIENT, not INTERNAL as A72 has it below a span Sent.<method>, which a proxy
// has no use for: the upstream's span is its child, and tools join the two by this. mu is held.
func (c *Call) start(to *relay.Backend, attrs ...attribute.KeyValue) trace.Span {
	if to != nil {
		attrs = append(attrs, attribute.String("manifold.backend", to.Name))
	}
	c.last = time.Now()
	_, span := c.tracer.tracer.Start(c.ctx, "Attempt."+c.name, trace.WithTimestamp(c.last),
		trace.WithSpanKind(trace.SpanKindClient), trace.WithAttributes(append(attrs, semconv.RPCSystemNameGRPC)...))

	return span
}

// pass sets the headers of an attempt. A tracestate without a traceparent that goes with it has no meaning (Trace
// Context section 3.3).
func (c *Call) pass(rc *relay.Call, span trace.Span) {
	sc := span.SpanContext()
	var b [parentLen]byte
	rc.SetHeader(traceparent, string(parent{sc.TraceID(), sc.SpanID(), c.flags}.appendParent(b[:0])))
	if c.fresh {
		rc.DelHeader(tracestate)
	}
}

// AttemptRetried ends the span of an attempt that another one follows.
func (c *Call) AttemptRetried(_ *relay.Call, a relay.AttemptStats) {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.transparent = a.Reason == relay.ReasonUnprocessed
	if !c.transparent {
		c.retries++
	}
	if c.attempt == nil {
		return
	}
	if a.Endpoint != nil {
		c.attempt.SetAttributes(attribute.String("manifold.endpoint", a.Endpoint.Addr()))
	}
	c.last = time.Now()
	finish(c.attempt, c.last, a.Code, a.Reason)
	c.attempt = nil
}

// End ends all spans of the call.
func (c *Call) End(_ *relay.Call, s *relay.CallStats) {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	end := latest(s.Start.Add(s.Duration), c.last) // the relay's clock may be that of the batch, which began before the last attempt
	traffic := trafficOf(s.RequestMessages, s.RequestBytes, s.ResponseMessages, s.ResponseBytes)
	if c.attempt != nil && c.number < s.Attempts { // else it was never opened, and is no attempt
		c.attempt.SetAttributes(append(traffic, attribute.String("manifold.endpoint", s.Endpoint))...)
		finish(c.attempt, end, s.Code, s.Reason)
	}
	for i := range s.Targets {
		if t := &s.Targets[i]; i < len(c.targets) && c.targets[i].span != nil && t.Attempts > 0 {
			at := s.Start.Add(t.Total)
			if at.After(end) {
				at = end
			}
			endTarget(c.targets[i].span, latest(at, c.targets[i].began), t)
		}
	}
	c.span.SetAttributes(append(traffic, attribute.Int("manifold.attempts", s.Attempts))...)
	finish(c.span, end, s.Code, s.Reason)
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}

	return b
}

func endTarget(span trace.Span, at time.Time, t *relay.TargetStats) {
	span.SetAttributes(append(trafficOf(t.RequestMessages, t.RequestBytes, t.ResponseMessages, t.ResponseBytes),
		attribute.String("manifold.endpoint", t.Endpoint), attribute.Int("manifold.attempts", t.Attempts))...)
	finish(span, at, t.Code(), "")
}

func trafficOf(requestMessages, requestBytes, responseMessages, responseBytes int64) []attribute.KeyValue {
	return []attribute.KeyValue{
		attribute.Int64("manifold.request.messages", requestMessages), attribute.Int64("manifold.request.bytes", requestBytes),
		attribute.Int64("manifold.response.messages", responseMessages), attribute.Int64("manifold.response.bytes", responseBytes),
	}
}

// finish ends a span with a status: as in A72, all but OK are errors.
func finish(span trace.Span, at time.Time, code codes.Code, reason string) {
	name := codeName(code)
	span.SetAttributes(semconv.RPCResponseStatusCode(name))
	if reason != "" {
		span.SetAttributes(attribute.String("manifold.reason", reason))
	}
	if code == codes.OK {
		span.SetStatus(otelcodes.Ok, "")
	} else {
		span.SetStatus(otelcodes.Error, strings.TrimSuffix(name+": "+reason, ": "))
	}
	span.End(trace.WithTimestamp(at))
}

// codeNames are the names of the codes as gRPC's specification has them.
var codeNames = [...]string{
	"OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED",
	"FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
}

func codeName(c codes.Code) string {
	if int(c) < len(codeNames) {
		return codeNames[c]
	}

	return c.String()
}

// spanName returns the method as A72 has it in names of spans, with dots alone.
func spanName(c *relay.Call) string {
	name := strings.ReplaceAll(methodOf(c), "/", ".")

	return text(name[:min(len(name), maxName)])
}

func methodOf(c *relay.Call) string { return text(strings.TrimPrefix(c.Path(), "/")) }

// text mends what a caller wrote: OTLP's texts are UTF-8, and one that is not would cost the whole batch it is in.
func text(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }

// clientOf says who calls.
func clientOf(c *relay.Call) []attribute.KeyValue {
	switch addr := c.RemoteAddr().(type) {
	case *net.TCPAddr:
		return []attribute.KeyValue{semconv.ClientAddress(addr.IP.String()), semconv.ClientPort(addr.Port)}
	case nil:
		return nil
	default:
		return []attribute.KeyValue{semconv.ClientAddress(text(addr.String()))}
	}
}

// stateOf returns the caller's tracestate for the spans; it goes on as it came. Several are one list (section 3.3.1).
func stateOf(c *relay.Call) trace.TraceState {
	var parts []string
	for name, value := range c.Headers() {
		if name == tracestate {
			parts = append(parts, value)
		}
	}
	state, err := trace.ParseTraceState(strings.Join(parts, ","))
	if err != nil {
		return trace.TraceState{} // what is malformed is nobody's
	}

	return state
}
