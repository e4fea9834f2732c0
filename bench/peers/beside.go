// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"github.com/manifold-grpc/manifold/bench/peers/load"
	"github.com/manifold-grpc/manifold/bench/peers/proxies"
	"github.com/manifold-grpc/manifold/bench/peers/report"
)

// connections is how many clients' connections a scenario opens.
func (s Scenario) connections() int { return s.Load.Connections + s.Beside.Connections }

// beside measures calls alone, and then beside a client that reads slowly: what the
// others notice, and what the proxy holds for it.
func (b *bench) beside(s Scenario, plan load.Plan, p *proxies.Running) (report.Sample, error) {
	if err := b.load.Ask(load.Request{Open: &plan}, nil); err != nil {
		return report.Sample{}, err
	}
	if _, err := b.put(b.options.duration / 4); err != nil {
		return report.Sample{}, err
	}
	alone, err := b.put(b.options.duration)
	if err != nil {
		return report.Sample{}, err
	}
	first, err := b.look(p)
	if err != nil {
		return report.Sample{}, err
	}
	slow := s.Beside
	slow.Addr, slow.Join = plan.Addr, plan.Join
	if err := b.load.Ask(load.Request{Beside: &slow}, nil); err != nil {
		return report.Sample{}, err
	}
	if _, err := b.put(b.options.duration / 2); err != nil { // until all that waits is there
		return report.Sample{}, err
	}
	before, err := b.look(p)
	if err != nil {
		return report.Sample{}, err
	}
	result, err := b.put(b.options.duration)
	if err != nil {
		return report.Sample{}, err
	}
	after, err := b.look(p)
	if err != nil {
		return report.Sample{}, err
	}
	sample := sampleOf(after.since(before), float64(result.Calls*s.Units))
	sample.Rate = float64(result.Calls*s.Units) / result.Wall.Seconds()
	sample.P50, sample.P99, sample.Alone = result.P50, result.P99, alone.P99
	sample.Memory = max(0, float64(after.proxy.RSS-first.proxy.RSS))
	return sample, nil
}
