// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"context"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/manifold-grpc/manifold/internal/config"
	"github.com/manifold-grpc/manifold/relay"
)

// A change of the configuration keeps the connections of endpoints that stay, and lets those that leave finish.
func TestUpdate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		for _, a := range []string{"a:1", "b:1", "c:1"} {
			w.serve(a)
		}
		b := w.open(Config{Backend: config.Backend{Endpoints: endpoints("a:1", "b:1")}})
		cc := w.client(b)
		release := make(chan struct{})
		w.servers["b:1"].answers(func(context.Context) error { <-release; return nil })
		leaving := make(chan error, 1)
		go func() { // ends with the call
			for range 2 { // one of each
				_, err := call(cc, time.Hour)
				leaving <- err
			}
		}()
		synctest.Wait()

		if err := b.Update(Config{Backend: config.Backend{Endpoints: endpoints("a:1", "c:1"), Balance: config.LeastRequest}}); err != nil {
			t.Fatal(err)
		}
		b.AwaitTries(t.Context())
		if got := tallyOfCalls(cc, 50); got[""] > 0 || got["b:1"] > 0 || got["a:1"] == 0 || got["c:1"] == 0 {
			t.Errorf("after the change calls went to %v", got)
		}
		if n := w.servers["a:1"].dialled(); n != 1 {
			t.Errorf("%d connections to an endpoint that stayed", n)
		}
		time.Sleep(time.Minute)
		close(release)
		for range 2 {
			if err := <-leaving; err != nil {
				t.Errorf("a call at an endpoint that left: %v", err)
			}
		}

		// Another way to speak to them means other connections.
		if err := b.Update(Config{Backend: config.Backend{Endpoints: endpoints("a:1"), Authority: "x"}}); err != nil {
			t.Fatal(err)
		}
		b.AwaitTries(t.Context())
		if got, n := tallyOfCalls(cc, 5), w.servers["a:1"].dialled(); got["a:1"] != 5 || n != 2 {
			t.Errorf("calls went to %v, over %d connections", got, n)
		}
		if err := b.Update(Config{Backend: config.Backend{Endpoints: endpoints("c:1"), TLS: &config.BackendTLS{CA: "absent"}}}); err == nil {
			t.Error("no error of a file that is not there")
		}
		if got := tallyOfCalls(cc, 5); got["a:1"] != 5 {
			t.Errorf("after an update that failed calls went to %v", got)
		}
	})
}

// A backend that retires lets its calls end, and is closed then.
func TestRetire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.serve("a:1").answers(func(ctx context.Context) error { sleep(ctx, time.Minute); return nil })
		b := w.open(Config{Backend: config.Backend{Endpoints: endpoints("a:1")}})
		cc := w.client(b)
		ended := make(chan error, 1)
		go func() { // ends with the call
			_, err := call(cc, time.Hour)
			ended <- err
		}()
		synctest.Wait()
		began := time.Now()
		if err := b.Retire(t.Context()); err != nil || time.Since(began) < time.Minute || time.Since(began) > time.Minute+2*time.Second {
			t.Errorf("Retire: %v after %v", err, time.Since(began))
		}
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if _, err := call(cc, time.Second); status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "backend b") {
			t.Errorf("after it: %v", err)
		}

		b = w.open(Config{Backend: config.Backend{Endpoints: endpoints("a:1")}})
		cc = w.client(b)
		go func() { // ends with the call
			_, err := call(cc, time.Hour)
			ended <- err
		}()
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := b.Retire(ctx); err == nil {
			t.Error("no error of a Retire whose time was not enough")
		}
		if err := <-ended; status.Code(err) != codes.Unavailable {
			t.Errorf("the call that was cut: %v", err)
		}
	})
}

// checkOnly has no Watch.
type checkOnly struct {
	healthpb.UnimplementedHealthServer
	answer func() (healthpb.HealthCheckResponse_ServingStatus, error)
}

func (c checkOnly) Check(context.Context, *healthpb.HealthCheckRequest) (*healthpb.HealthCheckResponse, error) {
	s, err := c.answer()
	return &healthpb.HealthCheckResponse{Status: s}, err
}

