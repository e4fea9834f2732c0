// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package relay_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/manifold-grpc/manifold/relay"
)

// mirror answers with the messages, and in header and trailer with the "id" of the request.
func mirror(_ any, st grpc.ServerStream) error {
	md, _ := metadata.FromIncomingContext(st.Context())
	if err := st.SetHeader(metadata.MD{"id": md["id"]}); err != nil {
		return err
	}
	st.SetTrailer(metadata.MD{"id": md["id"]})
	return echo(nil, st)
}

// caller is one of those whose calls must not mix.
type caller struct {
	cc       *grpc.ClientConn
	rng      *rand.Rand
	id       string
	canceled *atomic.Int64
}

// payload is unlike that of any other call, in each of its octets' places.
func (c *caller) payload(i int) string {
	mark := fmt.Sprintf("<%s message %d>", c.id, i)
	return strings.Repeat(mark, 1+c.rng.IntN(3000)/len(mark)*c.rng.IntN(8))
}

// call makes a call of up to 4 messages, and gives it up in its midst one time of eight.
func (c *caller) call(ctx context.Context) error {
	ctx, cancel := context.WithCancel(metadata.AppendToOutgoingContext(ctx, "id", c.id))
	defer cancel()
	st, err := c.cc.NewStream(ctx, bidi, "/mirror.Service/Method")
	if err != nil {
		return err
	}
	messages := 1 + c.rng.IntN(4)
	giveUp := -1
	if c.rng.IntN(8) == 0 {
		giveUp = c.rng.IntN(messages)
		c.canceled.Add(1)
	}
	for i := range messages {
		want := c.payload(i)
		if err := send(st, want); err != nil {
			return err
		}
		if i == giveUp {
			cancel()
			if _, err := recv(st); err != nil && status.Code(err) != codes.Canceled {
				return err
			}
			return nil
		}
		if got, err := recv(st); err != nil || got != want {
			return fmt.Errorf("message %d: %d octets %.60q, %v; want %d octets %.60q", i, len(got), got, err, len(want), want)
		}
	}
	return c.finish(st)
}

// finish ends the call and looks whose header and trailer came.
func (c *caller) finish(st grpc.ClientStream) error {
	if err := st.CloseSend(); err != nil {
		return err
	}
	if got, err := recv(st); err == nil {
		return fmt.Errorf("one message too many: %.60q", got)
	}
	header, err := st.Header()
	if err != nil {
		return err
	}
	for name, md := range map[string]metadata.MD{"header": header, "trailer": st.Trailer()} {
		if got := strings.Join(md["id"], ","); got != c.id {
			return fmt.Errorf("%s is that of %q", name, got)
		}
	}
	return nil
}

// TestCrossTalk has thousands of streams at once share two upstream connections, calls ended at
// random moments among them: every answer is that of its own call. Built with -tags poison, buffers are
// overwritten when they are given back, so that a use after that shows as well.
func TestCrossTalk(t *testing.T) {
	conns, rounds := 20, 5 // 100 streams on each: 10,000 calls in all, 2,000 of them at once
	if raceEnabled || testing.Short() {
		conns, rounds = 4, 2
	}
	r := start(t, rigConfig{
		endpoint: relay.EndpointConfig{MaxConnections: 2, MaxWaiting: 1 << 20},
	}, serve(t, mirror, grpc.MaxConcurrentStreams(5000)), serve(t, mirror, grpc.MaxConcurrentStreams(200)))
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	var wg sync.WaitGroup
	var canceled, failed atomic.Int64
	for conn := range conns {
		cc := dial(t, r.addr)
		for stream := range 100 {
			wg.Go(func() {
				for round := range rounds {
					c := &caller{
						cc: cc, id: fmt.Sprintf("%d/%d/%d", conn, stream, round), canceled: &canceled,
						rng: rand.New(rand.NewPCG(uint64(conn*100+stream), uint64(round))),
					}
					if err := c.call(ctx); err != nil && failed.Add(1) < 10 {
						t.Errorf("call %s: %v", c.id, err)
					}
				}
			})
		}
	}
	wg.Wait()
	t.Logf("%d calls, %d given up, %d failed", conns*100*rounds, canceled.Load(), failed.Load())
	eventually(t, func() bool { return r.InFlight() == 0 && r.Buffered() == 0 }, "the last of the calls that were given up")
}
