// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package proxy_test

import (
	"context"
	"net"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/status"

	"github.com/manifold-grpc/manifold/proxy"
)

const (
	ready      = connectivity.Ready
	idle       = connectivity.Idle
	connecting = connectivity.Connecting
	failed     = connectivity.TransientFailure
	shut       = connectivity.Shutdown
)

// picks returns the names of the backends of n calls, one after another.
func picks(t *testing.T, r *proxy.RoundRobin, n int) string {
	t.Helper()

	var names []string

	for range n {
		mode, backends, err := r.Direct(context.Background(), "/s/m")
		if err != nil || mode != proxy.One2One || len(backends) != 1 {
			t.Fatalf("Direct = %v, %v, %v", mode, backends, err)
		}

		names = append(names, backends[0].String())
	}

	return strings.Join(names, " ")
}

func TestRoundRobinOrder(t *testing.T) {
	tests := []struct {
		name   string
		states []connectivity.State // of a, b, c, d
		want   string
	}{
		{"one", []connectivity.State{ready}, "a a a"},
		{"all up", []connectivity.State{ready, ready, ready}, "a b c a b c a"},
		{"idle is up", []connectivity.State{idle, ready, idle}, "a b c a b c a"},
		{"one down", []connectivity.State{ready, failed, ready}, "a c a c a c a"},
		{"first down", []connectivity.State{shut, ready, ready}, "b c b c b c b"},
		{"neighbours down", []connectivity.State{ready, failed, shut, ready}, "a d a d a d a"},
		{"connecting is passed over", []connectivity.State{ready, connecting, ready}, "a c a c a c a"},
		{"connecting before down", []connectivity.State{failed, connecting, failed}, "b b b"},
		{"nothing but connecting", []connectivity.State{connecting, connecting, connecting}, "a b c a b c a"},
		{"all down", []connectivity.State{failed, shut, failed}, "a b c a b c a"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var backends []proxy.Backend
			for i, state := range tt.states {
				backends = append(backends, &proxy.Upstream{
					Name: string(rune('a' + i)), Channel: stateChannel{state: func() connectivity.State { return state }},
				})
			}

			r, err := proxy.NewRoundRobin(backends...)
			if err != nil {
				t.Fatal(err)
			}

			if got := picks(t, r, strings.Count(tt.want, " ")+1); got != tt.want {
				t.Errorf("calls went to %s, want %s", got, tt.want)
			}
		})
	}
}

// Any backend will do: one without a state is taken for up.
func TestRoundRobinOverBackendsWithoutState(t *testing.T) {
	plain := &proxy.SingleBackend{}
	down := &proxy.Upstream{Name: "down"}

	r, err := proxy.NewRoundRobin(down, plain)
	if err != nil {
		t.Fatal(err)
	}

	if got := picks(t, r, 3); got != "backend backend backend" {
		t.Errorf("calls went to %s, want the backend without a state", got)
	}
}

func TestRoundRobinOfNothing(t *testing.T) {
	for _, tt := range []struct {
		backends []proxy.Backend
		want     string
	}{
		{nil, "proxy: round robin needs a backend, got none"},
		{[]proxy.Backend{&proxy.Upstream{}, nil}, "proxy: backend #1 of a round robin is nil"},
	} {
		if r, err := proxy.NewRoundRobin(tt.backends...); r != nil || err == nil || err.Error() != tt.want {
			t.Errorf("NewRoundRobin = %v, %v, want error %s", r, err, tt.want)
		}
	}

	if _, _, err := new(proxy.RoundRobin).Direct(context.Background(), "/s/m"); status.Code(err) != codes.Unavailable {
		t.Errorf("zero value: %v, want Unavailable", err)
	}
}