// Endpoints that say that they do not serve get no calls, at once by Watch and after two checks without it; one that does not have
// the service counts as healthy.
func TestHealth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		watched := health.NewServer()
		watched.SetServingStatus("s", healthpb.HealthCheckResponse_NOT_SERVING)
		w.serve("watch:1", func(s *grpc.Server) { healthpb.RegisterHealthServer(s, watched) })
		checked := make(chan healthpb.HealthCheckResponse_ServingStatus, 1)
		checked <- healthpb.HealthCheckResponse_SERVING
		w.serve("check:1", func(s *grpc.Server) {
			healthpb.RegisterHealthServer(s, checkOnly{answer: func() (healthpb.HealthCheckResponse_ServingStatus, error) {
				s := <-checked
				checked <- s
				return s, nil
			}})
		})
		w.serve("none:1", func(s *grpc.Server) { healthpb.RegisterHealthServer(s, healthpb.UnimplementedHealthServer{}) })
		var told events
		b := w.open(Config{Backend: config.Backend{
			Endpoints: endpoints("watch:1", "check:1", "none:1"), Health: &config.Health{Service: "s", Interval: config.Time(time.Second)},
		}}, Hooks{Health: func(_, e string, ok bool, why string) { told.add("%s %v %s", e, ok, why) }})
		cc := w.client(b)
		want := func(names ...string) {
			t.Helper()
			got := slices.Sorted(maps.Keys(tallyOfCalls(cc, 12)))
			if !slices.Equal(got, names) {
				t.Errorf("calls went to %q, want %q", got, names)
			}
		}
		want("check:1", "none:1") // from the first call on
		watched.SetServingStatus("s", healthpb.HealthCheckResponse_SERVING)
		synctest.Wait()
		want("check:1", "none:1", "watch:1")
		watched.SetServingStatus("s", healthpb.HealthCheckResponse_NOT_SERVING)
		synctest.Wait()
		<-checked
		checked <- healthpb.HealthCheckResponse_NOT_SERVING
		want("check:1", "none:1") // one bad check is none
		time.Sleep(2500 * time.Millisecond)
		want("none:1")
		if s := b.Endpoints()[1]; s.Health != NotServing || s.HealthReason != "NOT_SERVING" || s.Usable() {
			t.Errorf("status %+v", s)
		}

		// None is healthy: the endpoints are taken by their word.
		if err := b.Update(Config{Backend: config.Backend{
			Endpoints: endpoints("watch:1", "check:1"), Health: &config.Health{Service: "s", Interval: config.Time(time.Second)},
		}}); err != nil {
			t.Fatal(err)
		}
		b.AwaitTries(t.Context())
		if _, err := call(cc, time.Second); status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "backend b: no endpoint is healthy, 2 of 2") {
			t.Errorf("error = %v", err)
		}
		<-checked
		checked <- healthpb.HealthCheckResponse_SERVING
		time.Sleep(1500 * time.Millisecond)
		want("check:1")

		// Without checks nobody is asked.
		if err := b.Update(Config{Backend: config.Backend{Endpoints: endpoints("watch:1")}}); err != nil {
			t.Fatal(err)
		}
		want("watch:1")
		if lines := told.all(); len(lines) < 5 || lines[0] == lines[1] {
			t.Errorf("told %q", lines)
		}
	})
}

// An endpoint that does not answer checks is not healthy, and is again when it does.
func TestHealthNoAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		for _, a := range []string{"a:1", "b:1"} {
			w.serve(a, func(s *grpc.Server) { healthpb.RegisterHealthServer(s, health.NewServer()) })
		}
		b := w.open(Config{Backend: config.Backend{Endpoints: endpoints("a:1", "b:1"), Health: &config.Health{Interval: config.Time(time.Second)}}})
		b.AwaitTries(t.Context())
		w.servers["b:1"].setHole(true)
		time.Sleep(4500 * time.Millisecond) // two checks, a second apart, of a second each
		if s := b.Endpoints(); s[0].Health != Serving || s[1].Health != NotServing || !strings.Contains(s[1].HealthReason, "no answer") {
			t.Errorf("status %+v", s)
		}
		w.servers["b:1"].setHole(false)
		time.Sleep(3 * time.Second)
		if s := b.Endpoints(); s[1].Health != Serving {
			t.Errorf("after it answers again: %+v", s[1])
		}
	})
}

