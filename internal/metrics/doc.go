// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

// Package metrics counts what calls do, at the price of a lookup and some atomic additions for each call, and
// shows it to Prometheus, to the status page and to whoever asks for its history.
//
// A [Registry] holds a [Cell] for each frontend, route, backend and method that a label may name. Whoever
// builds the routes asks for a [Route] with cells made beforehand; for each call [Route.Cell] finds one, which is
// told of the start, and in the end of what became of the call. Nothing is formatted, hashed or allocated then but
// for the first call with a code. All that Prometheus wants to see is worked out when it asks.
//
// What is a label is bounded by the configuration, not by what clients send: a method has its name
// only if a route or a descriptor has it, else that of the route's pattern.
//
// The names are those of gRFC A66 and A94 as OpenTelemetry's rules for Prometheus spell them, and beside them those
// of the go-grpc-prometheus family, which dashboards know. They are written by package prometheus from the cells; the
// OpenTelemetry SDK would give the same text for a map lookup and a lock at each of its ten instruments.
package metrics
