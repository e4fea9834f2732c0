// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"context"
	"crypto/tls"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/manifold-grpc/manifold/internal/config"
)

// checks are the active checks of one member: a goroutine that watches, or asks now and then, over a connection of its
// own, with the same TLS as the calls have. Beside a watch it asks as well, as a watch alone does not tell an endpoint
// with no news from one that is gone. The connection is made anew for each watch, which ends after a number of
// intervals.
type checks struct {
	ctx   context.Context // ends when what is found is of no interest any more
	b     *Backend
	m     *member
	tally tally
	req   *healthpb.HealthCheckRequest

	interval, timeout time.Duration
	dial              []grpc.DialOption
	tls               func() *tls.Config // nil: plaintext
}

// watchIntervals is for how many intervals one watch goes on.
const watchIntervals = 10

// check starts the checks of m. changing is held.
func (b *Backend) check(m *member) {
	h := b.cfg.Health
	c := &checks{
		b: b, m: m, tally: tallyOf(h),
		req:      &healthpb.HealthCheckRequest{Service: h.Service},
		interval: or(time.Duration(h.Interval), 5*time.Second),
		timeout:  or(time.Duration(h.Timeout), time.Second),
	}
	if m.address.TLS {
		files := b.tls
		c.tls = func() *tls.Config { return named(files.Config(), m.serverName) }
	}
	c.dial = []grpc.DialOption{
		grpc.WithDisableServiceConfig(), grpc.WithNoProxy(), grpc.WithIdleTimeout(0),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return b.deps.Dial(ctx, m.address.Network, m.address.Addr)
		}),
	}
	if !m.address.TLS && (b.cfg.Authority != "" || m.address.Network == "unix") {
		c.dial = append(c.dial, grpc.WithAuthority(or(b.cfg.Authority, "localhost")))
	}
	c.ctx, m.stopChecks = context.WithCancel(b.life)
	b.running.Go(c.run) // ends with the context, when the member leaves or the backend ends
}

// run checks until ctx ends.
func (c *checks) run() {
	for c.ctx.Err() == nil {
		c.round()
		sleep(c.ctx, c.interval-c.interval/10+rand.N(c.interval/5+1))
	}
}

// round watches for a while, or checks once.
func (c *checks) round() {
	creds := insecure.NewCredentials()
	if c.tls != nil {
		creds = credentials.NewTLS(c.tls())
	}
	conn, err := grpc.NewClient("passthrough:///"+c.m.address.Addr, append(slices.Clip(c.dial), grpc.WithTransportCredentials(creds))...)
	if err != nil {
		c.failed(err)
		return
	}
	defer conn.Close() //nolint:errcheck // fails only if it is closed already
	client := healthpb.NewHealthClient(conn)
	for range watchIntervals {
		err := c.watch(client)
		if c.ctx.Err() != nil {
			return
		}
		if status.Code(err) != codes.Unimplemented {
			if err != nil {
				c.failed(err)
			}
			return
		}
		if !c.ask(client) {
			return
		}
		sleep(c.ctx, c.interval)
	}
}

// watch follows what the endpoint says; its error is nil when it did so to the end of its time.
func (c *checks) watch(client healthpb.HealthClient) error {
	total, cancel := context.WithTimeout(c.ctx, watchIntervals*c.interval)
	defer cancel()
	first := time.AfterFunc(c.timeout, cancel) // until it has said something
	defer first.Stop()
	stream, err := client.Watch(total, c.req)
	said := false
	var probes sync.WaitGroup
	var lost error
	for err == nil {
		var answer *healthpb.HealthCheckResponse
		if answer, err = stream.Recv(); err != nil {
			break
		}
		if !said {
			first.Stop()
			probes.Go(func() { lost = c.probe(total, client); cancel() }) // ends with the watch
		}
		said = true
		c.said(answer.GetStatus())
	}
	ended := total.Err() != nil
	cancel()
	probes.Wait()
	switch {
	case lost != nil && c.ctx.Err() == nil:
		c.report(c.tally.force(false), status.Convert(lost).Message())
		return nil
	case !ended:
		return err
	case said:
		return nil
	default:
		return status.Errorf(codes.DeadlineExceeded, "no answer within %v", c.timeout)
	}
}

