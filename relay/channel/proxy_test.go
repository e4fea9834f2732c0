// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package channel_test

import (
	"context"
	"reflect"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"

	"github.com/manifold-grpc/manifold/proxy"
	"github.com/manifold-grpc/manifold/relay"
)

// behind returns a connection to a proxy whose upstream is cc.
func behind(t *testing.T, cc grpc.ClientConnInterface) *grpc.ClientConn {
	t.Helper()
	upstream := &proxy.Upstream{Channel: cc}
	handler := proxy.TransparentHandler(upstream.Direct)
	return dial(t, startServer(t, handler, grpc.ForceServerCodecV2(proxy.Codec())))
}

// Through package proxy, whatever a backend does reaches the caller over the channel as it does over grpc-go's connection.
func TestStatusesThroughProxy(t *testing.T) {
	for _, tt := range statusTests(t) {
		if tt.name == "largest length" {
			continue // the proxy has no limit, and waits for all of it
		}
		t.Run(tt.name, func(t *testing.T) {
			addr := startRaw(t, tt.do)
			want, got := observe(t, behind(t, dial(t, addr))), observe(t, behind(t, open(t, addr, relay.EndpointConfig{})))
			if !tt.text {
				got.Message = want.Message
			}
			if len(want.Trailer) == 0 && len(got.Trailer) == 0 {
				want.Trailer, got.Trailer = nil, nil
			}
			if !reflect.DeepEqual(want, got) {
				t.Errorf("over the channel the caller sees\n%+v, over grpc-go\n%+v", got, want)
			}
		})
	}
}

// Calls of all kinds through package proxy look the same to caller and server over either.
func TestCallsThroughProxy(t *testing.T) {
	var srv script
	addr := startServer(t, srv.handle)
	theirs, ours := behind(t, dial(t, addr)), behind(t, open(t, addr, relay.EndpointConfig{}))
	up, down := &grpc.StreamDesc{ClientStreams: true}, &grpc.StreamDesc{ServerStreams: true}
	large := strings.Repeat("x", 300<<10)
	for _, tt := range []struct {
		name     string
		desc     *grpc.StreamDesc // nil: Invoke
		method   string
		requests []string
	}{
		{"unary", nil, "/s/echo", []string{"hello"}},
		{"unary, empty", nil, "/s/echo", []string{""}},
		{"unary, large", nil, "/s/echo", []string{large}},
		{"unary, failed", nil, "/s/fail", []string{"hello"}},
		{"unary, no answer", nil, "/s/none", []string{"hello"}},
		{"up", up, "/s/echo", []string{"a", "", large}},
		{"up, failed", up, "/s/fail", []string{"a", "b"}},
		{"down", down, "/s/large", []string{"a"}},
		{"down, ended early", down, "/s/early", []string{"a"}},
		{"bidi", bidi, "/s/echo", []string{"a", large, "c"}},
		{"bidi, nothing sent", bidi, "/s/echo", nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			md := metadata.Pairs("k", "one", "k", "two", "b-bin", "\x00\xff")
			call := func(cc grpc.ClientConnInterface, who string) outcome {
				ctx := metadata.NewOutgoingContext(testContext(t), metadata.Join(md, metadata.Pairs("number", tt.name+who)))
				return tryCall(ctx, cc, tt.desc, tt.method, tt.requests, false)
			}
			want, got := call(theirs, "theirs"), call(ours, "ours")
			if w, g := srv.of(tt.name+"theirs"), srv.of(tt.name+"ours"); !reflect.DeepEqual(g, w) {
				t.Errorf("the server saw\n%q of the channel, of grpc-go\n%q", g, w)
			}
			if !reflect.DeepEqual(got, want) {
				t.Errorf("over the channel the caller saw\n%+v, over grpc-go\n%+v", got, want)
			}
		})
	}
}

// A caller that cancels a call through package proxy ends it at the server.
func TestCancelThroughProxy(t *testing.T) {
	begun, ended := make(chan struct{}), make(chan error, 1)
	addr := startServer(t, func(_ any, s grpc.ServerStream) error {
		close(begun)
		<-s.Context().Done()
		ended <- s.Context().Err()
		return nil
	})
	ctx, cancel := context.WithCancel(testContext(t))
	go func() { // ends with the call's beginning at the server, which the test waits for
		<-begun
		cancel()
	}()
	o := tryCall(ctx, behind(t, open(t, addr, relay.EndpointConfig{})), nil, "/s/m", []string{"a"}, true)
	if o.Code != codes.Canceled {
		t.Errorf("the call ended with %v, expected CANCELED", o.Code)
	}
	if err := <-ended; err != context.Canceled {
		t.Errorf("at the server it ended with %v", err)
	}
}
