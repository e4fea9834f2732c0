// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package relay_test

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/manifold-grpc/manifold/fanout"
	"github.com/manifold-grpc/manifold/relay"
)

// peak is the most that a server held whenever somebody looked.
type peak struct{ octets atomic.Int64 }

func (p *peak) look(s *relay.Server) {
	for n := s.Buffered(); ; {
		if old := p.octets.Load(); n <= old || p.octets.CompareAndSwap(old, n) {
			return
		}
	}
}

// Requests that wait for a target without a connection count, of all calls together: when the server's budget is spent, that target has
// failed, and the others get all of the request.
func TestFanRequestBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const calls, budget = 10, 400_000
		count := func(_ any, st grpc.ServerStream) error {
			n := 0
			for {
				m, err := recv(st)
				if err != nil {
					return send(st, strings.Repeat("+", n))
				}
				n += len(m) / 10_000
			}
		}
		cfg := &relay.FanOut{Policy: fanout.BestEffort(), ConnectTimeout: time.Minute, Limits: relay.FanLimits{QueuedBytes: 2_000_000}}
		f, cc := fanMemory(t, cfg, rigConfig{server: func(s *relay.Server) { s.Limits.Buffer = budget }}, node{handler: count}, blackHole)
		var held peak
		var spent, late atomic.Int32
		var wg sync.WaitGroup
		for range calls {
			wg.Go(func() {
				st := must(cc.NewStream(within(t), bidi, "/a.B/Upload"))(t)
				for range 20 {
					check(t, send(st, strings.Repeat("u", 10_000)))
					time.Sleep(time.Millisecond)
					held.look(f.Server)
				}
				check(t, st.CloseSend())
				switch out := must(recv(st))(t); out {
				case "<a:" + strings.Repeat("+", 20) + "><b!ResourceExhausted>":
					spent.Add(1)
				case "<a:" + strings.Repeat("+", 20) + "><b!Unavailable>":
					late.Add(1)
				default:
					t.Errorf("answer %q", out)
				}
			})
		}
		wg.Wait()
		// All wait for as much as 200 kB each, of which 32 are any call's own.
		if n := held.octets.Load(); n > budget || n < budget/2 {
			t.Errorf("%d octets were held, at most %d are allowed", n, budget)
		}
		if s, l := spent.Load(), late.Load(); s < 6 || l < 2 {
			t.Errorf("%d calls went on without the target, %d waited for it", s, l)
		}
		for range calls {
			<-f.stats
		}
		if n := f.Buffered(); n != 0 {
			t.Errorf("%d octets are held after the end", n)
		}
	})
}

// Answers that wait for those of a slow target are within the server's budget, of all calls together: calls that need more end, with its
// name as the reason.
func TestFanAnswerBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const calls, budget = 100, 500_000
		big := answers(strings.Repeat("b", 10_000))
		cfg := &relay.FanOut{Policy: fanout.All()}
		f, cc := fanMemory(t, cfg, rigConfig{server: func(s *relay.Server) { s.Limits.Buffer = budget }},
			node{handler: big}, node{handler: big}, node{handler: big}, node{handler: big}, node{handler: slow(time.Second, answers("m"))})
		var held peak
		var good, spent atomic.Int32
		var wg sync.WaitGroup
		for range calls {
			wg.Go(func() {
				out, err := unary(within(t), cc, "/a.B/C", "x")
				held.look(f.Server)
				switch {
				case err == nil && len(out) > 40_000:
					good.Add(1)
				case status.Code(err) == codes.ResourceExhausted && strings.Contains(err.Error(), "memory for slow clients"):
					spent.Add(1)
				default:
					t.Errorf("%d octets, %v", len(out), err)
				}
			})
		}
		time.Sleep(500 * time.Millisecond) // all answers but those of the slow one
		held.look(f.Server)
		wg.Wait()
		if n := held.octets.Load(); n > budget || n < 40_000 {
			t.Errorf("%d octets were held, at most %d are allowed", n, budget)
		}
		if good.Load() == 0 || spent.Load() == 0 {
			t.Errorf("%d calls are good, %d ended for want of memory", good.Load(), spent.Load())
		}
		for range calls {
			<-f.stats
		}
		if n := f.Buffered(); n != 0 {
			t.Errorf("%d octets are held after the end", n)
		}
	})
}

