// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package proxy_test

import (
	"context"
	"errors"
	"slices"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/manifold-grpc/manifold/proxy"
)

// onlyChannel hides all of a connection but what opens streams.
type onlyChannel struct{ grpc.ClientConnInterface }

// stateChannel is a channel that does nothing but tell its state.
type stateChannel struct {
	grpc.ClientConnInterface
	state func() connectivity.State
}

func (c stateChannel) GetState() connectivity.State { return c.state() }

// The caller's metadata arrives whole, with what an interceptor added, over any kind of channel.
func TestUpstreamForwardsMetadata(t *testing.T) {
	var got metadata.MD

	addr := startBackend(t, func(_ any, s grpc.ServerStream) error {
		got, _ = metadata.FromIncomingContext(s.Context())

		return nil
	})
	addsMetadata := func(srv any, s grpc.ServerStream, _ *grpc.StreamServerInfo, next grpc.StreamHandler) error {
		return next(srv, &contextStream{s, metadata.AppendToOutgoingContext(s.Context(), "k", "from interceptor", "added", "yes")})
	}

	for name, channel := range map[string]grpc.ClientConnInterface{
		"connection":  dial(t, addr),
		"any channel": onlyChannel{dial(t, addr)},
	} {
		t.Run(name, func(t *testing.T) {
			u := &proxy.Upstream{Channel: channel}
			conn := dialRaw(t, startProxy(t, u.Direct, grpc.StreamInterceptor(addsMetadata)))

			ctx, cancel := context.WithTimeout(context.Background(), testTimeout)
			defer cancel()

			ctx = metadata.AppendToOutgoingContext(ctx, "k", "one", "k", "two", "bytes-bin", "\x00\xff")

			s := openContext(t, ctx, conn, "/test.Service/Method")
			if _, err := collect(s); err != nil {
				t.Fatal(err)
			}

			for key, want := range map[string][]string{
				"k": {"one", "two", "from interceptor"}, "bytes-bin": {"\x00\xff"}, "added": {"yes"},
			} {
				if !slices.Equal(got[key], want) {
					t.Errorf("the backend got %s = %q, want %q", key, got[key], want)
				}
			}
		})
	}
}

// contextStream is a stream with another context, as interceptors make them.
type contextStream struct {
	grpc.ServerStream
	ctx context.Context //nolint:containedctx // as the interface has it
}

func (s *contextStream) Context() context.Context { return s.ctx }

// A call without metadata of its own, which no server makes but a tunnel might, keeps what interceptors added.
func TestUpstreamWithoutMetadata(t *testing.T) {
	ctx := metadata.AppendToOutgoingContext(context.Background(), "k", "v")

	out, _, err := (&proxy.Upstream{Channel: onlyChannel{}}).GetChannel(ctx, "/s/m")
	if md, _ := metadata.FromOutgoingContext(out); err != nil || !slices.Equal(md["k"], []string{"v"}) {
		t.Errorf("outgoing metadata became %v, %v", md, err)
	}
}

func TestUpstreamConnections(t *testing.T) {
	conn := dial(t, "127.0.0.1:1")
	channel := onlyChannel{conn}
	tests := []struct {
		name                   string
		upstream               *proxy.Upstream
		channel, conn          bool   // which of GetChannel and GetConnection succeed
		channelText, connError string // else their messages
		string                 string
	}{
		{"connection", &proxy.Upstream{Channel: conn}, true, true, "", "", "passthrough:///127.0.0.1:1"},
		{"named", &proxy.Upstream{Name: "n", Channel: conn}, true, true, "", "", "n"},
		{"channel", &proxy.Upstream{Channel: channel}, true, false, "",
			"proxy: the channel of backend upstream is a proxy_test.onlyChannel, expected a *grpc.ClientConn", "upstream"},
		{"zero", &proxy.Upstream{}, false, false, "proxy: backend upstream has no channel", "proxy: backend upstream has no channel", "upstream"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			check := func(what string, got, want any, err error, ok bool, message string) {
				t.Helper()

				if st := status.Convert(err); ok && (err != nil || got != want) || !ok && (st.Code() != codes.Unavailable || st.Message() != message) {
					t.Errorf("%s = %v, %v", what, got, err)
				}
			}
			_, ch, err := tt.upstream.GetChannel(context.Background(), "/s/m")
			check("GetChannel", ch, tt.upstream.Channel, err, tt.channel, tt.channelText)
			_, cc, err := tt.upstream.GetConnection(context.Background(), "/s/m")
			check("GetConnection", cc, conn, err, tt.conn, tt.connError)

			if got := tt.upstream.String(); got != tt.string {
				t.Errorf("String = %q, want %q", got, tt.string)
			}
		})
	}
}

func TestUpstreamRefusesWithoutChannel(t *testing.T) {
	conn := dialRaw(t, startProxy(t, new(proxy.Upstream).Direct))
	if _, err := call(t, conn, "/s/m", "x"); status.Code(err) != codes.Unavailable {
		t.Errorf("call = %v, want Unavailable", err)
	}
}

func TestUpstreamState(t *testing.T) {
	closed := dial(t, "127.0.0.1:1")
	if err := closed.Close(); err != nil {
		t.Fatal(err)
	}

	failing := stateChannel{state: func() connectivity.State { return connectivity.TransientFailure }}

	for _, tt := range []struct {
		name    string
		channel grpc.ClientConnInterface
		want    connectivity.State
	}{
		{"none", nil, connectivity.Shutdown},
		{"fresh connection", dial(t, "127.0.0.1:1"), connectivity.Idle},
		{"closed connection", closed, connectivity.Shutdown},
		{"channel with a state", failing, connectivity.TransientFailure},
		{"channel without", onlyChannel{}, connectivity.Ready},
	} {
		if got := (&proxy.Upstream{Channel: tt.channel}).State(); got != tt.want {
			t.Errorf("%s: state %v, want %v", tt.name, got, tt.want)
		}
	}
}

// brackets is an annotator that shows what it was given.
type brackets struct{}

func (brackets) AppendInfo(streaming bool, resp []byte) ([]byte, error) {
	return append(append([]byte("["), resp...), ']'), nil
}

func (brackets) BuildError(streaming bool, err error) ([]byte, error) {
	return []byte(err.Error()), nil
}

func TestUpstreamAnnotator(t *testing.T) {
	cause := errors.New("boom")

	for _, tt := range []struct {
		annotator    proxy.Annotator
		info, failed string
	}{
		{nil, "x", ""},
		{brackets{}, "[x]", "boom"},
	} {
		u := &proxy.Upstream{Annotator: tt.annotator}
		if got, err := u.AppendInfo(false, []byte("x")); err != nil || string(got) != tt.info {
			t.Errorf("%T: AppendInfo = %q, %v, want %q", tt.annotator, got, err, tt.info)
		}

		if got, err := u.BuildError(false, cause); err != nil || string(got) != tt.failed || (got == nil) != (tt.failed == "") {
			t.Errorf("%T: BuildError = %q, %v, want %q", tt.annotator, got, err, tt.failed)
		}
	}
}
