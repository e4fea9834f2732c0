// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package relay_test

import (
	"context"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/manifold-grpc/manifold/internal/memnet"
	"github.com/manifold-grpc/manifold/relay"
)

// endsAfter reads a stream to its end, which must be DEADLINE_EXCEEDED after d.
func endsAfter(t *testing.T, d time.Duration, begin time.Time, st grpc.ClientStream) {
	t.Helper()
	var err error
	for err == nil {
		_, err = recv(st)
	}
	if took := time.Since(begin); status.Code(err) != codes.DeadlineExceeded || took.Round(10*time.Millisecond) != d {
		t.Errorf("ended after %v with %v, want %v", took, err, d)
	}
}

// The idle timeout of a target that waited for a connection counts from its stream, not from when the time to connect is over.
func TestFanIdleAfterWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		back := memnet.Listen("back")
		serveOn(t, back, mute)
		late := node{dial: func(ctx context.Context) (net.Conn, error) {
			time.Sleep(100 * time.Millisecond)
			return back.DialContext(ctx)
		}}
		_, cc := fanMemory(t, &relay.FanOut{Streaming: true, IdleTimeout: time.Second}, rigConfig{}, late)
		begin := time.Now()
		st := must(cc.NewStream(within(t), bidi, "/a.B/C"))(t)
		endsAfter(t, 1100*time.Millisecond, begin, st)
	})
}

// While messages of a target wait for the client it is not idle. After that it is, again.
func TestFanIdleAfterSlowClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		burst := node{handler: func(srv any, st grpc.ServerStream) error {
			for range 6 {
				if err := send(st, strings.Repeat("m", 50_000)); err != nil {
					return err
				}
			}
			return mute(srv, st)
		}}
		_, cc := fanMemory(t, &relay.FanOut{Streaming: true, IdleTimeout: 3 * time.Second}, rigConfig{}, burst)
		begin := time.Now()
		st := must(cc.NewStream(within(t), bidi, "/a.B/C"))(t)
		time.Sleep(5 * time.Second) // and reads nothing
		endsAfter(t, 8*time.Second, begin, st)
	})
}

// A target whose stream is over keeps nobody from sending, though messages of it still wait for the client.
func TestFanSendsPastEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		early := node{handler: func(_ any, st grpc.ServerStream) error {
			for range 3 { // the last one waits
				if err := send(st, strings.Repeat("m", 50_000)); err != nil {
					return err
				}
			}
			time.Sleep(time.Second) // while the client cannot go on for want of credit
			return nil
		}}
		cfg := &relay.FanOut{Streaming: true, Limits: relay.FanLimits{QueuedBytes: 64 << 10}}
		_, cc := fanMemory(t, cfg, rigConfig{dial: []grpc.DialOption{grpc.WithInitialWindowSize(64 << 10)}}, early, node{handler: func(_ any, st grpc.ServerStream) error {
			for {
				if _, err := recv(st); err != nil {
					return nil
				}
			}
		}})
		st := must(cc.NewStream(within(t), bidi, "/a.B/C"))(t)
		begin := time.Now()
		for range 100 {
			check(t, send(st, strings.Repeat("u", 10_000)))
		}
		if took := time.Since(begin); took > 2*time.Second {
			t.Errorf("the request took %v", took)
		}
		check(t, st.CloseSend())
		n := 0
		for {
			if _, err := recv(st); err != nil {
				if err != io.EOF || n != 3 {
					t.Errorf("%d messages, then %v", n, err)
				}
				return
			}
			n++
		}
	})
}
