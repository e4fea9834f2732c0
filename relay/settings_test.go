// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package relay_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/manifold-grpc/manifold/internal/certtest"
	"github.com/manifold-grpc/manifold/relay"
)

// An update is for connections that come after it; those that are there, and their calls, go on as they began.
func TestUpdate(t *testing.T) {
	pair := certtest.New(t).Issue(t, "localhost")
	r := start(t, rigConfig{server: func(s *relay.Server) { s.Limits.MaxRequestMessage = 10 }}, serve(t, echo))
	before := dial(t, r.addr)
	must(unary(within(t), before, "/a.B/C", "short"))(t)

	r.Update(relay.Settings{
		TLS:    &tls.Config{Certificates: []tls.Certificate{pair.Certificate}},
		Limits: relay.Limits{MaxRequestMessage: 100, MaxConnections: 2},
	})
	long := strings.Repeat("x", 50)
	if _, err := unary(within(t), before, "/a.B/C", long); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("a connection from before has the new limit: %v", err)
	}
	must(unary(within(t), before, "/a.B/C", "short"))(t)
	after := dial(t, r.addr, grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{InsecureSkipVerify: true})))
	must(unary(within(t), after, "/a.B/C", long))(t)
	nc := must(net.Dial("tcp", r.addr))(t)
	defer nc.Close()
	if _, err := nc.Read(make([]byte, 1)); err == nil {
		t.Error("a third connection is taken, beyond the new limit")
	}
}

// Whether failures tell their reasons is for the settings of now too where they are a target's.
func TestUpdateErrorInfoOfTargets(t *testing.T) {
	refuse := func(context.Context) (net.Conn, error) { return nil, errors.New("connection refused") }
	f := fan(t, &relay.FanOut{}, rigConfig{endpoint: relay.EndpointConfig{Dial: refuse}}, "nowhere")
	f.targets[0].Annotator = nil
	for _, omit := range []bool{true, false} {
		f.Update(relay.Settings{OmitErrorInfo: omit})
		if _, err := unary(within(t), dial(t, f.addr), "/a.B/C", "m"); err == nil {
			t.Fatal("a call to nobody succeeded")
		}
		st := wait(t, f.stats, "the end of the call").Targets[0].Status
		if n := len(st.Details()); (n == 0) != omit {
			t.Errorf("with OmitErrorInfo %t there are %d details in %v", omit, n, st)
		}
	}
}

// preamble reads a line with an address.
func preamble(nc net.Conn) (net.Addr, error) {
	var line []byte
	for b := make([]byte, 1); ; line = append(line, b[0]) {
		if _, err := io.ReadFull(nc, b); err != nil {
			return nil, err
		}
		if b[0] == '\n' {
			break
		}
	}
	if len(line) == 0 {
		return nil, nil
	}
	ap, err := netip.ParseAddrPort(string(line))
	return net.TCPAddrFromAddrPort(ap), err
}

// forwardedFor answers with the x-forwarded-for that arrived.
func forwardedFor(_ any, st grpc.ServerStream) error {
	md, _ := metadata.FromIncomingContext(st.Context())
	return send(st, strings.Join(md.Get("x-forwarded-for"), ","))
}

// What stands before HTTP/2 says where the client is: for the call, for its headers and for what is counted.
func TestPreamble(t *testing.T) {
	seen, closed, rejected := make(chan string, 2), make(chan error, 10), make(chan string, 1)
	r := start(t, rigConfig{server: func(s *relay.Server) {
		s.Preamble = preamble
		s.ForwardedFor = true
		s.TrustedClient = func(a net.Addr) bool { return strings.HasPrefix(a.String(), "10.") }
		s.Limits.MaxConnectionsPerAddress = 1
		s.Limits.HandshakeTimeout = 100 * time.Millisecond
		s.Hooks.ConnClosed = func(_ net.Addr, err error) { closed <- err }
		s.Hooks.ConnRejected = func(a net.Addr, reason string) { rejected <- a.String() + " " + reason }
		route := s.Route
		s.Route = func(c *relay.Call) { seen <- c.RemoteAddr().String(); route(c) }
	}}, serve(t, forwardedFor))
	told := func(line, want string) {
		t.Helper()
		dialer := grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
			nc, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
			if err == nil {
				_, err = io.WriteString(nc, line)
			}
			return nc, err
		})
		ctx := metadata.AppendToOutgoingContext(within(t), "x-forwarded-for", "198.51.100.1")
		if got := must(unary(ctx, dial(t, r.addr, dialer), "/a.B/C", ""))(t); got != want {
			t.Errorf("%q: x-forwarded-for is %q, want %q", line, got, want)
		}
	}

	for line, want := range map[string][2]string{
		"192.0.2.7:1234\n": {"192.0.2.7:1234", "192.0.2.7"},
		"10.0.0.1:99\n":    {"10.0.0.1:99", "198.51.100.1,10.0.0.1"}, // trusted: what it says stays
	} {
		told(line, want[1])
		if got := wait(t, seen, "the route"); got != want[0] {
			t.Errorf("%q: the client is %s", line, got)
		}
	}
	told("\n", "127.0.0.1")
	if got := wait(t, seen, "the route"); !strings.HasPrefix(got, "127.0.0.1:") {
		t.Errorf("without an address the client is %s", got)
	}

	second := must(net.Dial("tcp", r.addr))(t)
	defer second.Close()
	fmt.Fprint(second, "192.0.2.7:1235\n")
	if got := wait(t, rejected, "the second of an address"); got != "192.0.2.7:1235 max_connections_per_address" {
		t.Errorf("rejected: %s", got)
	}
	slow := must(net.Dial("tcp", r.addr))(t)
	defer slow.Close()
	var timeout net.Error
	if err := wait(t, closed, "the slow one"); !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Errorf("one that says nothing ends with %v, want a timeout", err)
	}
}
