// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package h2

import (
	"errors"
	"io"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/manifold-grpc/manifold/internal/h2/flow"
	"github.com/manifold-grpc/manifold/internal/h2/frame"
	"github.com/manifold-grpc/manifold/internal/h2/hpack"
	"github.com/manifold-grpc/manifold/internal/memnet"
)

// restless is a client's owner that opens, sends and resets from several
// goroutines at once.
type restless struct {
	owner
	free chan struct{} // room may be there
}

func (r *restless) Headers(*Stream, *Batch, Head)                  {}
func (r *restless) Data(_ *Stream, _ *Batch, p []byte, _ bool) int { return len(p) }
func (r *restless) End(*Stream, *Batch, End)                       {}
func (r *restless) Credit(*Stream, *Batch, int)                    {}
func (r *restless) Ready(*Conn, *Batch)                            {}
func (r *restless) GoAway(*Conn, *Batch, frame.Code)               {}

func (r *restless) Free(*Conn, *Batch) {
	select {
	case r.free <- struct{}{}:
	default:
	}
}

// use makes n calls, each cut off at some moment.
func (r *restless) use(c *Conn, seed uint64, n int) {
	rnd := rand.New(rand.NewPCG(seed, 0))
	payload := make([]byte, 40_000)
	for range n {
		var b Batch
		s := &Stream{}
		if err := c.Open(&b, s, own(requestFields), false); errors.Is(err, ErrFull) {
			c.NotifyFree(&b)
			b.Flush()
			<-r.free
			continue
		} else if err != nil {
			return
		}
		for range rnd.IntN(4) {
			s.Send(&b, payload[:rnd.IntN(len(payload))], false) //nolint:errcheck // resets come soon enough
			if rnd.IntN(3) == 0 {
				b.Flush()
			}
		}
		switch rnd.IntN(4) {
		case 0:
			s.Reset(&b, frame.Cancel)
		case 1:
			s.SendHeaders(&b, []hpack.Field{{Name: "x", Value: "y"}}, true)
		case 2:
			s.StopReceiving(&b)
			s.Send(&b, nil, true) //nolint:errcheck // likewise
		default:
			s.Send(&b, payload[:rnd.IntN(100)], true) //nolint:errcheck // likewise
		}
		b.Flush()
	}
}

// Every method at once, from many goroutines, while the clock ticks: the race
// detector sees what should not be; and in the end nothing is left.
func TestConcurrentUse(t *testing.T) {
	t.Parallel()
	a, b := memnet.Pipe(20_000)
	budget := flow.NewBudget(4 << 20)
	r := &restless{owner: *newOwner(), free: make(chan struct{}, 1)}
	e := &echoServer{owner: *newOwner(), app: echo{began: map[*Stream]bool{}}}
	limits := Config{HighWater: 10_000, Budget: budget, MaxConcurrentStreams: 10, MaxResets: 1 << 30, Patience: 1 << 30}
	server := New(b, limits, e)
	limits.Client = true
	client := New(a, limits, r)
	endServer, endClient := serve(server), serve(client)

	var users, ticker sync.WaitGroup
	stop := make(chan struct{})
	ticker.Go(func() { // ends when stop is closed
		for {
			select {
			case <-stop:
				return
			case now := <-time.After(time.Millisecond):
				server.Tick(now)
				client.Tick(now)
				client.Load()
				r.Free(nil, nil) // a user may have taken another's
			}
		}
	})
	for i := range 4 {
		users.Go(func() { r.use(client, uint64(i), 150) })
	}
	users.Wait()
	var batch Batch
	client.Drain(&batch)
	batch.Flush()
	errClient, errServer := endClient(), endServer()
	close(stop)
	ticker.Wait()
	if !errors.Is(errClient, errDrained) || !errors.Is(errServer, io.EOF) {
		t.Errorf("the client ended with %v, the server with %v", errClient, errServer)
	}
	if n := budget.Used(); n != 0 {
		t.Errorf("%d octets of the budget were not given back", n)
	}
	if n, m := server.streams.len(), client.streams.len(); n+m != 0 {
		t.Errorf("%d streams left at the server, %d at the client", n, m)
	}
}