// Calls that fail have their endpoint ejected, for a while that grows; at most half are, and when none is left the ejected
// are used.
func TestEjection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		for _, a := range []string{"a:1", "b:1", "c:1"} {
			w.serve(a)
		}
		var told events
		b := w.open(Config{Backend: config.Backend{Endpoints: endpoints("a:1", "b:1", "c:1")}}, Hooks{
			Ejected: func(_, e, cause string, until time.Time) {
				told.add("%s ejected by %s for %v", e, cause, time.Until(until))
			},
			Readmitted: func(_, e string) { told.add("%s back", e) },
		})
		cc := w.client(b)
		w.servers["a:1"].fails(codes.Unavailable)
		w.servers["b:1"].fails(codes.Unavailable)
		if got := tallyOfCalls(cc, 60); got[""] < 10 || got["c:1"] < 20 || got["c:1"] > 30 {
			t.Errorf("calls went to %v, want half of them to c:1: one of three may be ejected", got)
		}
		w.servers["b:1"].answers(nil)
		time.Sleep(5*time.Second + time.Millisecond) // not at the moment at which the ejection ends
		tallyOfCalls(cc, 60)
		w.servers["a:1"].answers(nil)
		time.Sleep(10*time.Second + time.Millisecond)
		if got := tallyOfCalls(cc, 60); got["a:1"] != 20 || got["b:1"] != 20 || got["c:1"] != 20 {
			t.Errorf("at the end calls went to %v", got)
		}
		lines := told.all()
		if len(lines) != 4 || !strings.HasSuffix(lines[0], "by consecutive_failures for 5s") || !strings.HasSuffix(lines[2], "for 10s") && !strings.HasSuffix(lines[2], "for 5s") {
			t.Errorf("told %q", lines)
		}

		// Errors of the application's own are none of the endpoint's.
		w.servers["a:1"].fails(codes.NotFound)
		tallyOfCalls(cc, 60)
		if more := told.all(); len(more) != len(lines) {
			t.Errorf("told %q", more[len(lines):])
		}
	})
}

// More calls at once than are allowed are turned away.
func TestBreaker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.serve("a:1").answers(func(ctx context.Context) error { sleep(ctx, time.Second); return nil })
		var told events
		b := w.open(Config{Backend: config.Backend{Endpoints: endpoints("a:1"), Breaker: config.Breaker{MaxRequests: 3}}},
			Hooks{Dropped: func(_, reason string) { told.add("%s", reason) }})
		cc := w.client(b)
		results := make(chan error)
		for range 5 {
			go func() { // ends with the call
				_, err := call(cc, time.Hour)
				results <- err
			}()
		}
		dropped := 0
		for range 5 {
			if err := <-results; err != nil {
				dropped++
				if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "backend b: 3 calls are at it") {
					t.Errorf("error = %v", err)
				}
			}
		}
		if lines := told.all(); dropped != 2 || !slices.Equal(lines, []string{ReasonBreaker, ReasonBreaker}) {
			t.Errorf("%d calls turned away, told %q", dropped, lines)
		}
		if _, err := call(cc, time.Hour); err != nil || b.InFlight() != 0 {
			t.Errorf("after it: %v, %d in flight", err, b.InFlight())
		}
	})
}

// Retries hide failures that are few, and stop where most calls fail.
func TestRetries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.serve("a:1").fails(codes.Unavailable)
		w.serve("b:1")
		var told events
		off := config.Ejection{Disabled: true}
		b := w.open(Config{Backend: config.Backend{Endpoints: endpoints("a:1", "b:1"), Ejection: off, Retry: &config.Retry{}}}, Hooks{
			Retried:   func(string, codes.Code) { told.add("retried") },
			Exhausted: func(string, codes.Code) { told.add("exhausted") },
		})
		cc := w.client(b)
		for range 4 {
			if name, err := call(cc, time.Second); err != nil || name != "b:1" {
				t.Errorf("call = %q, %v", name, err)
			}
		}
		got := map[string]int{}
		for range 200 {
			_, err := call(cc, time.Second)
			got[status.Code(err).String()]++
		}
		// A half of the attempts fail, and take a token each where a success gives back a tenth.
		if got["Unavailable"] < 50 {
			t.Errorf("after a lot of failures %v", got)
		}
		lines := told.all()
		if lines[0] != "retried" || !slices.Contains(lines, "exhausted") {
			t.Errorf("told %q", lines)
		}
	})
}

// Without any endpoint the error says why.
func TestUnavailable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		b := w.open(Config{Backend: config.Backend{Endpoints: endpoints("nowhere:1")}})
		_, err := call(w.client(b), time.Second)
		if want := "backend b: no endpoint is available, last error: nowhere:1: no such host"; status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), want) {
			t.Errorf("error = %v, want %s", err, want)
		}
		if s := b.Endpoints()[0]; s.State != relay.Failing || s.Err == nil || s.Usable() {
			t.Errorf("status %+v", s)
		}
	})
}
