// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package proxy_test

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/manifold-grpc/manifold/fanout"
	"github.com/manifold-grpc/manifold/fanout/fanoutpb"
	"github.com/manifold-grpc/manifold/proxy"
)

// after returns a handler that waits before it goes on.
func after(d time.Duration, h grpc.StreamHandler) grpc.StreamHandler {
	return func(srv any, s grpc.ServerStream) error {
		select {
		case <-time.After(d):
			return h(srv, s)
		case <-s.Context().Done():
			return s.Context().Err()
		}
	}
}

// drip sends a message of 1000 bytes each millisecond and never ends.
func drip(_ any, s grpc.ServerStream) error {
	for {
		if err := s.SendMsg(proxy.NewFrame(make([]byte, 1000))); err != nil {
			return err
		}

		select {
		case <-time.After(time.Millisecond):
		case <-s.Context().Done():
			return s.Context().Err()
		}
	}
}

// eight returns targets that each do something else.
func eight(t *testing.T) []proxy.Backend {
	t.Helper()

	huge := func(_ any, s grpc.ServerStream) error { return s.SendMsg(proxy.NewFrame(make([]byte, 200_000))) }
	all := nodes(t,
		after(20*time.Millisecond, answer("1")),
		after(50*time.Millisecond, answer("2")),
		after(300*time.Millisecond, answer("3")),
		nil, nil,
		huge, drip,
		after(10*time.Millisecond, fail(codes.Aborted, "halfway", "4")))

	for i, name := range []string{"good", "fine", "slow", "dead", "hole", "huge", "endless", "half"} {
		all[i].(*node).name = name
	}

	all[3].(*node).conn = dial(t, closedPort)
	all[4].(*node).conn = dial(t, blackHole)

	return all
}

// eightOptions are those of calls to the eight targets.
func eightOptions(policy fanout.Policy) proxy.Fanout {
	return proxy.Fanout{
		Policy: policy, Summary: true, ConnectTimeout: 200 * time.Millisecond, TotalTimeout: time.Second, TargetBytes: 80_500,
		Report: fanout.ReportLimits{MaxBytes: 1 << 20},
	}
}

// outcomes shows what the report of a call says of each target.
func outcomes(t *testing.T, s grpc.ClientStream) string {
	t.Helper()

	report, err := fanout.ReadTrailer(s.Trailer())
	if err != nil || report == nil {
		t.Fatalf("report %v, %v", report, err)
	}

	if line := s.Trailer()[fanout.SummaryKey]; len(line) != 1 || line[0] != fanout.Summary(report) {
		t.Errorf("summary %q, want %q", line, fanout.Summary(report))
	}

	shown := make([]string, 0, len(report.GetOutcomes()))
	for _, o := range report.GetOutcomes() {
		shown = append(shown, outcomeText(o.GetTarget().GetName(), o))
	}

	return strings.Join(shown, " ")
}

func outcomeText(name string, o *fanoutpb.FanoutOutcome) string {
	phase := strings.TrimPrefix(o.GetPhase().String(), "FANOUT_PHASE_")
	if o.GetPhase() == fanoutpb.FanoutPhase_FANOUT_PHASE_CANCELLED {
		return name + ":-"
	}

	return fmt.Sprintf("%s:%s:%v", name, phase, code.Code(o.GetStatus().GetCode()))
}

const (
	deadText = "dead:CONNECT:UNAVAILABLE"
	hugeText = "huge:RECEIVE:RESOURCE_EXHAUSTED"
	halfText = "half:COMPLETE:ABORTED"
	dripText = "endless:RECEIVE:RESOURCE_EXHAUSTED"
	holeText = "hole:CONNECT:DEADLINE_EXCEEDED"
	good     = "good:COMPLETE:OK"
	fine     = "fine:COMPLETE:OK"
	slow     = "slow:COMPLETE:OK"
	lateText = "endless:RECEIVE:DEADLINE_EXCEEDED"
)