// Calls at once share one turn counter: not one more or less for anybody.
func TestRoundRobinIsEvenUnderConcurrency(t *testing.T) {
	const callers, each = 8, 300 // 2400 calls over 3

	for name, tt := range map[string]struct {
		middle connectivity.State
		want   [3]int // -1: any
	}{
		"all up":   {ready, [3]int{800, 800, 800}},
		"one down": {failed, [3]int{-1, 0, -1}},
	} {
		t.Run(name, func(t *testing.T) {
			var (
				up, down = &proxy.Upstream{Name: "a", Channel: onlyChannel{}}, stateChannel{state: func() connectivity.State { return tt.middle }}
				middle   = &proxy.Upstream{Name: "b", Channel: down}
				third    = &proxy.Upstream{Name: "c", Channel: onlyChannel{}}
			)

			r, err := proxy.NewRoundRobin(up, middle, third)
			if err != nil {
				t.Fatal(err)
			}

			var (
				mu    sync.Mutex
				count = make(map[string]int)
				wg    sync.WaitGroup
			)

			for range callers {
				wg.Go(func() {
					for range each {
						_, backends, _ := r.Direct(context.Background(), "/s/m")

						mu.Lock()
						count[backends[0].String()]++
						mu.Unlock()
					}
				})
			}

			wg.Wait()

			for i, want := range tt.want {
				if got := count[string(rune('a'+i))]; want >= 0 && got != want || want < 0 && got < callers*each/4 {
					t.Errorf("calls: %v, want %v", count, tt.want)

					break
				}
			}
		})
	}
}

// Calls of one client connection go round; when a backend dies, the others take all; when it is back, so are its calls.
func TestRoundRobinWithinOneConnection(t *testing.T) {
	names := []string{"a", "b", "c"}

	var (
		backends []proxy.Backend
		conns    []*grpc.ClientConn
		servers  []*grpc.Server
		addrs    []string
	)

	for _, name := range names {
		s, addr := namedServer(t, name, "127.0.0.1:0")
		servers, addrs = append(servers, s), append(addrs, addr)
		conns = append(conns, dial(t, addr))
		backends = append(backends, &proxy.Upstream{Name: name, Channel: conns[len(conns)-1]})
	}

	r, err := proxy.NewRoundRobin(backends...)
	if err != nil {
		t.Fatal(err)
	}

	client := dialRaw(t, startProxy(t, r.Direct))
	round := func(n int) map[string]int {
		t.Helper()

		count := make(map[string]int)

		for range n {
			got, err := call(t, client, "/s/m")
			if err != nil {
				t.Fatal(err)
			}

			count[got[0]]++
		}

		return count
	}
	equal := func(when string, got map[string]int, a, b, c int) {
		t.Helper()

		if got["a"] != a || got["b"] != b || got["c"] != c {
			t.Errorf("%s: calls went to %v, want a:%d b:%d c:%d", when, got, a, b, c)
		}
	}

	equal("all up", round(9), 3, 3, 3)

	servers[1].Stop()
	waitForState(t, conns[1], failed)
	equal("b down", round(10), 5, 0, 5)

	namedServer(t, "b", addrs[1])
	conns[1].ResetConnectBackoff()
	waitForState(t, conns[1], ready)
	equal("b back", round(9), 3, 3, 3)
}

// namedServer runs a server on addr that answers every call with its name, until the test ends.
func namedServer(t *testing.T, name, addr string) (*grpc.Server, string) {
	t.Helper()

	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}

	s := grpc.NewServer(grpc.ForceServerCodecV2(proxy.Codec()), grpc.UnknownServiceHandler(func(_ any, s grpc.ServerStream) error {
		return s.SendMsg(proxy.NewFrame([]byte(name)))
	}))
	served := make(chan struct{})

	go func() { // ends with s.Stop
		defer close(served)
		_ = s.Serve(l)
	}()

	t.Cleanup(func() {
		s.Stop()
		<-served
	})

	return s, l.Addr().String()
}

// waitForState waits until the connection has the state, and makes it connect meanwhile.
func waitForState(t *testing.T, conn *grpc.ClientConn, want connectivity.State) {
	t.Helper()

	ctx, cancel := context.WithTimeout(context.Background(), testTimeout)
	defer cancel()

	for state := conn.GetState(); state != want; state = conn.GetState() {
		conn.Connect()

		if !conn.WaitForStateChange(ctx, state) {
			t.Fatalf("the connection is %v, want %v", state, want)
		}
	}
}
