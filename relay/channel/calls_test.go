// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package channel_test

import (
	"fmt"
	"io"
	"sync"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/manifold-grpc/manifold/relay"
)

// Unary calls of all sizes: below a frame, a window, the bound of what is kept, and above.
func TestUnaryCalls(t *testing.T) {
	c := open(t, startServer(t, echo), relay.EndpointConfig{})
	for _, n := range []int{0, 1, 64, 1 << 10, 16379, 16380, 65530, 65536, 70000, 1 << 20, 3 << 20} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			want, got := payload(n), new(wrapperspb.BytesValue)
			if err := c.Invoke(testContext(t), "/test.Service/Echo", want, got); err != nil {
				t.Fatal(err)
			}
			if !proto.Equal(want, got) {
				t.Error("the answer differs")
			}
		})
	}
}

// Calls at once over one connection do not mix.
func TestCallsAtOnce(t *testing.T) {
	c := open(t, startServer(t, echo), relay.EndpointConfig{})
	ctx := testContext(t)
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			for j := range 20 {
				want, got := payload(i*100+j*7), new(wrapperspb.BytesValue)
				if err := c.Invoke(ctx, "/test.Service/Echo", want, got); err != nil || !proto.Equal(want, got) {
					t.Errorf("call %d/%d: %v", i, j, err)
				}
			}
		})
	}
	wg.Wait()
}

// A stream whose messages are sent while others are received, far beyond the windows.
func TestStreams(t *testing.T) {
	c := open(t, startServer(t, echo), relay.EndpointConfig{})
	for _, tt := range []struct{ messages, size int }{{0, 0}, {1000, 0}, {1000, 1 << 10}, {40, 100 << 10}, {4, 2 << 20}} {
		t.Run(fmt.Sprintf("%dx%d", tt.messages, tt.size), func(t *testing.T) {
			s, err := c.NewStream(testContext(t), bidi, "/test.Service/Echo")
			if err != nil {
				t.Fatal(err)
			}
			want := payload(tt.size)
			var sending sync.WaitGroup
			sending.Go(func() {
				for range tt.messages {
					if err := s.SendMsg(want); err != nil {
						t.Error(err)
						return
					}
				}
				if err := s.CloseSend(); err != nil {
					t.Error(err)
				}
			})
			got := 0
			for ; ; got++ {
				m := new(wrapperspb.BytesValue)
				err := s.RecvMsg(m)
				if err == io.EOF {
					break
				}
				if err != nil {
					t.Fatal(err)
				}
				if !proto.Equal(m, want) {
					t.Fatalf("message %d differs", got)
				}
			}
			sending.Wait()
			if got != tt.messages {
				t.Errorf("%d messages came, expected %d", got, tt.messages)
			}
		})
	}
}
