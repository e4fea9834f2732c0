// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"
	"google.golang.org/grpc/status"

	"github.com/manifold-grpc/manifold/internal/config"
	"github.com/manifold-grpc/manifold/internal/dnstest"
)

// resolving returns a world with three servers, and a resolver for targets of a scheme.
func resolving(t *testing.T, scheme string) (*world, *manual.Resolver) {
	r := manual.NewBuilderWithScheme(scheme)
	resolver.Register(r)
	w := newWorld(t)
	for _, a := range []string{"10.0.0.1:1", "10.0.0.2:1", "10.0.0.3:1"} {
		w.serve(a)
	}

	return w, r
}

func state(addrs ...string) resolver.State {
	var s resolver.State
	for _, a := range addrs {
		s.Addresses = append(s.Addresses, resolver.Address{Addr: a})
	}

	return s
}

// A target's endpoints follow its resolver, any of grpc-go's: those that stay keep their connections, an answer without
// any or an error changes nothing.
func TestTarget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, r := resolving(t, "manifold-test")
		var told events
		b := w.open(Config{Backend: config.Backend{Target: "manifold-test:///x:1"}},
			Hooks{Resolved: func(_ string, n int, err error) { told.add("%d %v", n, err) }})
		cc := w.client(b)
		if _, err := call(cc, time.Second); status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "backend b has no endpoint") {
			t.Errorf("before it is resolved: %v", err)
		}
		r.CC().ReportError(errors.New("no such name"))
		synctest.Wait()
		if _, err := call(cc, time.Second); err == nil || !strings.Contains(err.Error(), "no such name") {
			t.Errorf("without an answer: %v", err)
		}

		r.UpdateState(state("10.0.0.2:1", "10.0.0.1:1", "10.0.0.1:1"))
		synctest.Wait()
		b.AwaitTries(t.Context())
		if got := tallyOfCalls(cc, 10); got["10.0.0.1:1"] != 5 || got["10.0.0.2:1"] != 5 {
			t.Errorf("calls went to %v", got)
		}
		r.UpdateState(state("10.0.0.3:1", "10.0.0.2:1"))
		synctest.Wait()
		b.AwaitTries(t.Context())
		if got, n := tallyOfCalls(cc, 10), w.servers["10.0.0.2:1"].dialled(); got["10.0.0.3:1"] != 5 || got["10.0.0.2:1"] != 5 || n != 1 {
			t.Errorf("calls went to %v, %d connections to the one that stayed", got, n)
		}
		if err := r.CC().UpdateState(state()); err == nil {
			t.Error("the resolver is not told that it found nothing")
		}
		r.CC().ReportError(errors.New("timeout"))
		synctest.Wait()
		if got := tallyOfCalls(cc, 10); got["10.0.0.3:1"] != 5 || !strings.Contains(w.log.String(), "the endpoints stay") {
			t.Errorf("after an error calls went to %v, log:\n%s", got, w.log)
		}
		if lines := told.all(); len(lines) < 4 || lines[0] != "0 no such name" || lines[1] != "2 <nil>" || lines[len(lines)-1] != "2 timeout" {
			t.Errorf("told %q", lines)
		}
	})
}

// A target is looked up again at intervals, and when a connection is lost.
func TestTargetAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, r := resolving(t, "manifold-test-again")
		now := make(chan struct{}, 100)
		r.ResolveNowCallback = func(resolver.ResolveNowOptions) { now <- struct{}{} }
		r.InitialState(state("10.0.0.3:1"))
		w.open(Config{Backend: config.Backend{Target: "manifold-test-again:///x:1", ResolveInterval: config.Time(time.Minute)}})
		synctest.Wait()
		time.Sleep(time.Minute)
		synctest.Wait()
		if len(now) != 1 {
			t.Errorf("%d looks in a minute", len(now))
		}
		w.servers["10.0.0.3:1"].kill()
		synctest.Wait()
		if len(now) != 2 {
			t.Errorf("%d looks after a connection was lost", len(now))
		}
	})
}

