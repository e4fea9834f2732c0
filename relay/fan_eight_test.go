// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package relay_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/manifold-grpc/manifold/fanout"
	"github.com/manifold-grpc/manifold/fanout/fanoutpb"
	"github.com/manifold-grpc/manifold/relay"
)

// drip sends a message each millisecond and never ends.
func drip(_ any, st grpc.ServerStream) error {
	for {
		if err := send(st, strings.Repeat("e", 1000)); err != nil {
			return err
		}
		select {
		case <-time.After(time.Millisecond):
		case <-st.Context().Done():
			return st.Context().Err()
		}
	}
}

// timedBestiary is the bestiary with a time for each end, so that what a policy leaves of it is exact: good ones at 10 and 20 ms, the slow
// one at 30, the one that fails half-way at 5, the black hole at its connect timeout.
func timedBestiary() []node {
	const ms = time.Millisecond
	return []node{
		{handler: slow(10*ms, answers("m"))}, {handler: slow(30*ms, answers("m"))}, dead, blackHole,
		{handler: answers(strings.Repeat("h", 200_000))}, {handler: drip}, {handler: slow(5*ms, fails(codes.Aborted, "half"))}, {handler: slow(20*ms, answers("m"))},
	}
}

// eightPolicies says how calls to the timed bestiary end whose messages go out as they come.
var eightPolicies = []struct {
	policy   string
	code     codes.Code
	message  string // beginning of it
	took     time.Duration
	outcomes string
}{
	{"any", codes.OK, "", 10 * time.Millisecond,
		"a:complete:OK b:cancelled:OK c:connect:Unavailable d:cancelled:OK e:receive:ResourceExhausted f:cancelled:OK g:complete:Aborted h:cancelled:OK"},
	{"quorum(2)", codes.OK, "", 20 * time.Millisecond,
		"a:complete:OK b:cancelled:OK c:connect:Unavailable d:cancelled:OK e:receive:ResourceExhausted f:cancelled:OK g:complete:Aborted h:complete:OK"},
	{"quorum(3)", codes.OK, "", 30 * time.Millisecond,
		"a:complete:OK b:complete:OK c:connect:Unavailable d:cancelled:OK e:receive:ResourceExhausted f:cancelled:OK g:complete:Aborted h:complete:OK"},
	// Doomed by the fourth failure, that of the black hole at 50 ms; the rest has 100 ms more.
	{"quorum(5)", codes.Unavailable, "fanout: policy quorum(5): 4 of 8 targets failed, 1 not waited for: c: Unavailable: ", 150 * time.Millisecond,
		"a:complete:OK b:complete:OK c:connect:Unavailable d:connect:DeadlineExceeded e:receive:ResourceExhausted f:cancelled:OK g:complete:Aborted h:complete:OK"},
	{"primary(b)", codes.OK, "", 30 * time.Millisecond,
		"a:complete:OK b:complete:OK c:connect:Unavailable d:cancelled:OK e:receive:ResourceExhausted f:cancelled:OK g:complete:Aborted h:complete:OK"},
	{"primary(g)", codes.Aborted, "fanout: policy primary(g): the primary failed: g: Aborted: on demand", 5 * time.Millisecond,
		"a:cancelled:OK b:cancelled:OK c:connect:Unavailable d:cancelled:OK e:receive:ResourceExhausted f:cancelled:OK g:complete:Aborted h:cancelled:OK"},
	// Doomed at once.
	{"all", codes.Unavailable, "fanout: policy all: 4 of 8 targets failed, 1 not waited for: c: Unavailable: ", 100 * time.Millisecond,
		"a:complete:OK b:complete:OK c:connect:Unavailable d:connect:DeadlineExceeded e:receive:ResourceExhausted f:cancelled:OK g:complete:Aborted h:complete:OK"},
	{"best-effort", codes.OK, "", 200 * time.Millisecond,
		"a:complete:OK b:complete:OK c:connect:Unavailable d:connect:DeadlineExceeded e:receive:ResourceExhausted f:receive:DeadlineExceeded g:complete:Aborted h:complete:OK"},
}

