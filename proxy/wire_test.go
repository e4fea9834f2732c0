// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package proxy_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/status"

	"github.com/manifold-grpc/manifold/proxy"
)

// seen is what a backend saw of one call.
type seen struct {
	header metadata.MD
}

// record returns a handler that reports what it sees of each call, and then echoes.
func record(calls chan<- seen) grpc.StreamHandler {
	return func(srv any, s grpc.ServerStream) error {
		md, _ := metadata.FromIncomingContext(s.Context())
		calls <- seen{md}

		return echo(srv, s)
	}
}

// The content-subtype is the caller's, whatever it is, on both sides of the proxy and whatever codec the connection to the backend
// has by default.
func TestContentSubtype(t *testing.T) {
	calls := make(chan seen, 1)
	addr := startBackend(t, record(calls))
	upstreams := map[string]*grpc.ClientConn{
		"without defaults": dial(t, addr),
		"with the codec":   dialRaw(t, addr),
		"with a subtype":   dial(t, addr, grpc.WithDefaultCallOptions(grpc.CallContentSubtype("proto"))),
	}

	for name, upstream := range upstreams {
		for _, mode := range []proxy.Mode{proxy.One2One, proxy.One2Many} {
			conn := dialRaw(t, startProxy(t, func(context.Context, string) (proxy.Mode, []proxy.Backend, error) {
				return mode, []proxy.Backend{&node{"a", upstream}}, nil
			}))

			for _, subtype := range []string{"proto", "json", "x.y-z", "proxy"} {
				s := open(t, conn, unaryMethod, grpc.CallContentSubtype(subtype))
				_ = s.CloseSend()

				if _, err := collect(s); err != nil {
					t.Fatal(err)
				}

				want := []string{"application/grpc+" + subtype}
				if got := (<-calls).header["content-type"]; !slices.Equal(got, want) {
					t.Errorf("%s, %v: upstream %q, want %q", name, mode, got, want)
				}

				if header, _ := s.Header(); header != nil && !slices.Equal(header["content-type"], want) {
					t.Errorf("%s, %v: downstream %q, want %q", name, mode, header["content-type"], want)
				}
			}
		}
	}
}

// A caller who names no subtype gets none. grpc-go's client always names one, so this one is made by hand.
func TestPlainContentType(t *testing.T) {
	calls := make(chan seen, 1)
	addr := startProxy(t, to(dialRaw(t, startBackend(t, record(calls)))))

	status, body, header := post(t, addr, unaryMethod, http.Header{"Content-Type": {"application/grpc"}}, "hi")
	if status != "0" || body != "hi" || header.Get("Content-Type") != "application/grpc" {
		t.Errorf("got status %q, answer %q, header %v", status, body, header)
	}

	if got := (<-calls).header["content-type"]; !slices.Equal(got, []string{"application/grpc"}) {
		t.Errorf("upstream: %q", got)
	}
}

// post makes a unary call with nothing of grpc-go: it sends the header as it is.
func post(t testing.TB, addr, method string, header http.Header, message string) (grpcStatus, answer string, h http.Header) {
	t.Helper()

	transport := &http.Transport{Protocols: new(http.Protocols), DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return connect(ctx, addr)
	}}
	transport.Protocols.SetUnencryptedHTTP2(true)
	t.Cleanup(transport.CloseIdleConnections)

	frame := binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message)))

	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+addr+method, strings.NewReader(string(frame)+message))
	if err != nil {
		t.Fatal(err)
	}

	req.Header = header

	resp, err := transport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()

	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}

	if grpcStatus = resp.Trailer.Get("Grpc-Status"); grpcStatus == "" {
		grpcStatus = resp.Header.Get("Grpc-Status")
	}

	return grpcStatus, string(body[min(5, len(body)):]), resp.Header
}

