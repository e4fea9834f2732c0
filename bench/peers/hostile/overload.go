// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/manifold-grpc/manifold/bench/peers/usage"
)

// memoryLimit is what the relay gets for the overload.
const memoryLimit = "256MiB"

// overload prints what becomes of ever more calls at once, as fast as they go. The clients' and the backend's own share
// of it, which is most on a machine that all parties run on, shows with -proxy direct.
func (m *measurement) overload() error {
	return m.crowds("calls of 8 KiB at once", backendConfig{}, []int{1, 2, 10, 50}, crowdPlan{Duration: m.duration, Pause: 100 * time.Millisecond})
}

// capacity prints what becomes of five times as many calls at once as the backend takes: 100 on each of the relay's 16
// connections to it, each for a tenth of the time. What limits their rate is then not CPU, as the last column shows. Who is
// refused comes again after as long. The rate is of the time after the first calls can have been served.
func (m *measurement) capacity() error {
	hold := m.duration / 10
	title := fmt.Sprintf("a backend with 1600 places for %v each, calls at once", hold)
	return m.crowds(title, backendConfig{Streams: perConnection}, []int{8, 16, 32, 80}, crowdPlan{Duration: m.duration, Hold: hold, Pause: hold})
}

// crowds prints a line for each number of connections.
func (m *measurement) crowds(title string, c backendConfig, connections []int, plan crowdPlan) error {
	if err := os.Setenv("GOMEMLIMIT", memoryLimit); err != nil {
		return err
	}
	defer os.Unsetenv("GOMEMLIMIT") //nolint:errcheck // set before
	fmt.Fprintf(m.out, "\n| GOMEMLIMIT=%s, %s | calls/s | other ends | RSS of the relay | CPU of crowd, relay, backend |\n|---|---|---|---|---|\n", memoryLimit, title)
	for _, plan.Connections = range connections {
		if err := m.crowd(c, plan); err != nil {
			return err
		}
	}
	return nil
}

func (m *measurement) crowd(c backendConfig, plan crowdPlan) error {
	p, err := m.start(c)
	if err != nil {
		return err
	}
	defer p.stop()
	var r crowdResult
	// As a role without a limit of its own: it is not what is measured.
	limit := os.Getenv("GOMEMLIMIT")
	if err := os.Unsetenv("GOMEMLIMIT"); err != nil {
		return err
	}
	crowd, err := m.startHostile(roleCrowd, 2)
	if rerr := os.Setenv("GOMEMLIMIT", limit); err == nil {
		err = rerr
	}
	if err != nil {
		return err
	}
	defer crowd.Stop()
	plan.Addr = p.proxy.Addr
	pids := []int{crowd.PID(), p.proxy.PID, p.backend.PID()}
	before, err := cpuOf(pids)
	if err != nil {
		return err
	}
	if err := crowd.Ask(plan, &r); err != nil {
		return err
	}
	after, err := cpuOf(pids)
	if err != nil {
		return err
	}
	u, err := p.usage()
	fmt.Fprintf(m.out, "| %d × %d | %.0f | %s | %.0f MiB |", plan.Connections, perConnection, float64(r.Codes["0"])/(r.Wall-plan.Hold).Seconds(), r.others(), float64(u.RSS)/(1<<20))
	for i := range pids {
		fmt.Fprintf(m.out, " %.0f %%", 100*(after[i]-before[i]).Seconds()/r.Wall.Seconds())
	}
	fmt.Fprintln(m.out, " |")
	return err
}

// others says how many calls ended with what else than OK.
func (r crowdResult) others() string {
	var others []string
	for _, number := range slices.Sorted(maps.Keys(r.Codes)) {
		if n, err := strconv.Atoi(number); err != nil || n != int(codes.OK) {
			others = append(others, fmt.Sprintf("%d %v", r.Codes[number], codes.Code(n)))
		}
	}
	return strings.Join(others, ", ")
}

// cpuOf returns what processes have spent; 0 where there is none.
func cpuOf(pids []int) ([]time.Duration, error) {
	spent := make([]time.Duration, len(pids))
	for i, pid := range pids {
		if pid == 0 {
			continue
		}
		u, err := usage.Of(pid)
		if err != nil {
			return nil, err
		}
		spent[i] = u.CPU
	}
	return spent, nil
}
