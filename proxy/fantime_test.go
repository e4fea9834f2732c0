// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package proxy_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/manifold-grpc/manifold/fanout"
	"github.com/manifold-grpc/manifold/proxy"
)

// timed makes a call under a fake clock and returns its answer, its end, and the time that it took.
func timed(t *testing.T, conn *grpc.ClientConn, limit time.Duration, method string) (grpc.ClientStream, []string, time.Duration, error) {
	t.Helper()
	connected(t, conn)

	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()

	begin := time.Now()
	s := openContext(t, ctx, conn, method)
	send(t, s, "x")
	_ = s.CloseSend()

	got, err := collect(s)

	return s, got, time.Since(begin).Round(time.Millisecond), err
}

// One silent target does not void the answers of the others: with a second to go they are there a tenth before.
func TestReserve(t *testing.T) {
	tests := []struct {
		reserve time.Duration
		want    time.Duration
	}{
		{0, 900 * time.Millisecond},
		{300 * time.Millisecond, 700 * time.Millisecond},
		{5 * time.Second, 500 * time.Millisecond}, // half at most
	}

	for _, tt := range tests {
		for _, method := range []string{unaryMethod, streamMethod} {
			synctest.Test(t, func(t *testing.T) {
				inMemory(t)

				conn := fan(t, nodes(t, hang, answer("2"), after(100*time.Millisecond, answer("3"))), proxy.WithStreamedDetector(byName),
					proxy.WithFanout(proxy.Fanout{Policy: fanout.BestEffort(), Summary: true, Reserve: tt.reserve}))

				s, got, took, err := timed(t, conn, time.Second, method)
				if joined := strings.Join(got, ""); err != nil || !slices.Contains([]string{"a!DeadlineExceeded;b=2;c=3;", "b=2c=3a!DeadlineExceeded"}, joined) {
					t.Errorf("%v: got %q, %v", tt.reserve, joined, err)
				}

				if took != tt.want {
					t.Errorf("%v: took %v, want %v", tt.reserve, took, tt.want)
				}

				if got, want := outcomes(t, s), "a:RECEIVE:DEADLINE_EXCEEDED b:COMPLETE:OK c:COMPLETE:OK"; got != want {
					t.Errorf("outcomes %s, want %s", got, want)
				}
			})
		}
	}
}

// Without a reserve the caller's deadline ends all of the call.
func TestNoReserve(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		inMemory(t)

		conn := fan(t, nodes(t, hang, answer("2")), proxy.WithFanout(proxy.Fanout{Policy: fanout.BestEffort(), Reserve: -1}))

		_, got, _, err := timed(t, conn, time.Second, unaryMethod)
		wantStatus(t, err, codes.DeadlineExceeded, "")

		if got != nil {
			t.Errorf("got %q", got)
		}
	})
}

// The idle time runs anew with each message, and not while an answer waits for the caller.
func TestIdleTimeout(t *testing.T) {
	steps := func(pauses ...time.Duration) grpc.StreamHandler {
		return func(_ any, s grpc.ServerStream) error {
			for i, p := range pauses {
				if err := after(p, func(any, grpc.ServerStream) error { return s.SendMsg(proxy.NewFrame(fmt.Append(nil, i))) })(nil, s); err != nil {
					return err
				}
			}

			return nil
		}
	}

	synctest.Test(t, func(t *testing.T) {
		inMemory(t)

		const tick = 100 * time.Millisecond
		conn := fan(t, nodes(t, steps(tick, tick, tick), steps(tick, 3*tick)), proxy.WithStreamedDetector(byName),
			proxy.WithFanout(proxy.Fanout{Policy: fanout.BestEffort(), Summary: true, IdleTimeout: 3 * tick / 2}))

		s, got, took, err := timed(t, conn, testTimeout, streamMethod)
		slices.Sort(got)

		if want := "a=0 a=1 a=2 b!DeadlineExceeded b=0"; err != nil || strings.Join(got, " ") != want || took != 3*tick {
			t.Errorf("got %q, %v after %v, want %s", got, err, took, want)
		}

		if got, want := outcomes(t, s), "a:COMPLETE:OK b:RECEIVE:DEADLINE_EXCEEDED"; got != want {
			t.Errorf("outcomes %s, want %s", got, want)
		}
	})
}

// A caller who does not read is not the targets' fault.
func TestIdleCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		inMemory(t)

		large := strings.Repeat("x", 100_000)
		conn := fan(t, nodes(t, answer(large, large, large)), proxy.WithStreamedDetector(byName),
			proxy.WithFanout(proxy.Fanout{IdleTimeout: 100 * time.Millisecond}))
		s := open(t, conn, streamMethod)
		_ = s.CloseSend()

		<-time.After(10 * time.Second)

		if got, err := collect(s); err != nil || len(got) != 3 {
			t.Errorf("got %d messages, %v", len(got), err)
		}
	})
}