// Each policy, with each carrier, over eight targets of which one is slow, one dead, one black-holed, one huge, one endless, and one
// fails half-way.
var eightTests = []struct {
	policy   fanout.Policy
	code     codes.Code
	text     string
	joined   string // the answer of a unary call
	outcomes string // of a unary call
	stream   string // of one that streams, and with the envelope
	took     time.Duration
	streamed time.Duration
}{
	{
		fanout.Any(), codes.OK, "", "good=1;",
		join(good, "fine:-", "slow:-", deadText, "hole:-", hugeText, "endless:-", halfText),
		join(good, "fine:-", "slow:-", deadText, "hole:-", hugeText, "endless:-", halfText),
		20 * time.Millisecond, 20 * time.Millisecond,
	},
	{
		fanout.Quorum(2), codes.OK, "", "good=1;fine=2;",
		join(good, fine, "slow:-", deadText, "hole:-", hugeText, "endless:-", halfText),
		join(good, fine, "slow:-", deadText, "hole:-", hugeText, "endless:-", halfText),
		50 * time.Millisecond, 50 * time.Millisecond,
	},
	{
		fanout.Quorum(3), codes.OK, "", "good=1;fine=2;slow=3;",
		join(good, fine, slow, deadText, holeText, hugeText, dripText, halfText),
		join(good, fine, slow, deadText, holeText, hugeText, "endless:-", halfText),
		300 * time.Millisecond, 300 * time.Millisecond,
	},
	{ // doomed by the fourth failure, that of the endless one at 80 ms, or in a stream of the black-holed one at 200 ms: the rest gets as long again, 100 ms at least
		fanout.Quorum(5), codes.ResourceExhausted, "fanout: policy quorum(5): 4 of 8 targets failed, 2 not waited for: dead: Unavailable",
		"",
		join(good, fine, "slow:-", deadText, "hole:-", hugeText, dripText, halfText),
		join(good, fine, slow, deadText, holeText, hugeText, "endless:-", halfText),
		180 * time.Millisecond, 400 * time.Millisecond,
	},
	{
		fanout.Primary("fine"), codes.OK, "", "good=1;fine=2;",
		join(good, fine, "slow:-", deadText, "hole:-", hugeText, "endless:-", halfText),
		join(good, fine, "slow:-", deadText, "hole:-", hugeText, "endless:-", halfText),
		50 * time.Millisecond, 50 * time.Millisecond,
	},
	{
		fanout.Primary("half"), codes.Aborted, "fanout: policy primary(half): the primary failed: half: Aborted: halfway", "",
		join("good:-", "fine:-", "slow:-", deadText, "hole:-", hugeText, "endless:-", halfText),
		join("good:-", "fine:-", "slow:-", deadText, "hole:-", hugeText, "endless:-", halfText),
		10 * time.Millisecond, 10 * time.Millisecond,
	},
	{ // doomed at once, and ended 100 ms later
		fanout.All(), codes.ResourceExhausted, "fanout: policy all: 4 of 8 targets failed, 2 not waited for: dead: Unavailable", "",
		join(good, fine, "slow:-", deadText, "hole:-", hugeText, dripText, halfText),
		join(good, fine, "slow:-", deadText, "hole:-", hugeText, "endless:-", halfText),
		100 * time.Millisecond, 100 * time.Millisecond,
	},
}

func join(texts ...string) string { return strings.Join(texts, " ") }

func TestPoliciesUnary(t *testing.T) {
	for _, tt := range eightTests {
		t.Run(tt.policy.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				inMemory(t)

				conn := fan(t, plain(eight(t)), proxy.WithFanout(eightOptions(tt.policy)), proxy.WithStreamedDetector(byName))
				connected(t, conn)

				begin := time.Now()
				s := open(t, conn, unaryMethod)
				send(t, s, "x")
				_ = s.CloseSend()

				got, err := collect(s)
				if took := time.Since(begin).Round(time.Millisecond); took != tt.took {
					t.Errorf("took %v, want %v", took, tt.took)
				}

				wantStatus(t, err, tt.code, tt.text)

				if joined := strings.Join(got, "|"); joined != tt.joined {
					t.Errorf("answer %.200q, want %q", joined, tt.joined)
				}

				if got := outcomes(t, s); got != tt.outcomes {
					t.Errorf("outcomes\n%s, want\n%s", got, tt.outcomes)
				}
			})
		})
	}
}

func TestPoliciesStreaming(t *testing.T) {
	for _, tt := range eightTests {
		t.Run(tt.policy.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				inMemory(t)

				conn := fan(t, plain(eight(t)), proxy.WithFanout(eightOptions(tt.policy)), proxy.WithStreamedDetector(byName))
				connected(t, conn)

				begin := time.Now()
				s := open(t, conn, streamMethod)
				send(t, s, "x")
				_ = s.CloseSend()

				_, err := collect(s)
				if took := time.Since(begin).Round(time.Millisecond); took != tt.streamed {
					t.Errorf("took %v, want %v", took, tt.streamed)
				}

				if status.Code(err) == codes.OK != (tt.code == codes.OK) {
					t.Errorf("ended with %v, want %v", err, tt.code)
				}

				if got := outcomes(t, s); got != tt.stream {
					t.Errorf("outcomes\n%s, want\n%s", got, tt.stream)
				}
			})
		})
	}
}