// probe asks now and then whether the endpoint is there at all, for which a watch says nothing: until it is not, which is
// the error, or ctx ends.
func (c *checks) probe(ctx context.Context, client healthpb.HealthClient) error {
	for row := 0; ; {
		sleep(ctx, c.interval)
		one, cancel := context.WithTimeout(ctx, c.timeout)
		_, err := client.Check(one, c.req)
		cancel()
		switch {
		case ctx.Err() != nil:
			return nil
		case status.Code(err) != codes.DeadlineExceeded && status.Code(err) != codes.Unavailable:
			row = 0 // it is there, whatever it says
			continue
		}
		if row++; row >= c.tally.down {
			return status.Errorf(codes.DeadlineExceeded, "no answer to %d checks, the last: %s", row, status.Convert(err).Message())
		}
	}
}

// ask checks once, of an endpoint without Watch. It returns false if a new connection had better be made.
func (c *checks) ask(client healthpb.HealthClient) bool {
	ctx, cancel := context.WithTimeout(c.ctx, c.timeout)
	defer cancel()
	answer, err := client.Check(ctx, c.req)
	switch {
	case status.Code(err) == codes.Unimplemented:
		c.said(healthpb.HealthCheckResponse_SERVING) // it has no health to tell of: that it answers must do
	case err != nil:
		c.failed(err)
		return false
	case answer.GetStatus() == healthpb.HealthCheckResponse_SERVING:
		c.report(c.tally.add(true), "")
	default:
		c.report(c.tally.add(false), answer.GetStatus().String())
	}

	return true
}

// said takes what an endpoint says of itself, which counts at once.
func (c *checks) said(s healthpb.HealthCheckResponse_ServingStatus) {
	ok := s == healthpb.HealthCheckResponse_SERVING
	c.report(c.tally.force(ok), s.String())
}

// failed takes a check that came to nothing.
func (c *checks) failed(err error) { c.report(c.tally.add(false), status.Convert(err).Message()) }

// report makes it the member's health.
func (c *checks) report(h Health, why string) {
	b, m := c.b, c.m
	if h == Serving {
		why = ""
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if m.health == h || c.ctx.Err() != nil {
		return
	}
	before := m.health
	m.setHealth(h, why)
	b.refresh()
	if h == NotServing {
		b.deps.Log.Warn("endpoint not healthy", "backend", b.name, "endpoint", m.name, "cause", why)
	} else if before == NotServing {
		b.deps.Log.Info("endpoint healthy", "backend", b.name, "endpoint", m.name)
	}
	if hook := b.deps.Hooks.Health; hook != nil && h != Unchecked {
		hook(b.name, m.name, h == Serving, why)
	}
}

// tally makes a health of the results of checks. It is pure.
type tally struct {
	up, down int // results in a row that it takes
	health   Health
	row      int // results in a row that speak against health
}

func tallyOf(h *config.Health) tally {
	return tally{up: int(or(h.Healthy, 1)), down: int(or(h.Unhealthy, 2))}
}

// add takes the result of a check. The first one decides alone.
func (t *tally) add(ok bool) Health {
	switch {
	case t.health == Unchecked:
		return t.force(ok)
	case ok == (t.health == Serving):
		t.row = 0
		return t.health
	}
	t.row++
	if ok && t.row >= t.up || !ok && t.row >= t.down {
		return t.force(ok)
	}

	return t.health
}

// force takes what counts at once.
func (t *tally) force(ok bool) Health {
	t.row, t.health = 0, NotServing
	if ok {
		t.health = Serving
	}

	return t.health
}

// sleep returns after d, or when ctx ends.
func sleep(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