// One more target starts after each delay, and at once when one has failed, until the call is decided.
func TestHedge(t *testing.T) {
	tests := []struct {
		name     string
		policy   fanout.Policy
		handlers []grpc.StreamHandler
		hedge    int
		begun    int64
		took     time.Duration
		want     string
	}{
		{"the first is quick", fanout.Any(), []grpc.StreamHandler{echo, echo, echo}, 1, 1, 0, "a=x;"},
		{"the first is slow", fanout.Any(), []grpc.StreamHandler{after(time.Second, echo), echo, echo}, 1, 2, 50 * time.Millisecond, "b=x;"},
		{"both are", fanout.Any(), []grpc.StreamHandler{hang, hang, echo}, 1, 3, 100 * time.Millisecond, "c=x;"},
		{"the first is no slower than the second", fanout.Any(), []grpc.StreamHandler{after(60*time.Millisecond, echo), hang, echo}, 1, 2, 60 * time.Millisecond, "a=x;"},
		{"the first fails", fanout.Any(), []grpc.StreamHandler{fail(codes.Aborted, ""), echo, echo}, 1, 2, 0, "b=x;"},
		{"all but the last fail", fanout.Any(), []grpc.StreamHandler{fail(codes.Aborted, ""), fail(codes.Aborted, ""), echo}, 1, 3, 0, "c=x;"},
		{"two of two", fanout.Quorum(2), []grpc.StreamHandler{echo, echo, echo}, 2, 2, 0, "a=x;b=x;"},
		{"one of two fails", fanout.Quorum(2), []grpc.StreamHandler{
			fail(codes.Aborted, ""), after(30*time.Millisecond, echo), after(30*time.Millisecond, echo),
		}, 2, 3, 30 * time.Millisecond, "b=x;c=x;"},
		{"one is too few", fanout.Quorum(2), []grpc.StreamHandler{echo, echo, echo}, 1, 2, 0, "a=x;b=x;"},
		{"all", fanout.All(), []grpc.StreamHandler{echo, echo, echo}, 2, 3, 0, "a=x;b=x;c=x;"},
		{"more than there are", fanout.All(), []grpc.StreamHandler{echo, echo}, 9, 2, 0, "a=x;b=x;"},
	}

	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				inMemory(t)

				var begun atomic.Int64

				for i, h := range tt.handlers {
					tt.handlers[i] = func(srv any, s grpc.ServerStream) error {
						begun.Add(1)

						return h(srv, s)
					}
				}

				conn := fan(t, plain(allConnected(t, nodes(t, tt.handlers...))), proxy.WithStreamedDetector(byName),
					proxy.WithFanout(proxy.Fanout{Policy: tt.policy, Hedge: tt.hedge, HedgeDelay: 50 * time.Millisecond, Summary: true}))

				s, got, took, err := timed(t, conn, testTimeout, unaryMethod)
				if strings.Join(got, "") != tt.want || err != nil || took != tt.took {
					t.Errorf("got %q, %v after %v, want %q after %v", got, err, took, tt.want, tt.took)
				}

				if n := begun.Load(); n != tt.begun {
					t.Errorf("%d targets had the call, want %d", n, tt.begun)
				}

				if got := outcomes(t, s); strings.Count(got, " ") != len(tt.handlers)-1 {
					t.Errorf("outcomes %s", got)
				}
			})
		})
	}
}

// A hedged call of which all fail is over when they have.
func TestHedgeInVain(t *testing.T) {
	conn := fan(t, plain(nodes(t, nil, nil, nil)), proxy.WithFanout(proxy.Fanout{Policy: fanout.Any(), Hedge: 1, HedgeDelay: time.Hour}))

	_, err := call(t, conn, unaryMethod, "x")
	wantStatus(t, err, codes.Unavailable, "3 of 3 targets failed")
}

