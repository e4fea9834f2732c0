// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package relay_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/manifold-grpc/manifold/fanout"
	"github.com/manifold-grpc/manifold/internal/memnet"
	"github.com/manifold-grpc/manifold/relay"
)

// Targets that the answer does not need go on for the time that they are let, and are cancelled then; what they send is dropped. Without a complete
// request, or an answer, they are cancelled at once.
func TestFanLetFinish(t *testing.T) {
	tests := []struct {
		name      string
		cfg       relay.FanOut
		open      bool // the request does not end
		other     grpc.StreamHandler
		end       string // of the slow target, after the call
		after     time.Duration
		callEnded codes.Code
	}{
		{"in time", relay.FanOut{LetFinish: time.Minute}, false, answers("m"), "OK ", 2 * time.Second, codes.OK},
		{"too slow", relay.FanOut{LetFinish: time.Second}, false, answers("m"), "Canceled CANCELED", time.Second, codes.OK},
		{"not let", relay.FanOut{}, false, answers("m"), "Canceled CANCELED", 0, codes.OK},
		{"the call fails", relay.FanOut{Policy: fanout.Primary("b"), LetFinish: time.Minute}, false, fails(codes.NotFound), "Canceled CANCELED", 0, codes.NotFound},
		{"streaming", relay.FanOut{Streaming: true, LetFinish: time.Minute}, false, answers("m"), "OK ", 2 * time.Second, codes.OK},
		{"open request", relay.FanOut{Streaming: true, LetFinish: time.Minute}, true, fails(codes.OK, "m"), "Canceled CANCELED", 0, codes.OK},
	}
	for _, tt := range tests {
		bubble(t, tt.name, func(t *testing.T) {
			if tt.cfg.Policy == (fanout.Policy{}) {
				tt.cfg.Policy = fanout.Any()
			}
			// More than any window, so that it only ends if its answer is taken.
			late := slow(2*time.Second, func(_ any, st grpc.ServerStream) error {
				for range 100 {
					if err := send(st, strings.Repeat("l", 20_000)); err != nil {
						return err
					}
				}
				return nil
			})
			f, cc := fanMemory(t, &tt.cfg, rigConfig{}, node{handler: late}, node{handler: tt.other})
			ends := make(chan string, 1)
			f.targets[0].Backend.AttemptEnded = func(_ *relay.Call, a relay.AttemptStats) { ends <- fmt.Sprintf("%v %s", a.Code, a.Reason) }
			st := must(cc.NewStream(t.Context(), bidi, "/a.B/Stream"))(t)
			if err := send(st, "x"); err != nil && !errors.Is(err, io.EOF) { // the call may be over
				t.Fatal(err)
			}
			if !tt.open {
				check(t, st.CloseSend())
			}
			begin := time.Now()
			var err error
			for err == nil {
				_, err = recv(st)
			}
			stats := <-f.stats
			if took := time.Since(begin); took > time.Millisecond || stats.Code != tt.callEnded || !strings.HasPrefix(outcomesOf(stats), "a:cancelled:OK") {
				t.Errorf("the caller has %v after %v, outcomes %s", stats.Code, took, outcomesOf(stats))
			}
			if got := <-ends; got != tt.end || time.Since(begin) != tt.after {
				t.Errorf("the slow target ended with %q after %v, want %q after %v", got, time.Since(begin), tt.end, tt.after)
			}
			synctest.Wait()
			if n := f.targets[0].Backend.Endpoints[0].InFlight(); n != 0 {
				t.Errorf("%d calls are left at it", n)
			}
		})
	}
}

// A backend's CANCEL at the caller's deadline is no failure of a target that the call did not need.
func TestFanLetFinishDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, cc := fanMemory(t, &relay.FanOut{Policy: fanout.Any(), LetFinish: time.Hour}, rigConfig{}, node{handler: mute}, node{handler: answers("m")})
		ends := make(chan string, 1)
		f.targets[0].Backend.AttemptEnded = func(_ *relay.Call, a relay.AttemptStats) { ends <- fmt.Sprintf("%v %s", a.Code, a.Reason) }
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if out, err := unary(ctx, cc, "/a.B/Unary", "x"); err != nil || out != "<b:m>" {
			t.Fatalf("%q, %v", out, err)
		}
		if got := <-ends; got != "Canceled CANCELED" && got != "DeadlineExceeded " { // the backend may send its status first
			t.Errorf("ended with %q", got)
		}
	})
}

// A server lets so many targets go on, and no more; there is room again when they have ended.
func TestFanLetFinishMany(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, cc := fanMemory(t, &relay.FanOut{Policy: fanout.Any(), LetFinish: time.Minute}, rigConfig{}, node{handler: mute}, node{handler: answers("m")})
		canceled := 0
		var mu sync.Mutex
		f.targets[0].Backend.AttemptEnded = func(*relay.Call, relay.AttemptStats) {
			mu.Lock()
			defer mu.Unlock()
			canceled++
		}
		call := func(n int) {
			for range n {
				if out, err := unary(t.Context(), cc, "/a.B/Unary", "x"); err != nil || out != "<b:m>" {
					t.Fatalf("%q, %v", out, err)
				}
			}
		}
		want := func(n int) {
			t.Helper()
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			if canceled != n {
				t.Errorf("%d have ended, want %d", canceled, n)
			}
		}
		call(relay.MaxLoose)
		want(0)
		call(10)
		want(10)
		time.Sleep(time.Minute)
		want(relay.MaxLoose + 10)
		call(1)
		want(relay.MaxLoose + 10)
	})
}

