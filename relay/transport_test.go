// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package relay_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/net/http2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	"github.com/manifold-grpc/manifold/internal/certtest"
	"github.com/manifold-grpc/manifold/internal/memnet"
	"github.com/manifold-grpc/manifold/internal/rawpeer"
	"github.com/manifold-grpc/manifold/relay"
)

// TLS in front, behind, and both.
func TestTLS(t *testing.T) {
	ca := certtest.New(t)
	cert := ca.Issue(t, "127.0.0.1").Certificate
	serverTLS := &tls.Config{Certificates: []tls.Certificate{cert}}
	clientTLS := &tls.Config{RootCAs: ca.Pool}
	secure := serve(t, echo, grpc.Creds(credentials.NewTLS(serverTLS)))
	plain := serve(t, echo)
	for _, front := range []bool{false, true} {
		for _, back := range []bool{false, true} {
			t.Run(fmt.Sprintf("front %t, back %t", front, back), func(t *testing.T) {
				cfg := rigConfig{server: func(s *relay.Server) {
					forward := s.Route
					s.Route = func(c *relay.Call) {
						if (c.TLS() != nil) != front {
							t.Errorf("the call's TLS is %v", c.TLS())
						}
						forward(c)
					}
					if front {
						s.TLS = serverTLS
					}
				}}
				addr := plain
				if back {
					addr, cfg.endpoint.TLS = secure, clientTLS
				}
				var opts []grpc.DialOption
				if front {
					opts = append(opts, grpc.WithTransportCredentials(credentials.NewTLS(clientTLS)))
				}
				cc := dial(t, start(t, cfg, addr).addr, opts...)
				for _, n := range fewSizes {
					in := strings.Repeat("x", n)
					if out, err := unary(within(t), cc, "/a.B/C", in); err != nil || out != in {
						t.Errorf("%d octets: %d came back, %v", n, len(out), err)
					}
				}
			})
		}
	}
}

// ALPN tells the protocol: h2, or http/1.1 for the handler; a client that asks for neither is
// turned away.
func TestALPN(t *testing.T) {
	ca := certtest.New(t)
	cert := ca.Issue(t, "127.0.0.1").Certificate
	r := start(t, rigConfig{server: func(s *relay.Server) {
		s.TLS = &tls.Config{Certificates: []tls.Certificate{cert}}
	}})
	tests := []struct {
		offer []string
		want  string // "" is a failed handshake
	}{
		{[]string{"h2"}, "h2"},
		{[]string{"h2", "http/1.1"}, "h2"},
		{[]string{"http/1.1", "h2"}, "h2"},
		{[]string{"http/1.1"}, "http/1.1"},
		{[]string{"smtp"}, ""},
	}
	for _, tt := range tests {
		c, err := tls.Dial("tcp", r.addr, &tls.Config{RootCAs: ca.Pool, NextProtos: tt.offer})
		if err != nil {
			if tt.want != "" {
				t.Errorf("%v: %v", tt.offer, err)
			}
			continue
		}
		if got := c.ConnectionState().NegotiatedProtocol; got != tt.want {
			t.Errorf("%v: agreed on %q, want %q", tt.offer, got, tt.want)
		}
		c.Close()
	}
}

// An upstream that does not agree to h2, or whose certificate is not good, is not talked to.
func TestUpstreamTLSRefused(t *testing.T) {
	ca := certtest.New(t)
	cert := ca.Issue(t, "127.0.0.1").Certificate
	tests := []struct {
		name   string
		server *tls.Config
		client *tls.Config
		want   string
	}{
		{"another protocol", &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"http/1.1"}}, &tls.Config{RootCAs: ca.Pool}, "protocol"},
		{"no protocol", &tls.Config{Certificates: []tls.Certificate{cert}}, &tls.Config{RootCAs: ca.Pool}, "expected h2"},
		{"unknown authority", &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"h2"}}, &tls.Config{RootCAs: certtest.New(t).Pool}, "certificate"},
		{"another name", &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"h2"}}, &tls.Config{RootCAs: ca.Pool, ServerName: "other.test"}, "other.test"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := rawpeer.Serve(tls.NewListener(listen(t), tt.server), func(p *rawpeer.Peer) { p.Read() })
			t.Cleanup(b.Close)
			r := start(t, rigConfig{endpoint: relay.EndpointConfig{TLS: tt.client}}, b.Addr())
			_, err := unary(within(t), dial(t, r.addr), "/a.B/C", "m")
			if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want Unavailable that says %q", err, tt.want)
			}
			if e := r.backend.Endpoints[0]; e.State() != relay.Failing || e.Err() == nil {
				t.Errorf("the endpoint is %v, %v", e.State(), e.Err())
			}
		})
	}
}

func TestUnixSockets(t *testing.T) {
	dir := t.TempDir()
	back := must(net.Listen("unix", filepath.Join(dir, "back")))(t)
	serveOn(t, back, echo)
	for _, scheme := range []string{"unix:", "unix://"} {
		front := must(net.Listen("unix", filepath.Join(dir, "front")))(t)
		r := start(t, rigConfig{listener: front}, scheme+back.Addr().String())
		cc := dial(t, "ignored", grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", r.addr)
		}))
		in := strings.Repeat("x", 1<<20)
		if out, err := unary(within(t), cc, "/a.B/C", in); err != nil || out != in {
			t.Errorf("%d octets: %d came back, %v", len(in), len(out), err)
		}
		cc.Close()
		r.Close()
	}
}