// With LetFinish the caller has its answer when the call is decided, and the others may end by themselves for some time.
func TestLetFinish(t *testing.T) {
	tests := []struct {
		name  string
		limit time.Duration
		rest  string // what became of the slow one
		hold  time.Duration
	}{
		{"long enough", time.Minute, "finished", 2 * time.Second},
		{"too short", time.Second, "cancelled", time.Second},
		{"not at all", 0, "cancelled", 0},
	}

	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				inMemory(t)

				rest, handled := make(chan string, 1), make(chan time.Duration, 1)
				slow := func(srv any, s grpc.ServerStream) error {
					if err := after(2*time.Second, answer("late"))(srv, s); err != nil {
						rest <- "cancelled"

						return err
					}

					rest <- "finished"

					return nil
				}
				begin := time.Now()
				conn := fan(t, plain(allConnected(t, nodes(t, slow, echo, echo))), proxy.WithStreamedDetector(byName),
					proxy.WithFanout(proxy.Fanout{Policy: fanout.Quorum(2), LetFinish: tt.limit, Summary: true}),
					grpc.StreamInterceptor(func(srv any, s grpc.ServerStream, _ *grpc.StreamServerInfo, h grpc.StreamHandler) error {
						err := h(srv, s)
						handled <- time.Since(begin).Round(time.Millisecond)

						return err
					}))

				s, got, took, err := timed(t, conn, testTimeout, unaryMethod)
				if err != nil || strings.Join(got, "|") != "b=x;c=x;" || took != 0 {
					t.Errorf("got %q, %v after %v", got, err, took)
				}

				if got, want := outcomes(t, s), "a:- b:COMPLETE:OK c:COMPLETE:OK"; got != want {
					t.Errorf("outcomes %s, want %s", got, want)
				}

				if got := <-rest; got != tt.rest {
					t.Errorf("the slow one was %s, want %s", got, tt.rest)
				}

				if got := <-handled; got != tt.hold {
					t.Errorf("the handler returned after %v, want %v", got, tt.hold)
				}
			})
		})
	}
}

// A caller who leaves before the call is decided ends all targets, LetFinish or not; and so does an error.
func TestCancelReachesAllTargets(t *testing.T) {
	for _, o := range []proxy.Fanout{{}, {LetFinish: time.Hour}, {Envelope: true}, {Hedge: 2}, {Policy: fanout.Any(), Merger: silentMerger}} {
		for _, method := range []string{unaryMethod, streamMethod} {
			synctest.Test(t, func(t *testing.T) {
				inMemory(t)

				var reached, ended sync.WaitGroup

				handlers := make([]grpc.StreamHandler, 5)
				targets := len(handlers)

				if o.Hedge > 0 {
					targets = o.Hedge
				}

				reached.Add(targets)
				ended.Add(targets)

				for i := range handlers {
					handlers[i] = func(srv any, s grpc.ServerStream) error {
						reached.Done()
						defer ended.Done()

						return hang(srv, s)
					}
				}

				o.HedgeDelay = time.Hour
				conn := fan(t, nodes(t, handlers...), proxy.WithStreamedDetector(byName), proxy.WithFanout(o))

				ctx, cancel := context.WithCancel(context.Background())
				s := openContext(t, ctx, conn, method)
				send(t, s, "x")
				reached.Wait()

				begin := time.Now()

				cancel()
				ended.Wait()

				if took := time.Since(begin); took > 50*time.Millisecond {
					t.Errorf("%+v: the last target heard of it after %v", o, took)
				}

				_, err := collect(s)
				wantStatus(t, err, codes.Canceled, "")
			})
		}
	}
}

func silentMerger(context.Context, string, []string) proxy.Merger {
	return func(proxy.MergeEvent, func([]byte) error) error { return nil }
}

// A slow target is waited for, or dropped at once, as the options say; the others get all.
func TestDropSlow(t *testing.T) {
	lazy := func(_ any, s grpc.ServerStream) error {
		<-s.Context().Done()

		return s.Context().Err()
	}
	eager := func(_ any, s grpc.ServerStream) error {
		got, err := collect(s)
		if err != nil {
			return err
		}

		return s.SendMsg(proxy.NewFrame(fmt.Append(nil, len(got))))
	}

	conn := fan(t, nodes(t, lazy, eager), proxy.WithStreamedDetector(byName),
		proxy.WithFanoutLimits(proxy.FanoutLimits{QueuedMessages: 8}),
		proxy.WithFanout(proxy.Fanout{Policy: fanout.BestEffort(), DropSlow: true, Summary: true}))
	s := open(t, conn, unaryMethod)

	const n = 200
	payload := strings.Repeat("x", 10_000) // more than windows and queue hold

	for range n {
		send(t, s, payload)
	}

	_ = s.CloseSend()

	got, err := collect(s)
	text := strings.Join(got, "")

	if err != nil || !strings.HasPrefix(text, "a!ResourceExhausted;") {
		t.Errorf("got %q, %v", got, err)
	}

	// The eager one may be dropped as well, on a machine that is slow enough. If it was not, it has had all.
	if rest := strings.TrimPrefix(text, "a!ResourceExhausted;"); rest != fmt.Sprintf("b=%d;", n) && rest != "b!ResourceExhausted;" {
		t.Errorf("got %q", rest)
	}

	if got := outcomes(t, s); !strings.HasPrefix(got, "a:SEND:RESOURCE_EXHAUSTED") {
		t.Errorf("outcomes %s", got)
	}
}