// What belongs to a connection stays there, in both directions, and everything else passes: also what looks like it.
func TestMetadataOfTheHop(t *testing.T) {
	drop := []string{"accept-encoding", "content-encoding", "content-length", "grpc-accept-encoding", "keep-alive",
		"proxy-connection", "proxy-authorization", "transfer-encoding", "upgrade", "trailer", "http2-settings"}
	keep := metadata.Pairs("authorization", "Bearer x", "cookie", "a=b", "grpc-trace-bin", "\x00\x01", "grpc-tags-bin", "\x02",
		"x-long", strings.Repeat("v", 2000), "twice", "1", "twice", "2", "grpc-previous-rpc-attempts", "3", "date", "today", "empty", "")

	all := keep.Copy()
	for _, key := range drop {
		all.Set(key, "hop")
	}

	var answerHeader metadata.MD

	handler := func(_ any, s grpc.ServerStream) error {
		answerHeader, _ = metadata.FromIncomingContext(s.Context())

		s.SetTrailer(all)

		return s.SendHeader(all)
	}
	direct := startBackend(t, handler)

	check := func(where string, md metadata.MD) {
		for key, want := range keep {
			if !slices.Equal(md[key], want) {
				t.Errorf("%s: %s is %.20q, want %.20q", where, key, md[key], want)
			}
		}

		for _, key := range drop {
			if got := md[key]; slices.Contains(got, "hop") {
				t.Errorf("%s: %s passed: %q", where, key, got)
			}
		}
	}

	for _, mode := range []proxy.Mode{proxy.One2One, proxy.One2Many} {
		conn := dialRaw(t, startProxy(t, func(context.Context, string) (proxy.Mode, []proxy.Backend, error) {
			return mode, []proxy.Backend{&node{"a", dial(t, direct)}}, nil
		}))

		ctx, cancel := context.WithTimeout(metadata.NewOutgoingContext(context.Background(), all), testTimeout)
		defer cancel()

		s := openContext(t, ctx, conn, unaryMethod)
		_ = s.CloseSend()

		if _, err := collect(s); err != nil {
			t.Fatal(err)
		}

		header, _ := s.Header()
		check(fmt.Sprint(mode, " request"), answerHeader)
		check(fmt.Sprint(mode, " header"), header)
		check(fmt.Sprint(mode, " trailer"), s.Trailer())

		if n := len(answerHeader["user-agent"]) + len(answerHeader["te"]) + len(answerHeader[":authority"]); n != 2 {
			t.Errorf("%v: the backend sees %v", mode, answerHeader)
		}
	}
}

// compressions tells how messages were compressed on their way to and from a server.
type compressions struct{ in, out chan string }

func (*compressions) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context   { return ctx }
func (*compressions) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }
func (*compressions) HandleConn(context.Context, stats.ConnStats)                       {}

func (c *compressions) HandleRPC(_ context.Context, s stats.RPCStats) {
	switch s := s.(type) {
	case *stats.InHeader:
		c.in <- s.Compression
	case *stats.OutHeader:
		c.out <- s.Compression
	}
}

// Compression is a matter of each hop. The caller's choice holds between the caller and the proxy, both ways; that of the backend's call options
// between the proxy and the backend.
func TestCompression(t *testing.T) {
	down, up := &compressions{make(chan string, 1), make(chan string, 1)}, &compressions{make(chan string, 1), make(chan string, 1)}
	upstream := dial(t, startBackend(t, echo, grpc.StatsHandler(up)))
	text := strings.Repeat("compressible ", 1000)

	for _, tt := range []struct {
		caller, backend []grpc.CallOption
		want            string
	}{
		{nil, nil, "down  , up  "},
		{[]grpc.CallOption{grpc.UseCompressor(gzip.Name)}, nil, "down gzip gzip, up  "},
		{nil, []grpc.CallOption{grpc.UseCompressor(gzip.Name)}, "down  , up gzip gzip"},
	} {
		conn := dialRaw(t, startProxy(t, func(context.Context, string) (proxy.Mode, []proxy.Backend, error) {
			return proxy.One2One, []proxy.Backend{&optioned{node{"a", upstream}, tt.backend}}, nil
		}, grpc.StatsHandler(down)))

		s := open(t, conn, unaryMethod, tt.caller...)
		send(t, s, text)
		_ = s.CloseSend()

		if got, err := collect(s); err != nil || !slices.Equal(got, []string{text}) {
			t.Errorf("got %.20q, %v", got, err)
		}

		if got := fmt.Sprintf("down %s %s, up %s %s", <-down.in, <-down.out, <-up.in, <-up.out); got != tt.want {
			t.Errorf("compressed: %s, want %s", got, tt.want)
		}
	}
}

// optioned is a node with call options.
type optioned struct {
	node
	opts []grpc.CallOption
}

func (o *optioned) CallOptions(context.Context, string) []grpc.CallOption { return o.opts }