// Connections of other kinds, here in memory, work as well: the portable way.
func TestOtherConnections(t *testing.T) {
	back, front := memnet.Listen("back"), memnet.Listen("front")
	serveOn(t, back, echo)
	r := start(t, rigConfig{listener: front, endpoint: relay.EndpointConfig{
		Dial: func(ctx context.Context) (net.Conn, error) { return back.DialContext(ctx) },
	}}, "back")
	_ = r
	cc := dial(t, "front", grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return front.DialContext(ctx) }))
	for _, n := range fewSizes {
		in := strings.Repeat("x", n)
		if out, err := unary(within(t), cc, "/a.B/C", in); err != nil || out != in {
			t.Errorf("%d octets: %d came back, %v", n, len(out), err)
		}
	}
}

// teapot is an http.Handler with something of everything.
func teapot(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	w.Header().Set("X-Seen", fmt.Sprintf("%s %s %s %s %d %v", r.Proto, r.Method, r.Host, r.URL.Path, len(body), err))
	w.WriteHeader(http.StatusTeapot)
	w.Write(bytes.Repeat([]byte("t"), 200_000)) //nolint:errcheck // the client sees
}

// clients are of HTTP/1.1 and of HTTP/2 with prior knowledge.
func clients(t *testing.T) map[string]*http.Client {
	h2c := &http.Transport{Protocols: new(http.Protocols)}
	h2c.Protocols.SetUnencryptedHTTP2(true)
	h1 := &http.Transport{}
	t.Cleanup(h1.CloseIdleConnections)
	t.Cleanup(h2c.CloseIdleConnections)
	return map[string]*http.Client{"HTTP/1.1": {Transport: h1}, "HTTP/2.0": {Transport: h2c}}
}

// What is no gRPC goes to the handler, on the same port.
func TestHTTPHandler(t *testing.T) {
	r := start(t, rigConfig{server: func(s *relay.Server) { s.HTTP = http.HandlerFunc(teapot) }}, serve(t, echo))
	for proto, client := range clients(t) {
		for _, n := range []int{0, 10, 300_000} {
			req := must(http.NewRequestWithContext(within(t), "POST", "http://"+r.addr+"/healthz", bytes.NewReader(make([]byte, n))))(t)
			res := must(client.Do(req))(t)
			body := must(io.ReadAll(res.Body))(t)
			res.Body.Close()
			want := fmt.Sprintf("%s POST %s /healthz %d <nil>", proto, r.addr, n)
			if res.StatusCode != http.StatusTeapot || res.Header.Get("X-Seen") != want || len(body) != 200_000 {
				t.Errorf("%s: status %d, saw %q, want %q, body of %d", proto, res.StatusCode, res.Header.Get("X-Seen"), want, len(body))
			}
		}
	}
	if out := must(unary(within(t), dial(t, r.addr), "/a.B/C", "m"))(t); out != "m" {
		t.Error("gRPC beside it failed")
	}
}

// Without a handler it is refused, by a status of its own protocol.
func TestNoHTTPHandler(t *testing.T) {
	r := start(t, rigConfig{})
	want := map[string]int{"HTTP/1.1": http.StatusHTTPVersionNotSupported, "HTTP/2.0": http.StatusUnsupportedMediaType}
	for proto, client := range clients(t) {
		res := must(client.Get("http://" + r.addr + "/"))(t)
		body := must(io.ReadAll(res.Body))(t)
		res.Body.Close()
		if res.StatusCode != want[proto] || !strings.Contains(string(body), "gRPC endpoint") {
			t.Errorf("%s: %d %q", proto, res.StatusCode, body)
		}
	}
}

// What has no content in HTTP gets none, whatever the handler writes: answers to HEAD, and those of some statuses, one of
// which may come before the answer.
func TestHTTPWithoutContent(t *testing.T) {
	handlers := map[string]http.Handler{"": nil, "/": http.HandlerFunc(teapot), "/hints": http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusEarlyHints)
		w.WriteHeader(http.StatusNoContent)
		if n, err := w.Write([]byte("content")); n != 0 || !errors.Is(err, http.ErrBodyNotAllowed) {
			t.Errorf("content of a status that has none: %d octets written, %v", n, err)
		}
	})}
	for path, h := range handlers {
		r := start(t, rigConfig{server: func(s *relay.Server) { s.HTTP = h }})
		c := rawDial(t, r.addr)
		check(t, c.Headers(1, true, ":method", "HEAD", ":scheme", "http", ":path", "/"+path, ":authority", "x"))
		if f := must(c.Until(func(f rawpeer.Frame) bool { return f.StreamID == 1 && (f.End() || len(f.Payload) > 0) }))(t); len(f.Payload) > 0 {
			t.Errorf("content in the answer to HEAD %q: %v", path, f)
		}
		c.Close()
		for proto, client := range clients(t) {
			for _, method := range []string{"HEAD", "GET"} {
				if method == "GET" && path != "/hints" {
					continue
				}
				req := must(http.NewRequestWithContext(within(t), method, "http://"+r.addr+path, nil))(t)
				res, err := client.Do(req)
				if err != nil {
					t.Errorf("%s %s %q: %v", proto, method, path, err)
					continue
				}
				body, err := io.ReadAll(res.Body)
				res.Body.Close()
				if err != nil || len(body) > 0 || path == "/hints" && res.StatusCode != http.StatusNoContent {
					t.Errorf("%s %s %q: status %d, content %q, %v", proto, method, path, res.StatusCode, body, err)
				}
			}
		}
	}
}