// A backend may go from a target to a list, and back; calls find an endpoint all the while.
func TestTargetUpdate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, r := resolving(t, "manifold-test-update")
		b := w.open(Config{Backend: config.Backend{Endpoints: endpoints("10.0.0.1:1")}})
		cc := w.client(b)
		if err := b.Update(Config{Backend: config.Backend{Target: "manifold-test-update:///x:1"}}); err != nil {
			t.Fatal(err)
		}
		if got := tallyOfCalls(cc, 4); got["10.0.0.1:1"] != 4 {
			t.Errorf("until the target is resolved calls went to %v", got)
		}
		r.UpdateState(state("10.0.0.2:1"))
		synctest.Wait()
		b.AwaitTries(t.Context())
		if got := tallyOfCalls(cc, 4); got["10.0.0.2:1"] != 4 {
			t.Errorf("calls went to %v", got)
		}
		if err := b.Update(Config{Backend: config.Backend{Endpoints: endpoints("10.0.0.1:1")}}); err != nil {
			t.Fatal(err)
		}
		b.AwaitTries(t.Context())
		if got := tallyOfCalls(cc, 4); got["10.0.0.1:1"] != 4 {
			t.Errorf("calls went to %v", got)
		}
		if err := b.Update(Config{Backend: config.Backend{Target: "nobody:///x"}}); err == nil {
			t.Error("no error of an unknown scheme")
		}
	})
}

// quiet is a resolver that says what the test has it say, and nothing by itself.
type quiet struct {
	ccs []resolver.ClientConn
}

func (*quiet) Scheme() string                        { return "manifold-test-quiet" }
func (*quiet) ResolveNow(resolver.ResolveNowOptions) {}
func (*quiet) Close()                                {}
func (q *quiet) last() resolver.ClientConn           { return q.ccs[len(q.ccs)-1] }
func (q *quiet) Build(_ resolver.Target, cc resolver.ClientConn, _ resolver.BuildOptions) (resolver.Resolver, error) {
	q.ccs = append(q.ccs, cc)
	return q, nil
}

// With other keys beside the same target its endpoints stay, whether it is looked up by a new resolver or by the old one; with
// another way to speak to them they are connected anew.
func TestTargetKeysUpdate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := &quiet{}
		resolver.Register(q)
		w := newWorld(t)
		w.serve("10.0.0.1:1")
		cfg := config.Backend{Target: "manifold-test-quiet:///x:1"}
		b := w.open(Config{Backend: cfg})
		cc := w.client(b)
		say := func() {
			if err := q.last().UpdateState(resolver.State{Addresses: []resolver.Address{{Addr: "10.0.0.1:1"}}}); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		say()
		for i, change := range []struct {
			name            string
			builds, dialled int
			set             func()
		}{
			{"nothing", 1, 1, func() {}},
			{"interval", 2, 1, func() { cfg.ResolveInterval = config.Time(time.Hour) }},
			{"balance", 2, 1, func() { cfg.Balance = config.LeastRequest }},
			{"authority", 2, 2, func() { cfg.Authority = "x" }},
			{"both", 3, 3, func() { cfg.Authority, cfg.ResolveInterval = "y", config.Time(time.Minute) }},
		} {
			change.set()
			if err := b.Update(Config{Backend: cfg}); err != nil {
				t.Fatal(err)
			}
			if got := tallyOfCalls(cc, 4); got["10.0.0.1:1"] != 4 || len(q.ccs) != change.builds {
				t.Errorf("%d, %s: calls went to %v, %d resolvers, want %d", i, change.name, got, len(q.ccs), change.builds)
			}
			say()
			if n := w.servers["10.0.0.1:1"].dialled(); n != change.dialled {
				t.Errorf("%d, %s: %d connections, want %d", i, change.name, n, change.dialled)
			}
		}
	})
}

// records is a DNS with one SRV name.
type records struct {
	mu    sync.Mutex
	srv   []*net.SRV
	err   error
	looks int
}

func (r *records) LookupSRV(context.Context, string, string, string) (string, []*net.SRV, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.looks++

	return "", r.srv, r.err
}

func (r *records) LookupHost(_ context.Context, host string) ([]string, error) {
	switch host {
	case "gone.":
		return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
	case "broken.":
		return nil, &net.DNSError{Err: "server misbehaving", Name: host, IsTemporary: true}
	}

	return map[string][]string{"one.": {"10.0.0.1", "10.0.0.2"}, "two.": {"fd00::1"}}[host], nil
}

