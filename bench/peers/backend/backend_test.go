// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package backend

import (
	"net"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/net/http2/hpack"

	"github.com/manifold-grpc/manifold/bench/peers/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// ignore is a client that looks at nothing.
type ignore struct{}

func (ignore) Block(*wire.Stream, *wire.Block, bool) error { return nil }
func (ignore) Message(*wire.Stream, wire.Head, int) error  { return nil }
func (ignore) End(*wire.Stream) error                      { return nil }
func (ignore) fields(kv ...string) *wire.Template          { return wire.NewTemplate(kv...) }
func (i ignore) request(path string, more ...string) *wire.Template {
	return i.fields(append([]string{":method", "POST", ":scheme", "http", ":path", path, "content-type", "application/grpc", "te", "trailers"}, more...)...)
}

// The backend finds what a proxy may do to a request, ends the connection, and
// tells of it once.
func TestFaults(t *testing.T) {
	var client ignore
	tests := []struct {
		name, want string
		request    *wire.Template
		pull       uint32
	}{
		{"no such method", `no method "/a/b"`, client.request("/a/b"), 0},
		{"te lost", `te ""`, client.fields(":method", "POST", ":path", PathEcho, "content-type", "application/grpc"), 0},
		{"content-type", `content-type "text/html"`, client.fields(":method", "POST", ":path", PathEcho, "content-type", "text/html", "te", "trailers"), 0},
		{"timeout lost", `grpc-timeout ""`, client.request(PathTimed), 0},
		{"timeout longer", `grpc-timeout "101S"`, client.request(PathTimed, "grpc-timeout", "101S"), 0},
		{"nothing wanted", "0 messages wanted", client.request(PathPull), 0},
		{"too much wanted", "messages wanted", client.request(PathPull), 1 << 30},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			lis, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			s := Serve(lis, Config{Join: wire.DefaultJoin})
			defer s.Close()
			nc, err := net.Dial("tcp", lis.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			c, err := wire.NewClient(nc, client, wire.DefaultJoin)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
				t.Fatal(err)
			}
			if err := c.Open(tt.request, hpack.HeaderField{}).SendLast(wire.Head{Want: tt.pull}, 64, 1); err != nil {
				t.Fatal(err)
			}
			if err := c.Serve(func() bool { return false }); err == nil {
				t.Error("the connection goes on")
			}
			if fault := s.Fault(); !strings.Contains(fault, tt.want) {
				t.Errorf("fault %q, expected one with %q", fault, tt.want)
			}
			if fault := s.Fault(); fault != "" {
				t.Errorf("fault %q a second time", fault)
			}
		})
	}
}

func TestTimeout(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"1H": time.Hour, "2M": 2 * time.Minute, "3S": 3 * time.Second, "40m": 40 * time.Millisecond, "99999999u": 99999999 * time.Microsecond, "0n": 0,
		"": -1, "S": -1, "1": -1, "1s": -1, "-1S": -1, "123456789n": -1, "1.5S": -1,
	} {
		got, err := timeout(text)
		if err != nil {
			got = -1
		}
		if got != want {
			t.Errorf("timeout %q is %v, %v, expected %v", text, got, err, want)
		}
	}
}
