// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"regexp"

	"github.com/manifold-grpc/manifold/bench/peers/load"
	"github.com/manifold-grpc/manifold/bench/peers/report"
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
	// Beside is a client that reads slowly, if it has connections. It comes after a first run.
	Beside load.Plan
	// Buffer is the budget for slow clients that the relay is given; 0 means its default.
	Buffer int64
	// Cost is the figure to compare, and Bars what is promised of the relay's.
	Cost report.Cost
	Bars report.Bars
}

// The scenarios at a fixed rate: what a proxy does for it is far less than it could.
const (
	pacedRate = 2000
	fewest    = "rate-64B-10"
)

// unreadBudget is the relay's memory for slow clients where 200 MiB wait for some.
const unreadBudget = 32 << 20

// scenarios returns all, in the order in which they are shown.
func scenarios() []Scenario {
	small := load.Call{Size: 64, Trips: 1}
	return append(closed(),
		Scenario{
			Name: "idle-1000", Title: "1000 idle connections, one stream each", Unit: "connection", Units: 1,
			Load: load.Plan{Connections: 1000, Streams: 1, Call: load.Call{Size: 64, Trips: 1, Hold: true}},
			Cost: report.CostIdle, Bars: report.Bars{Most: 12 << 10},
		},
		paced(10, small), paced(1000, small), paced(10_000, small),
		Scenario{
			Name: "slow-reader", Title: fmt.Sprintf("unary, 64 B, %d/s beside a client that reads 1 KiB/s", pacedRate), Unit: "call", Units: 1,
			Load:   load.Plan{Connections: 8, Streams: 1, Rate: pacedRate, Call: small},
			Beside: load.Plan{Connections: 1, Streams: 16, Read: 1 << 10, Call: load.Call{Size: 1 << 10, Trips: 1, Pull: 64 << 10}},
			Cost:   report.CostOthers, Bars: report.Bars{Most: 2},
		},
		Scenario{
			Name: "unread-200", Title: "200 unread streams, 1 MiB waiting for each", Unit: "call", Units: 1,
			Load:   load.Plan{Connections: 8, Streams: 1, Rate: pacedRate, Call: small},
			Beside: load.Plan{Connections: 4, Streams: 50, Call: load.Call{Size: 1 << 10, Trips: 1, Pull: 1 << 10}},
			Buffer: unreadBudget, Cost: report.CostWaiting, Bars: report.Bars{Most: unreadBudget},
		})
}

// closed returns the scenarios of calls in a closed loop, without TLS and with it.
func closed() []Scenario {
	some := calls()
	for _, s := range calls() {
		some = append(some, withTLS(s))
	}
	return some
}

// calls returns those without TLS.
func calls() []Scenario {
	small := load.Call{Size: 64, Trips: 1}
	timed := load.Call{Size: 64, Trips: 1, Timeouts: true}
	large := load.Call{Size: 64 << 10, Trips: 1}
	huge := load.Call{Size: 1 << 20, Trips: 1}
	// What is allocated per call, for a message among many of a call next to nothing.
	one := report.Bars{Peer: 0.85, NoWorse: true, Objects: 2}
	many := report.Bars{Peer: 0.5, Floor: 1.25, NoWorse: true, Objects: 2}
	bulk := report.Bars{Peer: 1, Floor: 1.25, NoWorse: true, Objects: 2}
	messages, trips := bulk, many
	messages.Objects, trips.Objects = 0.05, 0.05
	return []Scenario{
		unary("unary-64B-1x1", "unary, 64 B", 1, 1, small, one),
		unary("unary-64B-1x100", "unary, 64 B", 1, 100, small, many),
		unary("unary-64B-8x100", "unary, 64 B", 8, 100, small, many),
		unary("unary-64B-50x10", "unary, 64 B", 50, 10, small, many),
		unary("timeouts-64B-1x100", "unary, 64 B, varying grpc-timeout", 1, 100, timed, report.Bars{NoWorse: true}),
		unary("unary-64KiB-1x10", "unary, 64 KiB", 1, 10, large, bulk),
		unary("unary-1MiB-1x4", "unary, 1 MiB", 1, 4, huge, bulk),
		{
			Name: "stream-1KiB-1x10", Title: "server stream of 1000 × 1 KiB, 1 × 10", Unit: "message", Units: 1000,
			Load: load.Plan{Connections: 1, Streams: 10, Call: load.Call{Size: 1 << 10, Trips: 1, Pull: 1000}}, Bars: messages,
		},
		{
			Name: "pingpong-64B-1x100", Title: "bidi ping-pong, 64 B, 1 × 100", Unit: "round trip", Units: 100,
			Load: load.Plan{Connections: 1, Streams: 100, Call: load.Call{Size: 64, Trips: 100}}, Bars: trips,
		},
	}
}

func unary(name, title string, connections, streams int, call load.Call, bars report.Bars) Scenario {
	return Scenario{
		Name: name, Title: fmt.Sprintf("%s, %d × %d", title, connections, streams), Unit: "call", Units: 1,
		Load: load.Plan{Connections: connections, Streams: streams, Call: call}, Bars: bars,
	}
}

// withTLS is s with TLS before the proxies. Of package proxy's TLS nothing is promised.
func withTLS(s Scenario) Scenario {
	s.Name, s.Title, s.TLS = "tls-"+s.Name, "TLS, "+s.Title, true
	s.Bars = report.Bars{Peer: 1, Peers: []string{"haproxy", "nginx", "nghttpx"}}
	return s
}

// paced is one rate of calls, spread over some connections.
func paced(connections int, call load.Call) Scenario {
	s := Scenario{
		Name: fmt.Sprintf("rate-64B-%d", connections), Title: fmt.Sprintf("unary, 64 B, %d/s over %d connections", pacedRate, connections), Unit: "call", Units: 1,
		Load: load.Plan{Connections: connections, Streams: 1, Rate: pacedRate, Call: call},
	}
	if s.Name != fewest {
		s.Bars.Growth, s.Bars.Of = 1.25, fewest
	}
	return s
}

// chosen returns the scenarios whose names match an expression and whose load the ends can make.
func chosen(expression, ends string) ([]Scenario, error) {
	match, err := regexp.Compile(expression)
	if err != nil {
		return nil, err
	}
	var some []Scenario
	all := scenarios()
	if ends != endsWire {
		all = closed()
	}
	for _, s := range all {
		if match.MatchString(s.Name) {
			some = append(some, s)
		}
	}
	if len(some) == 0 {
		return nil, fmt.Errorf("no scenario matches %q", expression)
	}
	return some, nil
}
