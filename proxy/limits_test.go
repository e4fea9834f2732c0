// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package proxy_test

import (
	"context"
	"fmt"
	"io"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/manifold-grpc/manifold/proxy"
)

// connectTimeout is how long grpc-go tries one address by default.
const connectTimeout = 20 * time.Second

// lost makes a node that cannot be reached, and never says so.
func lost(t testing.TB, name string) proxy.Backend {
	return &node{name, dial(t, blackHole)}
}

// Backends that do not answer the connection attempt hold up nothing but the end of the call, and all at the same time.
func TestOpenInParallel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		inMemory(t)

		begin := time.Now()
		conn := fan(t, append([]proxy.Backend{lost(t, "x"), lost(t, "y")}, nodes(t, answer("here"))...), proxy.WithStreamedDetector(byName))

		s := open(t, conn, streamMethod)
		_ = s.CloseSend()

		if got, d := recv(t, s), time.Since(begin); got != "a=here" || d > time.Second {
			t.Errorf("the healthy backend's answer %q came after %v", got, d)
		}

		rest, err := collect(s)
		slices.Sort(rest)

		if err != nil || !slices.Equal(rest, []string{"x!Unavailable", "y!Unavailable"}) {
			t.Errorf("the others: %q, %v", rest, err)
		}

		if d := time.Since(begin); d > connectTimeout+time.Second {
			t.Errorf("the call took %v, two attempts one after the other", d)
		}

		begin = time.Now()

		got, err := call(t, conn, unaryMethod)
		if want := "x!Unavailable;y!Unavailable;a=here;"; err != nil || !slices.Equal(got, []string{want}) || time.Since(begin) > connectTimeout+time.Second {
			t.Errorf("merged: %q, %v, after %v", got, err, time.Since(begin))
		}
	})
}

// stuck is a handler that takes no request until its call is cancelled: flow control stops whoever sends.
var stuck = hang

// count is a handler that answers with the number of its requests.
func count(_ any, s grpc.ServerStream) error {
	requests, err := collect(s)
	if err != nil {
		return err
	}

	return s.SendMsg(proxy.NewFrame(fmt.Append(nil, len(requests))))
}

// One backend that takes no requests never stalls the others: when its queue has been full for the stall timeout, they go on
// without it.
func TestStalledBackend(t *testing.T) {
	const n = 3000

	synctest.Test(t, func(t *testing.T) {
		inMemory(t)

		conn := fan(t, append(nodes(t, count, stuck, count), lost(t, "x")), proxy.WithStreamedDetector(byName),
			proxy.WithFanoutLimits(proxy.FanoutLimits{StallTimeout: 3 * time.Second, QueuedMessages: 500}))
		begin := time.Now()

		requests := slices.Repeat([]string{strings.Repeat("r", 1000)}, n)

		got, err := call(t, conn, streamMethod, requests...)
		slices.Sort(got)

		want := []string{fmt.Sprint("a=", n), "b!ResourceExhausted", fmt.Sprint("c=", n), "x!ResourceExhausted"}
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("got %q, %v, want %q", got, err, want)
		}

		if d := time.Since(begin); d < 3*time.Second || d > 8*time.Second {
			t.Errorf("it took %v, want the stall timeout of 3s once for each", d)
		}
	})
}

// A backend that is slow but takes requests is waited for, and gets all of them.
func TestSlowBackend(t *testing.T) {
	const n = 600

	slow := func(srv any, s grpc.ServerStream) error {
		for i := 0; ; i++ {
			if _, err := tryRecv(s); err == io.EOF {
				return s.SendMsg(proxy.NewFrame(fmt.Append(nil, i)))
			} else if err != nil {
				return err
			}

			<-time.After(20 * time.Millisecond)
		}
	}

	synctest.Test(t, func(t *testing.T) {
		inMemory(t)

		conn := fan(t, nodes(t, count, slow), proxy.WithStreamedDetector(byName),
			proxy.WithFanoutLimits(proxy.FanoutLimits{StallTimeout: time.Second, QueuedMessages: 100}))

		got, err := call(t, conn, streamMethod, slices.Repeat([]string{strings.Repeat("r", 1000)}, n)...)
		slices.Sort(got)

		if want := []string{fmt.Sprint("a=", n), fmt.Sprint("b=", n)}; err != nil || !slices.Equal(got, want) {
			t.Errorf("got %q, %v, want %q", got, err, want)
		}
	})
}

// A backend that takes no requests because the caller takes no answers does not stall: it is the caller who is slow.
func TestSlowCaller(t *testing.T) {
	const n = 300

	synctest.Test(t, func(t *testing.T) {
		inMemory(t)

		conn := fan(t, nodes(t, echo, echo), proxy.WithStreamedDetector(byName),
			proxy.WithFanoutLimits(proxy.FanoutLimits{StallTimeout: time.Second, QueuedMessages: 10}))

		s := open(t, conn, streamMethod)
		sent := make(chan struct{})

		go func() { // ends when the answers have been read
			defer close(sent)

			for range n {
				send(t, s, strings.Repeat("r", 10_000))
			}

			_ = s.CloseSend()
		}()

		<-time.After(20 * time.Second)

		got, err := collect(s)
		<-sent

		if err != nil || len(got) != 2*n {
			slices.Sort(got)
			t.Errorf("got %d answers, %v, want %d: %.20q", len(got), err, 2*n, slices.Compact(got))
		}
	})
}

// Requests are handed to the backends without a goroutine for each.
func TestGoroutinesPerUpload(t *testing.T) {
	const targets = 5

	synctest.Test(t, func(t *testing.T) {
		inMemory(t)

		handlers := slices.Repeat([]grpc.StreamHandler{count}, targets-1)
		conn := fan(t, nodes(t, append(handlers, stuck)...), proxy.WithStreamedDetector(byName))

		s := open(t, conn, streamMethod)
		goroutines := func(requests int) int {
			for range requests {
				send(t, s, strings.Repeat("r", 500))
			}

			synctest.Wait()

			return runtime.NumGoroutine()
		}

		few, many := goroutines(10), goroutines(90)
		if many != few {
			t.Errorf("%d goroutines after 10 requests, %d after 100", few, many)
		}
	})
}

// What waits for one backend is bounded: a caller of a stuck backend cannot fill the memory, but sends no more than the
// queue, and the windows around it, hold.
func TestQueueIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		inMemory(t)

		conn := fan(t, nodes(t, count, stuck), proxy.WithStreamedDetector(byName),
			proxy.WithFanoutLimits(proxy.FanoutLimits{QueuedBytes: 100_000, StallTimeout: -1}))

		ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
		defer cancel()

		s := openContext(t, ctx, conn, streamMethod)
		sent := 0

		for err := error(nil); err == nil; sent++ {
			err = s.SendMsg(proxy.NewFrame(make([]byte, 1000)))
		}

		if sent > 1000 {
			t.Errorf("the caller could send %d requests of 1000 bytes to a backend that takes none", sent)
		}

		_, err := collect(s)
		wantStatus(t, err, codes.DeadlineExceeded, "")
	})
}