// A client that leaves frees the handler; one that does not read holds it back.
func TestHTTPHandlerLeft(t *testing.T) {
	entered, over := make(chan bool, 1), make(chan error, 1)
	r := start(t, rigConfig{server: func(s *relay.Server) {
		s.HTTP = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			entered <- true
			if r.URL.Path == "/wait" {
				<-r.Context().Done()
				over <- r.Context().Err()
				return
			}
			var err error
			for n := 0; err == nil && n < 100<<20; n += 1 << 20 {
				_, err = w.Write(make([]byte, 1<<20))
			}
			over <- err
		})
	}})
	for _, path := range []string{"/wait", "/flood"} {
		c := rawDial(t, r.addr)
		check(t, c.Headers(1, true, ":method", "GET", ":scheme", "http", ":path", path, ":authority", "x"))
		wait(t, entered, "the handler")
		if path == "/flood" {
			must(c.Until(rawpeer.Is(http2.FrameData, 1)))(t)
			if n := r.Buffered(); n > 4<<20 {
				t.Errorf("%d octets wait for a client that does not read", n)
			}
		}
		check(t, c.Reset(1, http2.ErrCodeCancel))
		if err := wait(t, over, "the handler to end"); err == nil {
			t.Errorf("%s: the handler saw no end", path)
		}
		c.Close()
	}
}

// The response of a handler that panics cannot be taken for a whole one, and nobody else is harmed.
func TestHTTPHandlerPanics(t *testing.T) {
	r := start(t, rigConfig{server: func(s *relay.Server) {
		s.HTTP = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/late" {
				w.Write([]byte("half")) //nolint:errcheck // the client sees
			}
			panic(http.ErrAbortHandler)
		})
	}}, serve(t, echo))
	c := rawDial(t, r.addr)
	for i, path := range []string{"/", "/late", "/"} {
		id := uint32(2*i + 1)
		check(t, c.Headers(id, true, ":method", "GET", ":scheme", "http", ":path", path, ":authority", "x"))
		f := must(c.Until(func(f rawpeer.Frame) bool { return f.Type == http2.FrameRSTStream || f.End() }))(t)
		if f.Type != http2.FrameRSTStream || f.StreamID != id || f.Code != http2.ErrCodeInternal {
			t.Errorf("%s: the response ended by %v", path, f)
		}
	}
	must(unary(within(t), dial(t, r.addr), "/a.B/C", "m"))(t)
}

// What is neither HTTP/2 nor HTTP/1.1 is closed without an answer that could confuse.
func TestNeitherProtocol(t *testing.T) {
	closed := make(chan error, 1)
	r := start(t, rigConfig{server: func(s *relay.Server) {
		s.Hooks.ConnClosed = func(_ net.Addr, err error) { closed <- err }
	}})
	for _, first := range []string{"\x16\x03\x01\x02\x00\x01\x00", "SSH-2.0-x\r\n", "PRI * HTTP/3.0\r\n\r\n", "\x00"} {
		nc := must(net.Dial("tcp", r.addr))(t)
		fmt.Fprint(nc, first)
		answer, _ := bufio.NewReader(nc).ReadString(0)
		if len(answer) > 0 && !strings.HasPrefix(answer, "HTTP/1.1 4") && !strings.HasPrefix(answer, "HTTP/1.1 5") {
			t.Errorf("%q was answered with %q", first, answer)
		}
		nc.Close()
		if err := wait(t, closed, "the end"); err == nil {
			t.Errorf("%q: closed without a reason", first)
		}
	}
}

// Limits on connections turn the next one away and tell of it.
func TestConnectionLimits(t *testing.T) {
	rejected := make(chan string, 1)
	r := start(t, rigConfig{server: func(s *relay.Server) {
		s.Limits.MaxConnections = 2
		s.Hooks.ConnRejected = func(_ net.Addr, reason string) { rejected <- reason }
	}}, serve(t, echo))
	for range 2 {
		must(unary(within(t), dial(t, r.addr), "/a.B/C", "m"))(t)
	}
	nc := must(net.Dial("tcp", r.addr))(t)
	defer nc.Close()
	if _, err := nc.Read(make([]byte, 1)); err == nil || errors.Is(err, net.ErrClosed) {
		t.Errorf("one connection too many: %v", err)
	}
	if reason := wait(t, rejected, "the hook"); reason != "max_connections" {
		t.Errorf("reason %q", reason)
	}
}
