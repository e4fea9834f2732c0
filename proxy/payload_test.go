// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package proxy_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/manifold-grpc/manifold/proxy"
)

// sealed returns a message of random bytes and its checksum.
func sealed(r *rand.Rand, size int) []byte {
	b := make([]byte, size+4)
	for i := range size {
		b[i] = byte(r.Uint32())
	}

	binary.BigEndian.PutUint32(b[size:], crc32.ChecksumIEEE(b[:size]))

	return b
}

func intact(b []byte) bool {
	n := len(b) - 4

	return n >= 0 && crc32.ChecksumIEEE(b[:n]) == binary.BigEndian.Uint32(b[n:])
}

// Many calls of all sizes at once, some of which end in the middle, with freed buffers poisoned (see TestMain): every message
// arrives as it was sent, at the backends and at the callers.
func TestNoUseAfterFree(t *testing.T) {
	check := func(_ any, s grpc.ServerStream) error {
		for {
			f := proxy.NewFrame(nil).(*proxy.Frame)
			if err := s.RecvMsg(f); err == io.EOF {
				return nil
			} else if err != nil {
				return err
			}

			if !intact(f.Bytes()) {
				t.Error("a backend got a damaged request")

				return status.Error(codes.DataLoss, "damaged")
			}

			if err := s.SendMsg(f); err != nil {
				return err
			}
		}
	}

	all := nodes(t, check, check, check)
	for i, n := range all { // answers as they are
		all[i] = &proxy.SingleBackend{GetConn: withMetadata(n.(*node).conn)}
	}

	conn := dialRaw(t, startProxy(t, func(_ context.Context, method string) (proxy.Mode, []proxy.Backend, error) {
		if strings.Contains(method, "One") {
			return proxy.One2One, all[:1], nil
		}

		return proxy.One2Many, all, nil
	}, proxy.WithStreamedDetector(byName)))

	var running sync.WaitGroup

	for i := range 40 {
		running.Go(func() {
			r := rand.New(rand.NewPCG(1, uint64(i)))
			method, copies := "/test.One/Stream", 1

			if i%2 == 0 {
				method, copies = "/test.Many/Stream", 3
			}

			for range 5 {
				exchangeSealed(t, conn, r, method, copies)
			}
		})
	}

	running.Wait()
}

// exchangeSealed sends some messages, and takes the answers, or leaves in the middle.
func exchangeSealed(t *testing.T, conn *grpc.ClientConn, r *rand.Rand, method string, copies int) {
	ctx, cancel := context.WithTimeout(context.Background(), testTimeout)
	defer cancel()

	s, err := conn.NewStream(ctx, duplex, method)
	if err != nil {
		t.Error(err)

		return
	}

	n := 1 + r.IntN(10)
	for range n {
		if err := s.SendMsg(proxy.NewFrame(sealed(r, r.IntN(1<<uint(r.IntN(18)))))); err != nil {
			t.Error(err)

			return
		}
	}

	if r.IntN(4) == 0 {
		return // cancels
	}

	_ = s.CloseSend()

	for range n * copies {
		f := proxy.NewFrame(nil).(*proxy.Frame)
		if err := s.RecvMsg(f); err != nil {
			t.Error(err)

			return
		}

		if !intact(f.Bytes()) {
			t.Error("the caller got a damaged answer")
		}
	}
}

// A message costs the proxy no memory of its size: an echo of 1 MiB through it allocates at most 5 % more than two calls
// without it, which is what grpc-go takes on the two hops.
func TestMebibyteAllocations(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector makes pools forget what they hold")
	}

	backend := startBackend(t, echo)
	direct, proxied := dialRaw(t, backend), dialRaw(t, startProxy(t, to(dial(t, backend))))

	perCall := func(conn *grpc.ClientConn) uint64 {
		payload := []byte(strings.Repeat("x", 1<<20))
		answer := proxy.NewFrame(nil)
		once := func() {
			if err := conn.Invoke(context.Background(), unaryMethod, proxy.NewFrame(payload), answer); err != nil {
				t.Fatal(err)
			}
		}

		var batches []uint64

		for range 9 {
			var before, after runtime.MemStats

			runtime.ReadMemStats(&before)

			for range 20 {
				once()
			}

			runtime.ReadMemStats(&after)
			batches = append(batches, (after.TotalAlloc-before.TotalAlloc)/20)
		}

		slices.Sort(batches)

		return batches[len(batches)/2]
	}

	one, through := perCall(direct), perCall(proxied)
	t.Logf("bytes per echo of 1 MiB: %d direct, %d proxied, ratio to two %.3f", one, through, float64(through)/float64(2*one))

	if float64(through) > 1.05*float64(2*one) {
		t.Errorf("an echo of 1 MiB allocates %d bytes through the proxy, and %d without", through, one)
	}
}

// Two hundred calls at once over five backends, of which one does not answer the connection attempt and one never ends: the healthy
// answers come, nothing waits longer than that attempt takes, and TestMain finds nothing left behind.
func TestTwoHundredFanouts(t *testing.T) {
	const calls = 200

	timeout := 3 * time.Second
	if raceEnabled {
		timeout = 10 * time.Second
	}

	endless := func(_ any, s grpc.ServerStream) error {
		for i := 0; ; i++ {
			if err := s.SendMsg(proxy.NewFrame(binary.BigEndian.AppendUint64(nil, uint64(i)))); err != nil {
				return err
			}

			select {
			case <-time.After(50 * time.Millisecond):
			case <-s.Context().Done():
				return s.Context().Err()
			}
		}
	}

	silent, addr := listen(t) // accepts connections, in the kernel, and says nothing
	t.Cleanup(func() { _ = silent.Close() })

	backends := append(nodes(t, answer("1"), answer("2"), answer("3"), endless),
		&node{"x", dial(t, addr, grpc.WithConnectParams(grpc.ConnectParams{MinConnectTimeout: timeout}))})
	conn := fan(t, backends, proxy.WithStreamedDetector(byName))
	connected(t, conn)

	var running sync.WaitGroup

	begin := time.Now()

	for range calls {
		running.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), testTimeout)
			defer cancel()

			s, err := conn.NewStream(ctx, duplex, streamMethod)
			if err != nil {
				t.Error(err)

				return
			}

			send(t, s, "x")
			_ = s.CloseSend()

			missing := map[string]bool{"a=1": true, "b=2": true, "c=3": true, "x!Unavailable": true}

			for len(missing) > 0 {
				m, err := tryRecv(s)
				if err != nil {
					t.Errorf("with %v missing: %v", missing, err)

					return
				}

				healthy := missing[m] && m != "x!Unavailable"
				delete(missing, m)

				if d := time.Since(begin); healthy && d > timeout {
					t.Errorf("%s came after %v", m, d)
				}
			}
		})
	}

	running.Wait()
	t.Log(fmt.Sprint(calls, " calls took ", time.Since(begin)))
}
