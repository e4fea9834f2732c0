// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package proxy_test

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/manifold-grpc/manifold/fanout"
	"github.com/manifold-grpc/manifold/proxy"
)

// A thousand calls at once to a hundred endpoints, of which ten are dead: each call has the answer of every healthy endpoint
// and an outcome of every dead one, and reaches no dead one's connection attempt after the first has failed.
func TestThousandFanouts(t *testing.T) {
	const endpoints, dead = 100, 10

	calls := 1000
	if raceEnabled || testing.Short() {
		calls = 100
	}

	attempts := new(atomic.Int64)
	all, want := endpointsOfWhichDead(t, endpoints, dead, attempts)

	conn := fan(t, all, proxy.WithStreamedDetector(byName), proxy.WithFanout(proxy.Fanout{
		Policy: fanout.BestEffort(), Summary: true,
		ConnectTimeout: -1, // connections are there or refused; what takes time here is the one machine that plays all parts
	}))
	connected(t, conn)

	// The first call finds out which endpoints are dead.
	if got, err := call(t, conn, unaryMethod, "x"); err != nil || len(got) != 1 {
		t.Fatalf("the first call: %d messages, %v", len(got), err)
	}

	var running sync.WaitGroup

	before := heap()
	peak := new(atomic.Uint64)
	begin := time.Now()

	for i := range calls {
		running.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), 2*testTimeout)
			defer cancel()

			s, err := conn.NewStream(ctx, duplex, unaryMethod)
			if err != nil {
				t.Error(err)

				return
			}

			send(t, s, "x")
			_ = s.CloseSend()

			got, err := collect(s)
			if err != nil || len(got) != 1 || got[0] != want {
				t.Errorf("call %d: %.80q, %v", i, got, err)

				return
			}

			if i%50 == 0 {
				peak.Store(max(peak.Load(), heap()))
			}

			if report, err := fanout.ReadTrailer(s.Trailer()); err != nil || report.GetOk() != endpoints-dead || report.GetFailed() != dead {
				t.Errorf("call %d: %s, %v", i, fanout.Summary(report), err)
			}
		})
	}

	running.Wait()

	// A call may hold a window of 64 KiB for each target. These need a fraction of that, client and backends included.
	grown := int64(peak.Load()) - int64(before)
	if bound := int64(calls) * endpoints * 64 << 10; grown > bound/2 {
		t.Errorf("the heap grew by %d bytes, the windows are %d", grown, bound)
	}

	t.Logf("%d calls took %v; the heap grew by %d MiB; %d connection attempts at dead endpoints", calls, time.Since(begin), grown>>20, attempts.Load())

	// grpc-go tries a dead address again after a second, and then less and less often. Calls do not make it try.
	if n, most := attempts.Load(), int64(dead)*(3+int64(time.Since(begin)/time.Second)); n > most {
		t.Errorf("%d connection attempts at dead endpoints, want at most %d", n, most)
	}
}

// endpointsOfWhichDead returns backends, and what they answer to one call. It counts the connection attempts at the dead.
func endpointsOfWhichDead(t *testing.T, endpoints, dead int, attempts *atomic.Int64) (all []proxy.Backend, want string) {
	t.Helper()

	all = make([]proxy.Backend, endpoints)

	// Ten servers have ten endpoints each: a connection of its own for each. They are light, for it is the proxy that is under load.
	var addrs []string
	for range 10 {
		addrs = append(addrs, startLightBackend(t, "1"))
	}

	for i := range all {
		n := &node{name: fmt.Sprintf("n%02d", i)}

		if i%(endpoints/dead) == 3 {
			n.conn = dial(t, closedPort, grpc.WithContextDialer(countDials(attempts)))
			want += n.name + "!Unavailable;"
		} else {
			n.conn = dial(t, addrs[i%len(addrs)])
			connected(t, n.conn)

			want += n.name + "=1;"
		}

		all[i] = n
	}

	return all, want
}

// heap returns the bytes of live and not yet collected objects.
func heap() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)

	return m.HeapAlloc
}

// Endless and huge targets cost no more memory than the bounds allow, though the caller reads nothing.
func TestMemoryOfOneCall(t *testing.T) {
	endless := func(_ any, s grpc.ServerStream) error {
		for {
			if err := s.SendMsg(proxy.NewFrame(make([]byte, 32<<10))); err != nil {
				return err
			}
		}
	}

	for _, tt := range []struct {
		method string
		total  time.Duration
		code   codes.Code
		text   string
	}{
		{unaryMethod, time.Minute, codes.ResourceExhausted, "TargetBytes"},
		{streamMethod, time.Second, codes.DeadlineExceeded, "TotalTimeout"},
	} {
		const targets = 8

		handlers := make([]grpc.StreamHandler, targets)
		for i := range handlers {
			handlers[i] = endless
		}

		conn := fan(t, plain(nodes(t, handlers...)), proxy.WithStreamedDetector(byName), proxy.WithFanout(proxy.Fanout{
			TargetBytes: 1 << 20, TotalTimeout: tt.total, Policy: fanout.Quorum(targets),
		}))
		connected(t, conn)
		runtime.GC()

		before := heap()
		s := open(t, conn, tt.method)
		_ = s.CloseSend()

		if tt.method == streamMethod {
			<-time.After(300 * time.Millisecond) // nobody reads
			runtime.GC()

			// A window at each of the four ends that a message passes, and the caller's.
			if grown := int64(heap()) - int64(before); grown > (4*targets+4)*(64<<10)*2 {
				t.Errorf("%d targets that nobody reads hold %d bytes", targets, grown)
			}
		}

		_, err := collect(s)
		if got := err.Error(); !strings.Contains(got, tt.text) {
			t.Errorf("%s: ended with %v, want %v and %q", tt.method, err, tt.code, tt.text)
		}
	}
}