// A loose target that loses its connection, or is reset, has ended.
func TestFanLetFinishLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, cc := fanMemory(t, &relay.FanOut{Policy: fanout.Any(), LetFinish: time.Hour}, rigConfig{}, node{handler: mute}, node{handler: answers("m")})
		ends := make(chan string, 1)
		f.targets[0].Backend.AttemptEnded = func(_ *relay.Call, a relay.AttemptStats) { ends <- a.Reason }
		if out, err := unary(within(t), cc, "/a.B/Unary", "x"); err != nil || out != "<b:m>" {
			t.Fatalf("%q, %v", out, err)
		}
		if len(ends) > 0 {
			t.Fatal("it did not go on")
		}
		f.targets[0].Backend.Endpoints[0].Close()
		if reason := <-ends; reason != relay.ReasonUpstreamLost {
			t.Errorf("ended by %q", reason)
		}
	})
}

// A target that waits for a connection goes on with that, and gets the request when it has one: until its time to connect, that of
// LetFinish or the caller's deadline is over.
func TestFanLetFinishWaiting(t *testing.T) {
	const ms = time.Millisecond
	tests := []struct {
		name    string
		cfg     relay.FanOut
		timeout time.Duration // of the caller
		refused bool          // the connection, in the end
		end     string
		after   time.Duration
	}{
		{"in time", relay.FanOut{LetFinish: time.Minute}, time.Hour, false, "OK  true", 1000 * ms},
		{"time to connect", relay.FanOut{LetFinish: time.Minute, ConnectTimeout: 400 * ms}, time.Hour, false, "DeadlineExceeded TARGET_TIMEOUT false", 400 * ms},
		{"time", relay.FanOut{LetFinish: 300 * ms}, time.Hour, false, "Canceled CANCELED false", 300 * ms},
		{"deadline", relay.FanOut{LetFinish: time.Minute}, 200 * ms, false, "Canceled CANCELED false", 200 * ms},
		{"refused", relay.FanOut{LetFinish: time.Minute}, time.Hour, true, "Unavailable CONNECT_FAILED false", 1000 * ms},
		{"not let", relay.FanOut{}, time.Hour, false, "Canceled CANCELED false", 0},
	}
	for _, tt := range tests {
		for _, request := range []string{"", "x", strings.Repeat("x", 5000)} {
			bubble(t, fmt.Sprint(tt.name, " ", len(request)), func(t *testing.T) {
				tt.cfg.Policy = fanout.Any()
				f, cc := fanMemory(t, &tt.cfg, rigConfig{}, node{handler: answers("m")})
				back := memnet.Listen("late")
				got := make(chan string, 1)
				serveOn(t, back, func(_ any, st grpc.ServerStream) error {
					m, err := recv(st)
					got <- m
					return err
				})
				late := relay.NewEndpoint("late", relay.EndpointConfig{Dial: func(ctx context.Context) (net.Conn, error) {
					select {
					case <-time.After(1000 * ms):
					case <-ctx.Done():
					}
					if tt.refused {
						return nil, errors.New("connection refused")
					}
					return back.DialContext(ctx)
				}})
				t.Cleanup(late.Close)
				ends := make(chan string, 1)
				f.targets = append(f.targets, relay.Target{Name: "late", Backend: &relay.Backend{
					Name: "late", Endpoints: []*relay.Endpoint{late},
					AttemptEnded: func(_ *relay.Call, a relay.AttemptStats) { ends <- fmt.Sprint(a.Code, " ", a.Reason, " ", a.Opened) },
				}})
				begin := time.Now()
				ctx, cancel := context.WithTimeout(t.Context(), tt.timeout)
				defer cancel()
				if out, err := unary(ctx, cc, "/a.B/Unary", request); err != nil || out != "<a:m>" || time.Since(begin) > ms {
					t.Fatalf("%q, %v after %v", out, err, time.Since(begin))
				}
				if o := outcomesOf(<-f.stats); o != "a:complete:OK late:cancelled:OK" {
					t.Errorf("outcomes %s", o)
				}
				if end := <-ends; end != tt.end || time.Since(begin) != tt.after {
					t.Errorf("ended with %q after %v, want %q after %v", end, time.Since(begin), tt.end, tt.after)
				}
				if strings.HasPrefix(tt.end, "OK") {
					if m := <-got; m != request {
						t.Errorf("it got %d octets, want %d", len(m), len(request))
					}
				}
				synctest.Wait()
				if n, held := late.InFlight(), f.Server.Buffered(); n != 0 || held != 0 {
					t.Errorf("%d calls are left at it, %d octets held", n, held)
				}
			})
		}
	}
}

// What is kept of the request for targets that wait for a stream is given back where the server lets none of them go on.
func TestFanLetFinishManyWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := &relay.FanOut{Policy: fanout.Any(), LetFinish: time.Minute, ConnectTimeout: time.Minute}
		f, cc := fanMemory(t, cfg, rigConfig{endpoint: relay.EndpointConfig{MaxWaiting: 2 * relay.MaxLoose, ConnectTimeout: time.Hour}}, blackHole, node{handler: answers("m")})
		for range relay.MaxLoose + 10 {
			if out, err := unary(t.Context(), cc, "/a.B/Unary", "x"); err != nil || out != "<b:m>" {
				t.Fatalf("%q, %v", out, err)
			}
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if n := f.Buffered(); n != 0 {
			t.Errorf("%d octets are held in the end", n)
		}
	})
}