// A target that had not had its turn when the caller's time was up does not get it any more, whatever the first one still has
// to say.
func TestFanHedgeTooLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var called atomic.Int32
		const messages = 12 // more than the caller and the queue to it take, and no more than windows that have not grown let in
		flood := func(_ any, st grpc.ServerStream) error {
			for range messages {
				if err := send(st, strings.Repeat("f", 10_000)); err != nil {
					return err
				}
			}
			return nil
		}
		late := func(srv any, st grpc.ServerStream) error {
			called.Add(1)
			return answers("m")(srv, st)
		}
		cfg := &relay.FanOut{Policy: fanout.BestEffort(), Streaming: true, Summary: true, Hedge: 1, HedgeDelay: time.Hour, Reserve: 500 * time.Millisecond}
		windows := []grpc.DialOption{grpc.WithInitialWindowSize(64 << 10), grpc.WithInitialConnWindowSize(1 << 20)} // which do not grow
		_, cc := fanMemory(t, cfg, rigConfig{dial: windows}, node{handler: flood}, node{handler: late}, node{handler: late})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		st := must(cc.NewStream(ctx, bidi, "/a.B/Stream"))(t)
		check(t, send(st, "x"))
		check(t, st.CloseSend())
		time.Sleep(700 * time.Millisecond) // a caller that reads nothing until then
		n := 0
		for {
			if _, err := recv(st); err != nil {
				if err.Error() != "EOF" {
					t.Errorf("the call ended with %v", err)
				}
				break
			}
			n++
		}
		if n != messages+2 || called.Load() != 0 { // two failures among them
			t.Errorf("%d messages, %d calls of targets that came too late", n, called.Load())
		}
		if r := report(t, metadata.MD(st.Trailer())); r != "a:complete:OK b:connect:DeadlineExceeded c:connect:DeadlineExceeded" {
			t.Errorf("report %q", r)
		}
	})
}

// What the annotator adds to an answer counts against the target's bytes as the answer does.
func TestFanAnnotatedSize(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fits, not := strings.Repeat("f", 98), strings.Repeat("n", 100)
		cfg := &relay.FanOut{Policy: fanout.BestEffort(), Limits: relay.FanLimits{TargetBytes: 102}}
		_, cc := fanMemory(t, cfg, rigConfig{}, node{handler: answers(fits)}, node{handler: answers(not)})
		if out, err := unary(within(t), cc, "/a.B/C", "x"); err != nil || out != "<a:"+fits+"><b!ResourceExhausted>" {
			t.Errorf("%q, %v", out, err)
		}
	})
}

// A caller is held up by the slowest target: no more of its request is taken in than that may have waiting.
func TestFanSlowHoldsCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const messages = 500 // of 10 kB
		drain := func(_ any, st grpc.ServerStream) error {
			for {
				if _, err := recv(st); err != nil {
					return send(st, "m")
				}
			}
		}
		cfg := &relay.FanOut{Policy: fanout.BestEffort(), Limits: relay.FanLimits{QueuedBytes: 100_000, StallTimeout: 3 * time.Second}}
		_, cc := fanMemory(t, cfg, rigConfig{}, node{handler: drain}, node{handler: mute})
		st := must(cc.NewStream(within(t), bidi, "/a.B/Upload"))(t)
		var sent atomic.Int32
		done := make(chan struct{})
		go func() { // ends with the upload, or the call
			defer close(done)
			for range messages {
				if send(st, strings.Repeat("u", 10_000)) != nil {
					return
				}
				sent.Add(1)
			}
		}()
		time.Sleep(time.Second)
		synctest.Wait()
		// What may wait, the windows on both sides, and what grpc-go keeps for itself.
		if n := sent.Load(); n > 100 {
			t.Errorf("%d messages were taken while a target takes none", n)
		}
		<-done
		check(t, st.CloseSend())
		if out, err := recv(st); err != nil || out != "<a:m><b!ResourceExhausted>" || sent.Load() != messages {
			t.Errorf("%q, %v after %d messages", out, err, sent.Load())
		}
	})
}
