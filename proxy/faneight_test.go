// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package proxy_test

import (
	"context"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/manifold-grpc/manifold/fanout"
	"github.com/manifold-grpc/manifold/fanout/fanoutpb"
	"github.com/manifold-grpc/manifold/proxy"
)

// eightCall makes a streaming call to the eight targets, checks how it ended, and returns what came but the endless one's messages.
func eightCall(t *testing.T, o proxy.Fanout, code codes.Code, outcomesWant string, took time.Duration) []string {
	t.Helper()
	inMemory(t)

	conn := fan(t, plain(eight(t)), proxy.WithFanout(o), proxy.WithStreamedDetector(byName))
	connected(t, conn)

	begin := time.Now()
	s := open(t, conn, streamMethod)
	send(t, s, "x")
	_ = s.CloseSend()

	got, err := collect(s)
	if d := time.Since(begin).Round(time.Millisecond); d != took || status.Code(err) == codes.OK != (code == codes.OK) {
		t.Errorf("ended with %v after %v, want %v after %v", err, d, code, took)
	}

	if got := outcomes(t, s); got != outcomesWant {
		t.Errorf("outcomes\n%s, want\n%s", got, outcomesWant)
	}

	return slices.DeleteFunc(got, func(m string) bool { return strings.HasPrefix(m, "endless=\x00") })
}

// Over the same eight targets, with each policy, a merger hears of every target's messages and of its outcome, once, and of the end of calls
// that succeed alone.
func TestPoliciesMerger(t *testing.T) {
	for _, tt := range eightTests {
		t.Run(tt.policy.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ends, messages, last := make([]string, 8), make([]string, 8), 0
				o := eightOptions(tt.policy)
				o.Merger = func(context.Context, string, []string) proxy.Merger {
					return func(e proxy.MergeEvent, send func([]byte) error) error {
						switch {
						case e.Last:
							last++

							return send([]byte("sum"))
						case e.Outcome != nil:
							ends[e.Index] += endText(e.Outcome)
						case e.Message != nil && e.Target != "endless":
							messages[e.Index] += string(e.Message)
						}

						return nil
					}
				}

				got := eightCall(t, o, tt.code, tt.stream, tt.streamed)

				if tt.code != codes.OK {
					if len(got) > 0 || last > 0 {
						t.Errorf("messages %q, %d last events of a call that failed", got, last)
					}

					return
				}

				if last != 1 || !slices.Equal(got, []string{"sum"}) || join(ends...) != tt.stream {
					t.Errorf("%d last events, messages %q, outcomes\n%s, want\n%s", last, got, join(ends...), tt.stream)
				}

				for i, want := range []string{"1", "2", "3", "", "", "", "", "4"} {
					if cancelled := strings.HasSuffix(ends[i], ":-"); i != 6 && !cancelled && messages[i] != want {
						t.Errorf("target %d: messages %q, want %q", i, messages[i], want)
					}
				}
			})
		})
	}
}

func endText(o *fanout.Outcome) string {
	p := &fanoutpb.FanoutOutcome{Phase: o.Phase}
	if o.Status != nil {
		p.Status = o.Status.Proto()
	}

	return outcomeText(o.Name, p)
}

// With an order of messages, those that came by the end are in that order, and no silent target voids them.
func TestPoliciesOrder(t *testing.T) {
	for _, tt := range eightTests {
		t.Run(tt.policy.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := eightOptions(tt.policy)
				o.OrderKey = func(m []byte) string { return string(m) }

				got := eightCall(t, o, tt.code, tt.stream, tt.streamed)

				var want []string
				for o := range strings.FieldsSeq(tt.stream) {
					switch o {
					case good:
						want = append(want, "good=1")
					case fine:
						want = append(want, "fine=2")
					case slow:
						want = append(want, "slow=3")
					case halfText:
						want = append(want, "half=4")
					}
				}

				if tt.code == codes.OK && !slices.Equal(got, want) || len(got) > len(want) || !slices.Equal(got, want[:len(got)]) {
					t.Errorf("messages %q, want %q", got, want)
				}
			})
		})
	}
}
