// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package channel_test

import (
	"context"
	"crypto/tls"
	"net"
	"path/filepath"
	"sync/atomic"
	"testing"

	"golang.org/x/net/http2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/manifold-grpc/manifold/internal/certtest"
	"github.com/manifold-grpc/manifold/internal/rawpeer"
	"github.com/manifold-grpc/manifold/relay"
)

// token is credentials of a call that need TLS.
type token struct{}

func (token) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "t"}, nil
}

func (token) RequireTransportSecurity() bool { return true }

// Over TLS the channel checks the server's name, says who the peer is, and sends credentials that want TLS.
func TestTLS(t *testing.T) {
	ca := certtest.New(t)
	cert := ca.Issue(t, "server.test").Certificate
	seen := make(chan []string, 1)
	addr := startServer(t, func(srv any, s grpc.ServerStream) error {
		md, _ := metadata.FromIncomingContext(s.Context())
		select {
		case seen <- md["authorization"]:
		default:
		}
		return echo(srv, s)
	}, grpc.Creds(credentials.NewServerTLSFromCert(&cert)))

	c := open(t, addr, relay.EndpointConfig{TLS: &tls.Config{RootCAs: ca.Pool, ServerName: "server.test"}})
	for _, n := range []int{0, 100, 300 << 10} {
		var p peer.Peer
		reply := new(wrapperspb.BytesValue)
		if err := c.Invoke(testContext(t), "/s/m", payload(n), reply, grpc.PerRPCCredentials(token{}), grpc.Peer(&p)); err != nil {
			t.Fatalf("%d octets: %v", n, err)
		}
		if string(reply.Value) != string(payload(n).Value) {
			t.Errorf("%d octets came back as %d others", n, len(reply.Value))
		}
		if info, ok := p.AuthInfo.(credentials.TLSInfo); !ok || info.State.NegotiatedProtocol != "h2" || len(info.State.PeerCertificates) == 0 {
			t.Errorf("the peer is %+v", p)
		}
	}
	if got := <-seen; len(got) != 1 || got[0] != "t" {
		t.Errorf("the server got the credentials %q", got)
	}

	other := open(t, addr, relay.EndpointConfig{TLS: &tls.Config{RootCAs: ca.Pool, ServerName: "other.test"}})
	if err := other.Invoke(testContext(t), "/s/m", payload(1), payload(0)); status.Code(err) != codes.Unavailable {
		t.Errorf("a server of another name: %v, expected UNAVAILABLE", err)
	}
}

// Without TLS no call sends such credentials.
func TestCredentialsNeedTLS(t *testing.T) {
	addr := startServer(t, echo)
	for _, cc := range []grpc.ClientConnInterface{dial(t, addr), open(t, addr, relay.EndpointConfig{})} {
		err := cc.Invoke(testContext(t), "/s/m", payload(1), payload(0), grpc.PerRPCCredentials(token{}))
		if status.Code(err) != codes.Unauthenticated {
			t.Errorf("%T: %v, expected UNAUTHENTICATED", cc, err)
		}
	}
}

// A channel over a unix socket has calls of its size, and "localhost" for its authority.
func TestUnixSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	authority := make(chan []string, 1)
	s := grpc.NewServer(grpc.UnknownServiceHandler(func(srv any, s grpc.ServerStream) error {
		md, _ := metadata.FromIncomingContext(s.Context())
		authority <- md[":authority"]
		return echo(srv, s)
	}))
	done := make(chan error)
	go func() { done <- s.Serve(l) }() // ends with Stop
	defer func() {
		s.Stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	c := open(t, "unix:"+path, relay.EndpointConfig{})
	for _, n := range []int{0, 300 << 10} {
		reply := new(wrapperspb.BytesValue)
		if err := c.Invoke(testContext(t), "/s/m", payload(n), reply); err != nil || len(reply.Value) != n {
			t.Errorf("%d octets: %v, %d came back", n, err, len(reply.Value))
		}
		if got := <-authority; len(got) != 1 || got[0] != "localhost" {
			t.Errorf("the server saw the authority %q", got)
		}
	}
}

// A GOAWAY ends no call that the upstream takes, and one that it does not take is made again over another connection. What
// follows goes there too.
func TestGoAway(t *testing.T) {
	ok := steps(headers(false, rawpeer.Response()...), data(false, rawpeer.Message(nil)), headers(true, "grpc-status", "0"))
	goAway := func(last uint32) answer {
		return func(p *rawpeer.Peer, _ uint32) error { return p.GoAway(last, http2.ErrCodeNo) }
	}
	for _, tt := range []struct {
		name  string
		first answer
	}{
		{"taken", steps(goAway(1), ok)},
		{"left out", goAway(0)},
		{"left out, and closed", steps(goAway(0), cut)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var calls, others atomic.Int32
			addr := startRaw(t, func(p *rawpeer.Peer, id uint32) error {
				if calls.Add(1) == 1 {
					return tt.first(p, id)
				}
				if id == 1 {
					others.Add(1) // the first of another connection
				}
				return ok(p, id)
			})
			c := open(t, addr, relay.EndpointConfig{})
			for i := range 3 {
				if err := c.Invoke(testContext(t), "/s/m", wrapperspb.String("x"), new(wrapperspb.StringValue)); err != nil {
					t.Errorf("call %d: %v", i, err)
				}
			}
			if others.Load() != 1 {
				t.Errorf("%d further connections were used, expected 1", others.Load())
			}
		})
	}
}