// With the envelope the outcomes come as messages, one for each target, and the payloads as the targets sent them.
func TestPoliciesEnvelope(t *testing.T) {
	for _, tt := range eightTests {
		t.Run(tt.policy.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				inMemory(t)

				o := eightOptions(tt.policy)
				o.Envelope = true

				conn := fan(t, eight(t), proxy.WithFanout(o), proxy.WithStreamedDetector(byName))
				connected(t, conn)

				s := open(t, conn, unaryMethod)
				send(t, s, "x")
				_ = s.CloseSend()

				got, err := collect(s)
				if status.Code(err) == codes.OK != (tt.code == codes.OK) {
					t.Errorf("ended with %v, want %v", err, tt.code)
				}

				ends, payloads := make([]string, 8), make([]string, 8)

				for _, m := range got {
					var e fanoutpb.FanoutMessage
					if err := proto.Unmarshal([]byte(m), &e); err != nil {
						t.Fatal(err)
					}

					i := e.GetTarget().GetIndex()

					switch event := e.GetEvent().(type) {
					case *fanoutpb.FanoutMessage_Payload:
						payloads[i] += string(event.Payload[:1])
					case *fanoutpb.FanoutMessage_Outcome:
						ends[i] += outcomeText(e.GetTarget().GetName(), event.Outcome)
					}
				}

				if got := join(ends...); got != tt.stream || got != outcomes(t, s) {
					t.Errorf("outcomes\n%s, want\n%s and in the trailer\n%s", got, tt.stream, outcomes(t, s))
				}

				for i, want := range []string{"1", "2", "3", "", "", "", "", "4"} {
					if cancelled := strings.HasSuffix(ends[i], ":-"); i != 6 && !cancelled && payloads[i] != want {
						t.Errorf("target %d: payloads %q, want %q", i, payloads[i], want)
					}
				}
			})
		})
	}
}

// Best effort waits for all, and has the hooks' messages of all failures in the answer.
func TestBestEffort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		inMemory(t)

		conn := fan(t, eight(t), proxy.WithFanout(eightOptions(fanout.BestEffort())), proxy.WithStreamedDetector(byName))
		s := open(t, conn, streamMethod)
		send(t, s, "x")
		_ = s.CloseSend()

		got, err := collect(s)
		if err != nil {
			t.Error(err)
		}

		seen := map[string]int{}
		for _, m := range got {
			seen[m]++
		}

		for _, m := range []string{"good=1", "fine=2", "slow=3", "dead!Unavailable", "hole!DeadlineExceeded", "huge!ResourceExhausted", "endless!DeadlineExceeded", "half=4", "half!Aborted"} {
			if seen[m] != 1 {
				t.Errorf("%q came %d times", m, seen[m])
			}
		}

		want := join(good, fine, slow, deadText, holeText, hugeText, lateText, halfText)
		if got := outcomes(t, s); got != want {
			t.Errorf("outcomes\n%s, want\n%s", got, want)
		}
	})
}

// All failed is never success, whatever the policy and the carrier, but where hooks put every failure into the answer. A doomed
// call waits for the other targets only for a while: in virtual time they are never too slow for that.
func TestAllFailedIsNotSilent(t *testing.T) {
	failing := []grpc.StreamHandler{fail(codes.Aborted, "no"), fail(codes.Aborted, "no", "m"), nil}

	for _, policy := range []fanout.Policy{fanout.All(), fanout.Any(), fanout.Quorum(1), fanout.Primary("a"), fanout.BestEffort()} {
		for _, envelope := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				inMemory(t)

				o := proxy.WithFanout(proxy.Fanout{Policy: policy, Envelope: envelope})
				conn := fan(t, plain(nodes(t, failing...)), o, proxy.WithStreamedDetector(byName))

				for _, method := range []string{unaryMethod, streamMethod} {
					_, err := call(t, conn, method, "x")
					wantStatus(t, err, codes.Aborted, "fanout: policy "+policy.String())
				}
			})
		}
	}

	synctest.Test(t, func(t *testing.T) {
		inMemory(t)

		_, err := call(t, fan(t, nodes(t, failing...), proxy.WithFanout(proxy.Fanout{Policy: fanout.BestEffort()})), unaryMethod, "x")
		if err != nil {
			t.Error(err)
		}
	})
}
