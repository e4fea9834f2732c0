// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"regexp"

	"github.com/manifold-grpc/manifold/bench/peers/load"
)

// Scenario is a load that all proxies get.
type Scenario struct {
	Name  string
	Title string
	// Unit is what CPU and throughput are counted by; a call has Units of them.
	Unit  string
	Units int
	// TLS has the frontend speak TLS.
	TLS  bool
	Load load.Plan // without address
}

// scenarios returns all, in the order in which they are shown.
func scenarios() []Scenario {
	small := load.Call{Size: 64, Trips: 1}
	timed := load.Call{Size: 64, Trips: 1, Timeouts: true}
	large := load.Call{Size: 64 << 10, Trips: 1}
	huge := load.Call{Size: 1 << 20, Trips: 1}
	return []Scenario{
		unary("unary-64B-1x1", "unary, 64 B", 1, 1, small),
		unary("unary-64B-1x100", "unary, 64 B", 1, 100, small),
		unary("unary-64B-8x100", "unary, 64 B", 8, 100, small),
		unary("unary-64B-50x10", "unary, 64 B", 50, 10, small),
		unary("timeouts-64B-1x100", "unary, 64 B, varying grpc-timeout", 1, 100, timed),
		unary("unary-64KiB-1x10", "unary, 64 KiB", 1, 10, large),
		unary("unary-1MiB-1x4", "unary, 1 MiB", 1, 4, huge),
		{
			Name: "stream-1KiB-1x10", Title: "server stream of 1000 × 1 KiB, 1 × 10", Unit: "message", Units: 1000,
			Load: load.Plan{Connections: 1, Streams: 10, Call: load.Call{Size: 1 << 10, Trips: 1, Pull: 1000}},
		},
		{
			Name: "pingpong-64B-1x100", Title: "bidi ping-pong, 64 B, 1 × 100", Unit: "round trip", Units: 100,
			Load: load.Plan{Connections: 1, Streams: 100, Call: load.Call{Size: 64, Trips: 100}},
		},
		{
			Name: "idle-1000", Title: "1000 idle connections, one stream each", Unit: "connection", Units: 1,
			Load: load.Plan{Connections: 1000, Streams: 1, Call: load.Call{Size: 64, Trips: 1, Hold: true}},
		},
		withTLS(unary("tls-64B-1x100", "TLS, unary, 64 B", 1, 100, small)),
		withTLS(unary("tls-64KiB-1x10", "TLS, unary, 64 KiB", 1, 10, large)),
	}
}

func unary(name, title string, connections, streams int, call load.Call) Scenario {
	return Scenario{
		Name: name, Title: fmt.Sprintf("%s, %d × %d", title, connections, streams), Unit: "call", Units: 1,
		Load: load.Plan{Connections: connections, Streams: streams, Call: call},
	}
}

func withTLS(s Scenario) Scenario {
	s.TLS = true
	return s
}

// chosen returns the scenarios whose names match an expression.
func chosen(expression string) ([]Scenario, error) {
	match, err := regexp.Compile(expression)
	if err != nil {
		return nil, err
	}
	var some []Scenario
	for _, s := range scenarios() {
		if match.MatchString(s.Name) {
			some = append(some, s)
		}
	}
	if len(some) == 0 {
		return nil, fmt.Errorf("no scenario matches %q", expression)
	}
	return some, nil
}