// Eight targets of all sorts, each policy, each carrier that sends messages as they come: the status, its time, what became of each target, and
// what the caller hears of it.
func TestFanEightByCarrier(t *testing.T) {
	carriers := []struct {
		name  string
		cfg   relay.FanOut
		heard func(t *testing.T, messages []string, ok bool, outcomes []string)
	}{
		{"concat", relay.FanOut{Streaming: true}, heardInterleaved},
		{"order", relay.FanOut{Streaming: true, OrderKey: func(m []byte) string { return string(m) }}, heardOrdered},
		{"envelope", relay.FanOut{Envelope: true}, heardEnvelopes},
		{"merger", relay.FanOut{Merger: chronicle}, heardMerged},
	}
	for _, carrier := range carriers {
		for _, tt := range eightPolicies {
			bubble(t, carrier.name+" "+tt.policy, func(t *testing.T) {
				cfg := carrier.cfg
				cfg.Policy, cfg.Summary = must(fanout.ParsePolicy(tt.policy))(t), true
				cfg.ConnectTimeout, cfg.TotalTimeout = 50*time.Millisecond, 200*time.Millisecond
				cfg.Limits.TargetBytes = 100_000
				f, cc := fanMemory(t, &cfg, rigConfig{}, timedBestiary()...)
				for range 3 {
					begin := time.Now()
					messages, st, trailer := collect(within(t), t, cc, "x")
					if took := time.Since(begin); took != tt.took || st.Code() != tt.code || !strings.HasPrefix(st.Message(), tt.message) {
						t.Errorf("%v %q after %v\nwant %v %q after %v", st.Code(), st.Message(), took, tt.code, tt.message, tt.took)
					}
					if got := report(t, trailer); got != tt.outcomes {
						t.Errorf("outcomes\n%s, want\n%s", got, tt.outcomes)
					}
					if got := outcomesOf(<-f.stats); got != tt.outcomes {
						t.Errorf("outcomes of the hook\n%s, want\n%s", got, tt.outcomes)
					}
					carrier.heard(t, messages, tt.code == codes.OK, strings.Fields(tt.outcomes))
				}
				if n := f.Server.Buffered(); n != 0 {
					t.Errorf("%d octets are held after the calls", n)
				}
			})
		}
	}
}

// chronicle is a journal that takes every outcome.
func chronicle(c *relay.Call, targets []string) relay.Merger {
	rest := journal(c, targets)
	return func(e relay.MergeEvent, send func([]byte)) error {
		if e.Outcome != nil && e.Outcome.Status.Code() == codes.ResourceExhausted {
			send([]byte(e.Target + " " + phaseName(e.Outcome.Phase) + " ResourceExhausted"))
			return nil
		}
		return rest(e, send)
	}
}

// withoutDrip drops the endless one's messages.
func withoutDrip(messages []string) []string {
	return slices.DeleteFunc(slices.Clone(messages), func(m string) bool { return strings.Contains(m, "eeee") })
}

// marked is what the annotators of the targets make of the outcomes.
func marked(outcomes []string) []string {
	var want []string
	for _, o := range outcomes {
		name, rest, _ := strings.Cut(o, ":")
		phase, code, _ := strings.Cut(rest, ":")
		switch {
		case phase == "cancelled":
		case code == "OK":
			want = append(want, "m@"+name)
		case name == "g":
			want = append(want, "half@g", "g!Aborted")
		default:
			want = append(want, name+"!"+code)
		}
	}
	return want
}

func heardInterleaved(t *testing.T, messages []string, _ bool, outcomes []string) {
	t.Helper()
	if got, want := sorted(withoutDrip(messages)), sorted(marked(outcomes)); !slices.Equal(got, want) {
		t.Errorf("messages %q, want %q", got, want)
	}
}

// heardOrdered wants failures without a message first, the endless one's messages, and the others by their text, equal ones in the order of
// the targets. What a call that failed still held does not come.
func heardOrdered(t *testing.T, messages []string, ok bool, outcomes []string) {
	t.Helper()
	rank := func(m string) string {
		switch text, _, sent := strings.Cut(m, "@"); {
		case sent:
			return text
		case m == "g!Aborted":
			return "half "
		case m == "f!DeadlineExceeded":
			return "eeef"
		}
		return ""
	}
	want := marked(outcomes)
	slices.SortStableFunc(want, func(a, b string) int { return strings.Compare(rank(a), rank(b)) })
	got := withoutDrip(messages)
	if ok && !slices.Equal(got, want) || len(got) > len(want) || !slices.Equal(got, want[:len(got)]) {
		t.Errorf("messages %q, want %q", got, want)
	}
	if !slices.IsSortedFunc(messages, func(a, b string) int { return strings.Compare(rank(a), rank(b)) }) {
		t.Errorf("the endless one's messages are out of order")
	}
}