// The proxy also serves behind net/http, whose server owns the connection, and in front of one.
func TestBehindAndBeforeNetHTTP(t *testing.T) {
	serveHTTP := func(h *grpc.Server) string {
		l, addr := listen(t)
		t.Cleanup(h.Stop) // the stream workers of ServerOptions live until then

		s := &http.Server{Handler: h, Protocols: new(http.Protocols)}
		s.Protocols.SetUnencryptedHTTP2(true)

		go func() { _ = s.Serve(l) }() // ends with Close

		t.Cleanup(func() { _ = s.Close() })

		return addr
	}
	backend := grpc.NewServer(grpc.ForceServerCodecV2(proxy.Codec()), grpc.UnknownServiceHandler(func(_ any, s grpc.ServerStream) error {
		send(t, s, "early")

		if m, err := tryRecv(s); err != nil || m != "x" {
			return status.Errorf(codes.InvalidArgument, "%q, %v", m, err)
		}

		return status.Error(codes.Aborted, "by the backend")
	}))
	upstream := dial(t, serveHTTP(backend))

	for _, mode := range []proxy.Mode{proxy.One2One, proxy.One2Many} {
		director := func(context.Context, string) (proxy.Mode, []proxy.Backend, error) {
			return mode, []proxy.Backend{&plainNode{node{"a", upstream}}}, nil
		}
		opts := proxy.ServerOptions(director, proxy.WithStreamedDetector(byName))

		for name, addr := range map[string]string{"grpc-go": serve(t, grpc.NewServer(opts...)), "net/http": serveHTTP(grpc.NewServer(opts...))} {
			ctx, cancel := context.WithTimeout(context.Background(), testTimeout)
			defer cancel()

			if name == "grpc-go" { // a length that is not that of the upstream hop is what net/http answers with PROTOCOL_ERROR
				ctx = metadata.AppendToOutgoingContext(ctx, "content-length", "3")
			}

			s := openContext(t, ctx, dialRaw(t, addr), streamMethod, grpc.UseCompressor(gzip.Name))
			if got := recv(t, s); !strings.HasSuffix(got, "early") {
				t.Errorf("%s, %v: got %q", name, mode, got)
			}

			send(t, s, "x") // and no half-close: the backend ends first

			_, err := collect(s)
			wantStatus(t, err, codes.Aborted, "by the backend")
		}
	}
}

// Backends learn who called, when asked for, and believe nobody who is not trusted.
func TestForwarded(t *testing.T) {
	calls := make(chan seen, 1)
	upstream := dial(t, startBackend(t, record(calls)))
	spoofed := metadata.Pairs("x-forwarded-for", "6.6.6.6", "x-forwarded-host", "evil", "x-forwarded-proto", "https", "x-forwarded-user-agent", "evil/1")
	trust := func(net.Addr) bool { return true }

	tests := []struct {
		name string
		sent metadata.MD
		opts []any
		want string // for, host, proto, user-agent and authority
	}{
		{"off", spoofed, nil, "[6.6.6.6] [evil] [https] [evil/1] AUTHORITY"},
		{"on", nil, []any{proxy.WithForwarded(proxy.Forwarded{})}, "[127.0.0.1] [shop.example] [http] [AGENT] AUTHORITY"},
		{"spoofed", spoofed, []any{proxy.WithForwarded(proxy.Forwarded{})}, "[127.0.0.1] [shop.example] [http] [AGENT] AUTHORITY"},
		{"trusted", spoofed, []any{proxy.WithForwarded(proxy.Forwarded{Trust: trust})}, "[6.6.6.6 127.0.0.1] [evil] [https] [evil/1] AUTHORITY"},
		{"trusted, silent", nil, []any{proxy.WithForwarded(proxy.Forwarded{Trust: trust})}, "[127.0.0.1] [shop.example] [http] [AGENT] AUTHORITY"},
		{"authority", nil, []any{proxy.WithForwarded(proxy.Forwarded{Authority: true})}, "[127.0.0.1] [shop.example] [http] [AGENT] shop.example"},
	}

	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			conn := dialRaw(t, startProxy(t, to(upstream), tt.opts...), grpc.WithAuthority("shop.example"), grpc.WithUserAgent("shopper/1"))

			ctx, cancel := context.WithTimeout(metadata.NewOutgoingContext(context.Background(), tt.sent), testTimeout)
			defer cancel()

			s := openContext(t, ctx, conn, unaryMethod)
			_ = s.CloseSend()
			_, _ = collect(s)

			h := (<-calls).header
			got := fmt.Sprint(h["x-forwarded-for"], h["x-forwarded-host"], h["x-forwarded-proto"], h["x-forwarded-user-agent"])
			got = strings.ReplaceAll(strings.ReplaceAll(got, "][", "] ["), "shopper/1 grpc-go/"+grpc.Version, "AGENT")

			if h[":authority"][0] == "shop.example" {
				got += " shop.example"
			} else {
				got += " AUTHORITY"
			}

			if got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
}
