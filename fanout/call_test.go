// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package fanout

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// permutations calls f with every order of 0 to n-1.
func permutations(n int, f func([]int)) {
	order := make([]int, n)
	for i := range order {
		order[i] = i
	}
	var permute func(k int)
	permute = func(k int) {
		if k == n {
			f(order)
			return
		}
		for i := k; i < n; i++ {
			order[k], order[i] = order[i], order[k]
			permute(k + 1)
			order[k], order[i] = order[i], order[k]
		}
	}
	permute(0)
}

// run plays the ends in the order until the decision is final and returns the call's status and
// how many ends that took.
func run(t *testing.T, policy Policy, rule CodeRule, targets []string, ends []End, order []int) (*status.Status, int) {
	t.Helper()
	c, err := NewCall(policy, rule, targets)
	if err != nil {
		t.Fatal(err)
	}
	for n, i := range order {
		d := c.End(i, ends[i])
		for _, cancel := range d.Cancel {
			if slices.Contains(order[:n+1], cancel) {
				t.Fatalf("%v: %d has ended and is to be cancelled", order[:n+1], cancel)
			}
		}
		if d.Final {
			return c.Status(), n + 1
		}
		if c.Status().Code() == codes.OK {
			t.Fatalf("%v: OK before the decision is final", order[:n+1])
		}
	}
	t.Fatalf("%v, %v: never final", policy, order)
	return nil, 0
}

// TestOrderOfArrival plays each mix of three ends in each order: the status is always that of the first.
func TestOrderOfArrival(t *testing.T) {
	t.Parallel()
	targets := []string{"a", "b", "c"}
	kinds := []End{
		{},
		{Status: status.New(codes.Unavailable, "down")},
		{Status: status.New(codes.Internal, "broken"), InAnswer: true},
		{Status: status.New(codes.Unavailable, "told"), InAnswer: true},
		{Status: status.New(codes.NotFound, "missing"), Veto: true},
	}
	for _, policy := range []Policy{All(), Any(), Quorum(2), Primary("c"), BestEffort()} {
		for _, rule := range []CodeRule{MostFrequent, MostSevere} {
			for mix := range 5 * 5 * 5 {
				ends := []End{kinds[mix%5], kinds[mix/5%5], kinds[mix/25]}
				var want *status.Status
				permutations(len(ends), func(order []int) {
					got, _ := run(t, policy, rule, targets, ends, order)
					if want == nil {
						want = got
					} else if !proto.Equal(got.Proto(), want.Proto()) {
						t.Fatalf("%v, mix %d, order %v: %v, in another order %v", policy, mix, order, got, want)
					}
				})
			}
		}
	}
}

// TestAllFailed has every target fail, under every policy.
func TestAllFailed(t *testing.T) {
	t.Parallel()
	targets := []string{"a", "b"}
	down := End{Status: status.New(codes.Unavailable, "down")}
	told := End{Status: status.New(codes.Unavailable, "down"), InAnswer: true}
	for _, policy := range []Policy{{}, All(), Any(), Quorum(1), Quorum(2), Primary("a"), BestEffort()} {
		if got, _ := run(t, policy, MostFrequent, targets, []End{down, down}, []int{0, 1}); got.Code() != codes.Unavailable {
			t.Errorf("%v: %v, want Unavailable", policy, got)
		}
		want := codes.Unavailable
		if policy == BestEffort() {
			want = codes.OK
		}
		if got, _ := run(t, policy, MostFrequent, targets, []End{told, told}, []int{1, 0}); got.Code() != want {
			t.Errorf("%v with failures in the answer: %v, want %v", policy, got, want)
		}
	}
}

func TestEarlyAnswer(t *testing.T) {
	t.Parallel()
	targets := []string{"a", "b", "c", "d"}
	ok, bad := End{}, End{Status: status.New(codes.Unavailable, "down")}
	tests := []struct {
		policy Policy
		ends   []End
		want   int // ends until the decision is final
	}{
		{Any(), []End{ok, ok, ok, ok}, 1},
		{Any(), []End{bad, bad, ok, ok}, 3},
		{Any(), []End{bad, bad, bad, bad}, 4},
		{Quorum(2), []End{ok, bad, ok, ok}, 3},
		{Quorum(3), []End{bad, bad, ok, ok}, 4},
		{All(), []End{bad, ok, ok, ok}, 4},
		{Primary("b"), []End{ok, bad, ok, ok}, 2},
		{Primary("b"), []End{bad, ok, ok, ok}, 2},
		{BestEffort(), []End{ok, ok, ok, ok}, 4},
		{BestEffort(), []End{{Status: bad.Status, Veto: true}, ok, ok, ok}, 4},
	}
	for _, tt := range tests {
		if _, got := run(t, tt.policy, MostFrequent, targets, tt.ends, []int{0, 1, 2, 3}); got != tt.want {
			t.Errorf("%v: final after %d ends, want %d", tt.policy, got, tt.want)
		}
	}
}

func TestFirstEndCounts(t *testing.T) {
	t.Parallel()
	c, err := NewCall(Quorum(2), MostFrequent, []string{"a", "b", "c"})
	if err != nil {
		t.Fatal(err)
	}
	c.End(0, End{})
	if d := c.End(0, End{}); d.State != Pending {
		t.Errorf("one target twice makes %v", d.State)
	}
	if ok, failed, cancelled := c.Counts(); ok != 1 || failed != 0 || cancelled != 0 {
		t.Errorf("counts = %d, %d, %d, want 1, 0, 0", ok, failed, cancelled)
	}
}