func heardEnvelopes(t *testing.T, messages []string, _ bool, outcomes []string) {
	t.Helper()
	ends := make([]string, 8)
	for _, m := range messages {
		var e fanoutpb.FanoutMessage
		check(t, proto.Unmarshal([]byte(m), &e))
		if o := e.GetOutcome(); o != nil {
			ends[e.GetTarget().GetIndex()] += fmt.Sprintf("%s:%s:%v", e.GetTarget().GetName(), phaseName(o.GetPhase()), codes.Code(o.GetStatus().GetCode()))
		}
	}
	want := slices.Clone(outcomes)
	if !slices.Equal(ends, want) {
		t.Errorf("outcomes\n%q, want\n%q", ends, want)
	}
}

func heardMerged(t *testing.T, messages []string, ok bool, outcomes []string) {
	t.Helper()
	if last := slices.Index(messages, "last of 8"); ok != (last == len(messages)-1) || !ok && last >= 0 {
		t.Errorf("message %d of %d is the last event", last, len(messages))
	}
	for _, o := range outcomes {
		name, end, _ := strings.Cut(o, ":")
		phase, code, _ := strings.Cut(end, ":")
		want := []string{name + " " + phase + " " + code}
		switch {
		case phase == "cancelled" && !ok:
			want = nil // the call failed without it, and has no more events
		case name == "g":
			want = slices.Insert(want, 0, "g half")
		case phase == "complete":
			want = slices.Insert(want, 0, name+" m")
		}
		if phase == "complete" || name == "e" || name == "f" {
			want = slices.Insert(want, 0, name+" header []")
		}
		got := slices.DeleteFunc(withoutDrip(messages), func(m string) bool { return !strings.HasPrefix(m, name+" ") })
		if !slices.Equal(got, want) {
			t.Errorf("events of %s: %q, want %q", name, got, want)
		}
	}
}

// Of the eight, those that an early answer leaves go on as long as they are let, and nothing of them reaches the caller.
func TestFanEightLetFinish(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, cc := fanMemory(t, &relay.FanOut{
			Policy: fanout.Any(), Summary: true, ConnectTimeout: 50 * time.Millisecond, LetFinish: 100 * time.Millisecond,
			Limits: relay.FanLimits{TargetBytes: 100_000},
		}, rigConfig{}, timedBestiary()...)
		for range 3 {
			begin := time.Now()
			ends := make(chan string, 8)
			for i := range f.targets {
				f.targets[i].Backend.AttemptEnded = func(_ *relay.Call, a relay.AttemptStats) {
					if a.Opened {
						ends <- fmt.Sprintf("%s:%v@%v", targetName(i), a.Code, time.Since(begin))
					}
				}
			}
			messages, st, trailer := collect(within(t), t, cc, "x")
			if took := time.Since(begin); took != 10*time.Millisecond || st.Code() != codes.OK {
				t.Errorf("%v after %v", st, took)
			}
			if want := "<a:m><c!Unavailable><e!ResourceExhausted><g!Aborted>"; len(messages) != 1 || messages[0] != want {
				t.Errorf("answer %q, want %q", messages, want)
			}
			if got, want := report(t, trailer), eightPolicies[0].outcomes; got != want {
				t.Errorf("outcomes\n%s, want\n%s", got, want)
			}
			var got []string
			for range 6 {
				got = append(got, <-ends)
			}
			if want := "a:OK@10ms b:OK@30ms e:ResourceExhausted@0s f:Canceled@110ms g:Aborted@5ms h:OK@20ms"; strings.Join(sorted(got), " ") != want {
				t.Errorf("streams ended %q, want %q", sorted(got), want)
			}
			<-f.stats
			synctest.Wait()
			for i := range f.targets {
				if n := f.targets[i].Backend.Endpoints[0].InFlight(); n != 0 {
					t.Errorf("%d calls are left at %s", n, targetName(i))
				}
			}
		}
	})
}
