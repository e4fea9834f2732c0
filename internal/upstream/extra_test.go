// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/manifold-grpc/manifold/internal/config"
	"github.com/manifold-grpc/manifold/relay"
)

// namedClient runs a relay that sends each call to the endpoint that metadata "to" names, and returns a channel to it.
func (w *world) namedClient(b *Backend) *grpc.ClientConn {
	return w.routed(func(c *relay.Call) {
		to, _ := c.Header("to")
		e, err := b.Named(to)
		if err != nil {
			c.Reject(status.New(codes.InvalidArgument, err.Error()), "")
			return
		}
		c.Forward(e.Relay)
	})
}

// callsTo returns a function that calls an endpoint by name, and checks who answered and how.
func (w *world) callsTo(cc *grpc.ClientConn) func(name, want string, code codes.Code) {
	return func(name, want string, code codes.Code) {
		w.t.Helper()
		if got, err := call(cc, time.Second, "to", name); got != want || status.Code(err) != code {
			w.t.Errorf("the call to %q came to %q, %v, want %q, %v", name, got, err, want, code)
		}
	}
}

// dialsOf returns a function that checks how often a server was dialled.
func (w *world) dialsOf(addr string) func(n int) {
	return func(n int) {
		w.t.Helper()
		if got := w.servers[addr].dialled(); got != n {
			w.t.Errorf("%s was dialled %d times, want %d", addr, got, n)
		}
	}
}

// What becomes of endpoints that callers name is no matter for the log: they could fill it.
func TestNamedQuietly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		var mu sync.Mutex
		tried := 0
		b, err := Open("b", Config{}, Deps{
			Log: slog.New(slog.NewTextHandler(&out, nil)),
			Dial: func(context.Context, string, string) (net.Conn, error) {
				mu.Lock()
				defer mu.Unlock()
				tried++
				return nil, errors.New("connection refused")
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := b.Named("10.5.0.1:50000"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Second)
		b.Close()
		if tried < 2 || out.Len() > 0 {
			t.Errorf("after %d attempts the log has %q", tried, out.String())
		}
	})
}

// Endpoints that callers name are connected once, kept while they are used, in no way part of the set, and end with an idle time.
func TestNamed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		for _, a := range []string{"a:1", "x:1", "y:1"} {
			w.serve(a)
		}
		b := w.open(Config{Backend: config.Backend{Endpoints: endpoints("a:1")}}, Hooks{
			State: func(_, name string, _ relay.State, _ error) {
				if name != "a:1" {
					t.Errorf("the hook heard of %q", name)
				}
			},
			Ejected: func(_, name, _ string, _ time.Time) { t.Errorf("%q was ejected", name) },
		})
		cc := w.namedClient(b)
		to, dials := w.callsTo(cc), w.dialsOf("x:1")
		to("a:1", "a:1", codes.OK)
		for range 3 {
			to("x:1", "x:1", codes.OK)
			time.Sleep(4 * time.Minute)
		}
		dials(1)
		to("no address", "", codes.InvalidArgument)
		to("unix:/run/x.sock", "", codes.InvalidArgument)
		to(strings.Repeat("x", 300)+":1", "", codes.InvalidArgument)
		to("z:1", "", codes.Unavailable)
		w.servers["x:1"].fails(codes.Unavailable)
		for range 10 { // as many as would have one of the set ejected
			to("x:1", "x:1", codes.Unavailable)
		}
		w.servers["x:1"].answers(nil)
		to("x:1", "x:1", codes.OK)
		if n := len(b.Endpoints()); n != 1 || len(b.Each()) != 1 {
			t.Errorf("%d endpoints, %d for all", n, len(b.Each()))
		}

		// One that cannot be reached is soon not dialled any more.
		time.Sleep(time.Minute)
		b.extras.mu.Lock()
		if b.extras.byAddress["z:1"] != nil || b.extras.byAddress["x:1"] == nil {
			t.Errorf("after a minute there are %d endpoints, want x:1", len(b.extras.byAddress))
		}
		b.extras.mu.Unlock()

		time.Sleep(6 * time.Minute)
		b.extras.mu.Lock()
		if n := len(b.extras.byAddress); n != 0 {
			t.Errorf("%d endpoints are left after six minutes without a call", n)
		}
		b.extras.mu.Unlock()
		to("x:1", "x:1", codes.OK)
		dials(2)
	})
}

// A long call keeps its endpoint; another way to connect, and the end of the backend, end it.
func TestNamedEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		for _, a := range []string{"a:1", "x:1", "y:1"} {
			w.serve(a)
		}
		b := w.open(Config{Backend: config.Backend{Endpoints: endpoints("a:1")}})
		cc := w.namedClient(b)
		to, dials := w.callsTo(cc), w.dialsOf("x:1")
		w.servers["y:1"].answers(func(ctx context.Context) error {
			select {
			case <-time.After(20 * time.Minute):
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
		if got, err := call(cc, time.Hour, "to", "y:1"); got != "y:1" || err != nil {
			t.Errorf("the long call came to %q, %v", got, err)
		}

		to("x:1", "x:1", codes.OK)
		dials(1)
		if err := b.Update(Config{Backend: config.Backend{Endpoints: endpoints("a:1"), Authority: "other"}}); err != nil {
			t.Fatal(err)
		}
		to("x:1", "x:1", codes.OK)
		dials(2)
		b.Close()
		if _, err := b.Named("x:1"); !errors.Is(err, ErrClosed) {
			t.Errorf("a closed backend: %v", err)
		}
	})
}

// There is a bound, beyond which those that have no call make room.
func TestNamedMany(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		b := w.open(Config{Backend: config.Backend{Endpoints: endpoints("a:1")}})
		for i := range MaxExtras {
			if _, err := b.Named(fmt.Sprintf("x%d:1", i)); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := b.Named("more:1"); !errors.Is(err, ErrTooManyExtras) {
			t.Errorf("one too many: %v", err)
		}
		time.Sleep(extraFresh)
		if _, err := b.Named("x0:1"); err != nil {
			t.Error(err)
		}
		if _, err := b.Named("more:1"); err != nil {
			t.Errorf("one more, when others are unused: %v", err)
		}
		b.extras.mu.Lock()
		defer b.extras.mu.Unlock()
		if n := len(b.extras.byAddress); n != MaxExtras || b.extras.byAddress["x0:1"] == nil || b.extras.byAddress["more:1"] == nil {
			t.Errorf("%d are kept", n)
		}
	})
}
