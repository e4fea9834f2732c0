// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package proxy_test

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"

	"github.com/manifold-grpc/manifold/fanout"
	"github.com/manifold-grpc/manifold/proxy"
)

// joinedOnce makes mergers that send one message at the last event, and want no other after it.
func joinedOnce(t *testing.T) proxy.NewMerger {
	return func(context.Context, string, []string) proxy.Merger {
		over := false

		return func(e proxy.MergeEvent, send func([]byte) error) error {
			if over {
				t.Errorf("an event after the last: %+v", e)
			}

			if e.Last {
				over = true

				return send([]byte("joined"))
			}

			return nil
		}
	}
}

// LetFinish beside other things: with hedging, the answer does not wait for the rest either; with a merger, nothing of the rest comes after
// the last event; and while the caller may still send, nobody stays behind whom it could not reach.
func TestLetFinishBeside(t *testing.T) {
	tests := []struct {
		name string
		o    proxy.Fanout
		open bool // the caller does not half-close
		want string
		rest string
	}{
		{"hedging", proxy.Fanout{Policy: fanout.Any(), Hedge: 2, HedgeDelay: time.Minute}, false, "b=x;", "finished"},
		{"merger", proxy.Fanout{Policy: fanout.Quorum(2), Merger: joinedOnce(t)}, false, "joined", "finished"},
		{"open requests", proxy.Fanout{Policy: fanout.Quorum(2)}, true, "", "cancelled"},
	}

	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				inMemory(t)

				rest := make(chan string, 1)
				slow := func(srv any, s grpc.ServerStream) error {
					select {
					case <-time.After(2 * time.Second):
						rest <- "finished"

						return s.SendMsg(proxy.NewFrame([]byte("late")))
					case <-s.Context().Done():
						rest <- "cancelled"

						return s.Context().Err()
					}
				}
				quick := func(_ any, s grpc.ServerStream) error {
					time.Sleep(time.Millisecond) // by now the slow one has begun
					m, err := tryRecv(s)
					if err == nil && !tt.open {
						err = s.SendMsg(proxy.NewFrame([]byte(m)))
					}

					return err
				}

				tt.o.LetFinish = time.Minute
				conn := fan(t, plain(allConnected(t, nodes(t, slow, quick, quick))), proxy.WithStreamedDetector(byName), proxy.WithFanout(tt.o))
				connected(t, conn)

				begin := time.Now()
				s := open(t, conn, unaryMethod)
				send(t, s, "x")

				if !tt.open {
					_ = s.CloseSend()
				}

				got, err := collect(s)
				if took := time.Since(begin); err != nil || strings.Join(got, "") != tt.want || took > time.Second {
					t.Errorf("got %q, %v after %v, want %q", got, err, took, tt.want)
				}

				if got := <-rest; got != tt.rest {
					t.Errorf("the slow one was %s, want %s", got, tt.rest)
				}
			})
		})
	}
}

// A target that fails after the caller has its answer has an outcome of its own, though the caller's stream has ended.
func TestOutcomeAfterAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		inMemory(t)

		all := allConnected(t, nodes(t, after(time.Second, fail(codes.Aborted, "late")), echo))
		late := &done{hookNode: hookNode{node: *all[0].(*node)}}
		all[0] = late

		ended := make(chan error, 1)
		conn := fan(t, all, proxy.WithFanout(proxy.Fanout{Policy: fanout.Any(), LetFinish: time.Minute}), intercept(ended))

		if _, _, took, err := timed(t, conn, testTimeout, unaryMethod); err != nil || took != 0 {
			t.Errorf("%v after %v", err, took)
		}

		<-ended

		if len(late.outcomes) != 1 || late.outcomes[0].Phase != proxy.PhaseComplete || late.outcomes[0].Status.Code() != codes.Aborted {
			t.Errorf("outcomes %+v", late.outcomes)
		}
	})
}

// slowTrailer is a stream that takes its time to take a trailer.
type slowTrailer struct{ grpc.ServerStream }

func (s slowTrailer) SetTrailer(md metadata.MD) {
	<-time.After(2 * time.Second)
	s.ServerStream.SetTrailer(md)
}

// Nothing reaches a merger after its last event, not even before the caller has the status.
func TestMergerAfterLast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		inMemory(t)

		conn := fan(t, plain(allConnected(t, nodes(t, after(time.Second, answer("late")), echo))), proxy.WithFanout(proxy.Fanout{
			Policy: fanout.Any(), LetFinish: time.Minute, Merger: joinedOnce(t), Summary: true,
		}), grpc.StreamInterceptor(func(srv any, s grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
			return handler(srv, slowTrailer{s})
		}))

		if _, got, took, err := timed(t, conn, testTimeout, unaryMethod); err != nil || strings.Join(got, "") != "joined" || took != 2*time.Second {
			t.Errorf("got %q, %v after %v", got, err, took)
		}
	})
}

// The caller's deadline holds for targets that go on after the answer, and they are told of it, whether or not time is reserved ahead of it.
func TestLetFinishDeadline(t *testing.T) {
	for _, reserve := range []time.Duration{-1, 0} {
		synctest.Test(t, func(t *testing.T) {
			inMemory(t)

			const timeout = 2 * time.Second

			told, ended := make(chan bool, 1), make(chan time.Duration, 1)
			begin := time.Now()
			slow := func(_ any, s grpc.ServerStream) error {
				_, ok := s.Context().Deadline()
				told <- ok

				<-s.Context().Done()
				ended <- time.Since(begin)

				return s.Context().Err()
			}

			conn := fan(t, plain(allConnected(t, nodes(t, slow, after(time.Millisecond, echo)))), proxy.WithFanout(proxy.Fanout{
				Policy: fanout.Any(), LetFinish: time.Hour, Reserve: reserve,
			}))
			connected(t, conn)

			begin = time.Now()
			if _, _, took, err := timed(t, conn, timeout, unaryMethod); err != nil || took != time.Millisecond {
				t.Errorf("%v after %v", err, took)
			}

			if !<-told {
				t.Error("the backend knows of no deadline")
			}

			if took := <-ended; took > timeout {
				t.Errorf("the slow one was ended after %v, want at most %v", took, timeout)
			}
		})
	}
}

// One that waits for its connection when the call is decided goes on with that, and gets the request.
func TestLetFinishWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		inMemory(t)

		got, may := make(chan string, 1), make(chan struct{})
		all := allConnected(t, nodes(t, func(_ any, s grpc.ServerStream) error {
			m, err := tryRecv(s)
			got <- m

			return err
		}, echo))
		all[0] = &lateNode{*all[0].(*node), may}

		conn := fan(t, all, proxy.WithFanout(proxy.Fanout{Policy: fanout.Any(), LetFinish: time.Minute}))

		if _, _, took, err := timed(t, conn, testTimeout, unaryMethod); err != nil || took != 0 {
			t.Errorf("%v after %v", err, took)
		}

		close(may)

		if m := <-got; m != "x" {
			t.Errorf("the one that was late got %q", m)
		}
	})
}