// A status of long texts and many details leaves the trailer room for others.
func TestStatusFitsIntoTrailer(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"", strings.Repeat("long ", 50), strings.Repeat("\u00e4", 100)} {
		var names []string
		for i := range 20 {
			names = append(names, fmt.Sprintf("10.5.0.%d:50000", i))
		}
		c, err := NewCall(All(), MostFrequent, names)
		if err != nil {
			t.Fatal(err)
		}
		for i := range names {
			s, err := status.New(codes.Aborted, text).WithDetails(&errdetails.ErrorInfo{Reason: strings.Repeat("r", 300)})
			if err != nil {
				t.Fatal(err)
			}
			c.End(i, End{Status: s})
		}
		s := c.Status()
		message := len(url.PathEscape(s.Message()))
		if size := message + proto.Size(s.Proto())*4/3; size > 6500 || len(s.Details()) == 0 || !strings.Contains(s.Message(), "10.5.0.9:50000: Aborted") {
			t.Errorf("%.10q: %d octets, the message %d of them, %d details", text, size, message, len(s.Details()))
		}
	}
}

// TestDetails has details that do not all fit: what fits is kept, in the order of the targets.
func TestDetails(t *testing.T) {
	t.Parallel()
	failure := func(size int, reason string) End {
		s, err := status.New(codes.Internal, "broken").WithDetails(&errdetails.ErrorInfo{Reason: reason, Domain: strings.Repeat("x", size)})
		if err != nil {
			t.Fatal(err)
		}
		return End{Status: s}
	}
	ends := []End{failure(100, "small"), failure(maxDetailBytes, "large"), failure(200, "small too")}
	got, _ := run(t, All(), MostFrequent, []string{"a", "b", "c"}, ends, []int{2, 1, 0})
	var reasons []string
	for _, d := range got.Details() {
		reasons = append(reasons, d.(*errdetails.ErrorInfo).Reason)
	}
	if want := []string{"small", "small too"}; !slices.Equal(reasons, want) {
		t.Errorf("details of %q, want %q", reasons, want)
	}
}

func TestSeverityIsComplete(t *testing.T) {
	t.Parallel()
	for c := codes.Canceled; c <= codes.Unauthenticated; c++ {
		if count := len(slices.DeleteFunc(slices.Clone(severity), func(s codes.Code) bool { return s != c })); count != 1 {
			t.Errorf("%v is %d times in the list", c, count)
		}
	}
	if rank(codes.Code(77)) != rank(codes.Unknown) {
		t.Error("a code outside of the list does not rank as Unknown")
	}
}

func TestParsePolicy(t *testing.T) {
	t.Parallel()
	for _, p := range []Policy{All(), Any(), Quorum(1), Quorum(12), Primary("a"), Primary("10.0.0.1:80 (x)"), BestEffort()} {
		if got, err := ParsePolicy(p.String()); err != nil || got != p {
			t.Errorf("ParsePolicy(%q) = %v, %v", p, got, err)
		}
	}
	for _, s := range []string{"", "ALL", "some", "quorum", "quorum()", "quorum(0)", "quorum(-1)", "quorum(+2)", "quorum(02)", "quorum(x)", "quorum(2", "primary", "primary()", "any()", "all(1)", "best effort"} {
		if got, err := ParsePolicy(s); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("%q", s)) {
			t.Errorf("ParsePolicy(%q) = %v, %v", s, got, err)
		}
	}
}

func FuzzCall(f *testing.F) {
	f.Add(uint8(3), uint8(1), []byte{0, 1, 2, 0x13, 0x24})
	f.Fuzz(func(t *testing.T, n, kind uint8, events []byte) {
		targets := make([]string, n%16+1)
		for i := range targets {
			targets[i] = fmt.Sprint(i)
		}
		policy := []Policy{All(), Any(), Quorum(len(targets)/2 + 1), Primary("0"), BestEffort()}[kind%5]
		c, err := NewCall(policy, CodeRule(kind/5%2), targets)
		if err != nil {
			t.Fatal(err)
		}
		var last Decision
		var final *status.Status
		for _, e := range events {
			last = c.End(int(e)%len(targets), End{Status: status.New(codes.Code(e>>4), "x"), InAnswer: e&8 != 0, Veto: e&1 != 0, Cancelled: e&6 == 6})
			if (c.Status().Code() == codes.OK) != (last.State == Met) {
				t.Fatalf("%v: state %v with status %v", policy, last.State, c.Status())
			}
			if final != nil && !proto.Equal(final.Proto(), c.Status().Proto()) {
				t.Fatalf("%v: a final status changed from %v to %v", policy, final, c.Status())
			}
			if last.Final {
				final = c.Status()
			}
		}
		if ok, failed, cancelled := c.Counts(); ok+failed+cancelled+len(last.Cancel) > len(targets) {
			t.Fatalf("counts %d, %d, %d and %d running of %d", ok, failed, cancelled, len(last.Cancel), len(targets))
		}
	})
}