// said is a ClientConn that notes what it is told.
type said struct {
	resolver.ClientConn
	ch chan string
}

func (s said) UpdateState(st resolver.State) error {
	var b strings.Builder
	for _, a := range st.Addresses {
		fmt.Fprintf(&b, "%s %s %v ", a.Addr, a.ServerName, a.Attributes.Value(weightKey{}))
	}
	s.ch <- b.String()

	return nil
}

func (s said) ReportError(err error) { s.ch <- err.Error() }

// SRV records lead to all addresses of the hosts of the lowest priority, with ports and weights.
func TestSRV(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dns := &records{srv: []*net.SRV{
			{Target: "one.", Port: 50051, Priority: 1, Weight: 30}, {Target: "two.", Port: 50052, Priority: 1},
			{Target: "spare.", Port: 1, Priority: 2},
		}}
		cc := said{ch: make(chan string, 10)}
		r, err := srvBuilder{dns}.Build(resolver.Target{}, cc, resolver.BuildOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if got, want := <-cc.ch, "10.0.0.1:50051 one 30 10.0.0.2:50051 one 30 [fd00::1]:50052 two 1 "; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
		for range 3 {
			r.ResolveNow(resolver.ResolveNowOptions{})
		}
		time.Sleep(29 * time.Second)
		if dns.looks != 1 {
			t.Errorf("%d looks within the pause", dns.looks)
		}
		dns.mu.Lock()
		dns.err = errors.New("SERVFAIL")
		dns.mu.Unlock()
		if got := <-cc.ch; got != "SERVFAIL" {
			t.Errorf("got %q", got)
		}
		dns.mu.Lock()
		dns.err, dns.srv = nil, nil
		dns.mu.Unlock()
		if got := <-cc.ch; !strings.Contains(got, "no SRV record") {
			t.Errorf("got %q", got)
		}
		r.Close()
	})
}

// A host of a record that is gone does not void the others; one that could not be looked up may be there, so the endpoints before stay.
func TestSRVHosts(t *testing.T) {
	for _, tt := range []struct {
		hosts []string
		want  string
	}{
		{[]string{"gone.", "two."}, "[fd00::1]:1 two 1 "},
		{[]string{"gone."}, "lookup gone.: no such host"},
		{[]string{"two.", "broken."}, "lookup broken.: server misbehaving"},
	} {
		var list []*net.SRV
		for _, host := range tt.hosts {
			list = append(list, &net.SRV{Target: host, Port: 1})
		}
		cc := said{ch: make(chan string, 10)}
		r, err := srvBuilder{&records{srv: list}}.Build(resolver.Target{}, cc, resolver.BuildOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if got := <-cc.ch; got != tt.want {
			t.Errorf("%q: got %q, want %q", tt.hosts, got, tt.want)
		}
		r.Close()
	}
}

// The whole way, with grpc-go's resolver of dns and a name server that the target names.
func TestTargetDNS(t *testing.T) {
	server := dnstest.Serve(t, "catalog.test.", func() [][4]byte { return [][4]byte{{127, 0, 0, 2}, {127, 0, 0, 1}} })
	opened := make(chan string, 10)
	b, err := Open("b", Config{Backend: config.Backend{Target: "dns://" + server + "/catalog.test.:50051"}}, Deps{
		Dial: func(ctx context.Context, _, addr string) (net.Conn, error) {
			opened <- addr
			<-ctx.Done()
			return nil, ctx.Err()
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	var got []string
	for range 2 {
		select {
		case addr := <-opened:
			got = append(got, addr)
		case <-time.After(20 * time.Second):
			t.Fatal("nothing is dialled")
		}
	}
	slices.Sort(got)
	if want := []string{"127.0.0.1:50051", "127.0.0.2:50051"}; !slices.Equal(got, want) {
		t.Errorf("dialled %q, want %q", got, want)
	}
	for _, e := range b.Endpoints() {
		if m := e.Relay.Owner().(*member); m.serverName != "catalog.test" {
			t.Errorf("name for TLS %q", m.serverName)
		}
	}
}
