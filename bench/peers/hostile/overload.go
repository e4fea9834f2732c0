// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/manifold-grpc/manifold/bench/peers/child"
)

const (
	// memoryLimit is what the relay gets for the overload.
	memoryLimit = "256MiB"
	// crowdSize is the length of the messages.
	crowdSize = 8 << 10
	// perConnection is how many calls a connection has at once.
	perConnection = 100
)

// crowdPlan is what a crowd does: as many connections with as many calls at once as there may be, for a time.
type crowdPlan struct {
	Addr        string
	Connections int
	Duration    time.Duration
	Hold        time.Duration // the backend answers after it
	Pause       time.Duration // after a refused call
}

// crowdResult counts its calls by how they ended.
type crowdResult struct {
	Codes map[string]int
	Wall  time.Duration
}

// crowdRole is a crowd as a process. A call that was refused is made again after a pause, as clients do.
func crowdRole(_ json.RawMessage, session *child.Session) error {
	return session.Serve(nil, func(text json.RawMessage) (any, error) {
		var p crowdPlan
		if err := json.Unmarshal(text, &p); err != nil {
			return nil, err
		}
		return p.run()
	})
}

func (p crowdPlan) run() (r crowdResult, err error) {
	r.Codes = map[string]int{}
	var mu sync.Mutex
	var running sync.WaitGroup
	ctx, cancel := context.WithTimeout(context.Background(), p.Duration)
	defer cancel()
	begin := time.Now()
	for range p.Connections {
		cc, err := grpc.NewClient("passthrough:///"+p.Addr, grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithDefaultCallOptions(grpc.ForceCodec(octets{})))
		if err != nil {
			return r, err
		}
		defer cc.Close() //nolint:errcheck // over either way
		for range perConnection {
			running.Go(func() { // ends with ctx
				mine := p.callUntil(ctx, cc)
				mu.Lock()
				defer mu.Unlock()
				for code, n := range mine {
					r.Codes[code.String()] += n
				}
			})
		}
	}
	running.Wait()
	r.Wall = time.Since(begin)
	return r, nil
}

// callUntil calls until ctx ends, and counts what came of the calls that ended before.
func (p crowdPlan) callUntil(ctx context.Context, cc *grpc.ClientConn) map[codes.Code]int {
	ended := map[codes.Code]int{}
	req, method := make([]byte, crowdSize), "/bench.Peers/Echo"
	if p.Hold > 0 {
		binary.BigEndian.PutUint32(req[12:], uint32(p.Hold/time.Millisecond))
		method = "/bench.Peers/Hold"
	}
	for ctx.Err() == nil {
		var res []byte
		err := cc.Invoke(ctx, method, &req, &res)
		code := status.Code(err)
		if err == nil && len(res) != len(req) {
			code = codes.DataLoss
		}
		if ctx.Err() != nil {
			break
		}
		ended[code]++
		if err != nil {
			time.Sleep(p.Pause)
		}
	}
	return ended
}

// overload prints what becomes of ever more calls at once, as fast as they go. The clients' and the backend's own share
// of it, which is most on a machine that all parties run on, shows with -proxy direct.
func (m *measurement) overload() error {
	return m.crowds("calls of 8 KiB at once", backendConfig{}, []int{1, 2, 10, 50}, crowdPlan{Duration: m.duration, Pause: 100 * time.Millisecond})
}

// capacity prints what becomes of five times as many calls at once as the backend takes: 100 on each of the relay's 16
// connections to it, each for a tenth of the time. What limits their rate is then not the CPU that the
// clients take from relay and backend. Who is refused comes again as soon as who is served.
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
	fmt.Fprintf(m.out, "\n| GOMEMLIMIT=%s, %s | calls/s | other ends | RSS of the relay |\n|---|---|---|---|\n", memoryLimit, title)
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
	if err := crowd.Ask(plan, &r); err != nil {
		return err
	}
	ok := r.Codes[codes.OK.String()]
	delete(r.Codes, codes.OK.String())
	var others []string
	for _, code := range slices.Sorted(maps.Keys(r.Codes)) {
		others = append(others, fmt.Sprintf("%d %s", r.Codes[code], code))
	}
	u, err := p.usage()
	fmt.Fprintf(m.out, "| %d × %d | %.0f | %s | %.0f MiB |\n", plan.Connections, perConnection, float64(ok)/r.Wall.Seconds(),
		strings.Join(others, ", "), float64(u.RSS)/(1<<20))
	return err
}
