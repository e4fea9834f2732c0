// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

// Package tracing makes spans of calls, as gRFC A72 names them, and sends them to a collector by
// OTLP. A sampled call has a span Recv.<method>, and below it a span Attempt.<method> for each
// attempt, or for each target of a one-to-many call.
//
// Whether a call is sampled is said by its caller, in the W3C traceparent, else by a share. The headers of
// a call that is not sampled stay as they are, and nothing is made for it. A sampled one gets a traceparent for each
// attempt, with the span of the attempt as the parent; its tracestate stays.
//
//	t, err := tracing.Open(tracing.Config{Endpoint: "collector:4317", Sample: 0.01, ServiceName: "manifold"})
//	...
//	call := t.Begin(c, frontend, known) // in the Route function; nil: not sampled
//	call.Routed(route, backend)
//	call.AttemptOpening(c, n)           // in the hooks of the same names
//	call.End(c, &stats)
//
// No call ever waits for the collector: spans wait in a queue with a bound, and are dropped and counted when it is full.
package tracing
