// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"slices"
	"strings"

	"github.com/manifold-grpc/manifold/internal/route"
)

// HealthService is what the daemon answers itself, unless a route has exactly this service.
const HealthService = "grpc.health.v1.Health"

// guardedPrefixes are services that tell strangers too much: reflection, channelz, and CSDS, which
// grpc-go's admin package serves beside it.
var guardedPrefixes = []string{"grpc.reflection.", "grpc.channelz.", "envoy.service.status."}

// Guarded reports whether a service is denied on frontends with TLS, which face strangers,
// unless the route that takes the call names the service; see [Match.Names].
func Guarded(service string) bool {
	return slices.ContainsFunc(guardedPrefixes, func(p string) bool { return strings.HasPrefix(service, p) })
}

// Names reports whether a match that takes a call does so for the name of its service.
func (m *Match) Names() bool { return m.Service != "" && m.Service != "*" }

// Table returns what finds the routes of calls, by their indices.
func (c *Config) Table() *route.Table {
	table, _ := route.New(c.matches()) // the parser has told of conflicts

	return table
}
