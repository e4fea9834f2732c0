// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"testing/iotest"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/manifold-grpc/manifold/internal/sample/samplepb"
)

// v2 makes a header of version 2: command and family are octets 13 and 14.
func v2(command, family byte, body string) string {
	return proxySignature + string([]byte{command, family, byte(len(body) >> 8), byte(len(body))}) + body
}

var (
	v2TCP4 = v2(0x21, 0x11, "\xc0\x00\x02\x07\x0a\x00\x00\x01\x04\xd2\x01\xbb")
	v2TLV  = v2(0x21, 0x11, "\xc0\x00\x02\x07\x0a\x00\x00\x01\x04\xd2\x01\xbb"+"\x04\x00\x03abc")
)

func TestReadProxyHeader(t *testing.T) {
	const after = "PRI * HTTP/2.0"
	for _, tt := range []struct{ name, header, want, err string }{
		{"v1", "PROXY TCP4 192.0.2.7 10.0.0.1 1234 443\r\n", "192.0.2.7:1234", ""},
		{"v1, IPv6", "PROXY TCP6 2001:db8::7 2001:db8::1 1234 443\r\n", "[2001:db8::7]:1234", ""},
		{"v1, unknown", "PROXY UNKNOWN\r\n", "", ""},
		{"v1, unknown with addresses", "PROXY UNKNOWN ffff::1 ffff::2 65535 65535\r\n", "", ""},
		{"v1, bad address", "PROXY TCP4 192.0.2 10.0.0.1 1234 443\r\n", "", "address"},
		{"v1, too long", "PROXY TCP4 " + strings.Repeat("1", 200) + "\r\n", "", "no end"},
		{"v2", v2TCP4, "192.0.2.7:1234", ""},
		{"v2, with TLVs", v2TLV, "192.0.2.7:1234", ""},
		{"v2, local", v2(0x20, 0x00, ""), "", ""},
		{"v2, local with an address", v2(0x20, 0x11, "\xc0\x00\x02\x07\x0a\x00\x00\x01\x04\xd2\x01\xbb"), "", ""},
		{"v2, short of an address", v2(0x21, 0x11, "\xc0\x00"), "", "length"},
		{"v2, too long", proxySignature + "\x21\x11\xff\xff", "", "at most 4096"},
		{"version 3", v2(0x31, 0x11, "\xc0\x00\x02\x07\x0a\x00\x00\x01\x04\xd2\x01\xbb"), "", "version"},
		{"none", "", "", "expected one of version 1 or 2"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := strings.NewReader(tt.header + after)
			var got string
			header, err := readProxyHeader(iotest.OneByteReader(r))
			if err == nil {
				var addr net.Addr
				if addr, err = clientOf(header); addr != nil {
					got = addr.String()
				}
			}
			if got != tt.want || (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
				t.Errorf("client %q, %v; want %q, %q", got, err, tt.want, tt.err)
			}
			if rest, _ := io.ReadAll(r); err == nil && string(rest) != after {
				t.Errorf("%q is left, want %q", rest, after)
			}
		})
	}
	if _, err := readProxyHeader(strings.NewReader(v2TCP4[:20])); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("a header that breaks off: %v", err)
	}
}

func FuzzReadProxyHeader(f *testing.F) {
	f.Add([]byte(v2TLV + "x"))
	f.Add([]byte("PROXY TCP4 192.0.2.7 10.0.0.1 1234 443\r\nx"))
	f.Fuzz(func(t *testing.T, p []byte) {
		header, err := readProxyHeader(strings.NewReader(string(p)))
		if err != nil {
			return
		}
		if !strings.HasPrefix(string(p), string(header)) {
			t.Errorf("read %q of %q", header, p)
		}
		clientOf(header) //nolint:errcheck // it must not panic
	})
}

// dialWith returns a connection to a frontend that begins with a text.
func dialWith(t *testing.T, d *Daemon, frontend, begin string) *grpc.ClientConn {
	t.Helper()

	return connectTo(t, d, frontend, insecure.NewCredentials(), grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
		network := "tcp"
		if path, ok := strings.CutPrefix(addr, "unix:"); ok {
			network, addr = "unix", path
		}
		nc, err := new(net.Dialer).DialContext(ctx, network, addr)
		if err == nil {
			_, err = io.WriteString(nc, begin)
		}
		return nc, err
	}))
}

// Who may say where a client is, and who is believed.
func TestTrust(t *testing.T) {
	d := startDaemon(t, Config{File: declare(t, `
frontends:
  - {name: proxied, listen: "127.0.0.1:0", proxy_protocol: [127.0.0.0/8], trusted: [192.0.2.7], forwarded_for: true}
  - {name: unix, listen: "%s", proxy_protocol: [unix], forwarded_for: true}
  - {name: strangers, listen: "127.0.0.1:0", proxy_protocol: [10.0.0.0/8, unix]}
  - {name: trusting, listen: "127.0.0.1:0", trusted: [127.0.0.1], forwarded_for: true}
  - {name: plain, listen: "127.0.0.1:0", forwarded_for: true}
backends: {b: {endpoints: ["%s"]}}
routes: [{backend: b}]
`, socket(t, "u"), startBackends(t, 1)[0].Addr())})
	for _, tt := range []struct {
		frontend, begin, want string
	}{
		{"proxied", v2TCP4, "198.51.100.1,192.0.2.7"},                          // trusted by the address that the header tells
		{"proxied", "PROXY TCP4 192.0.2.8 10.0.0.1 1234 443\r\n", "192.0.2.8"}, // not trusted
		{"proxied", "PROXY UNKNOWN\r\n", "127.0.0.1"},                          // the balancer itself
		{"unix", "PROXY TCP6 2001:db8::7 2001:db8::1 1234 443\r\n", "2001:db8::7"},
		{"trusting", "", "198.51.100.1,127.0.0.1"},
		{"plain", "", "127.0.0.1"},
	} {
		_, got, err := ask(t, dialWith(t, d, tt.frontend, tt.begin), &samplepb.EchoRequest{}, "x-forwarded-for", "198.51.100.1")
		if err != nil || got["x-forwarded-for"] != tt.want {
			t.Errorf("%s, %q: x-forwarded-for = %q, %v; want %q", tt.frontend, tt.begin, got["x-forwarded-for"], err, tt.want)
		}
	}
	for frontend, begin := range map[string]string{"strangers": v2TCP4, "proxied": ""} {
		if _, err := echo(callContext(t), dialWith(t, d, frontend, begin)); status.Code(err) != codes.Unavailable {
			t.Errorf("%s with %q: %v, want it refused", frontend, begin, err)
		}
	}
}

// A socket has its mode from its first moment, and a reload can change it.
func TestSocketMode(t *testing.T) {
	address := socket(t, "m")
	const text = `
frontends: [{name: f, listen: "%s", socket_mode: %s}]
backends: {b: {endpoints: ["%s"]}}
routes: [{backend: b}]
`
	backend := startBackends(t, 1)[0].Addr()
	d, file := startDeclared(t, Config{}, text, address, "0660", backend)
	mode := func(want os.FileMode) {
		t.Helper()
		info, err := os.Stat(address.Addr)
		if err != nil || info.Mode().Perm() != want {
			t.Errorf("mode %v, %v; want %v", info.Mode().Perm(), err, want)
		}
	}
	mode(0o660)
	file.set(text, address, "0600", backend)
	reload(t, d)
	mode(0o600)
	if _, err := echo(callContext(t), connect(t, d)); err != nil {
		t.Error(err)
	}
}

// Sockets of systemd are listened on, all of a name, and survive the frontend.
func TestSystemdSockets(t *testing.T) {
	var files []*os.File
	var addrs []net.Addr
	for range 2 {
		lis, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		f, err := lis.(*net.TCPListener).File()
		if err != nil {
			t.Fatal(err)
		}
		_ = lis.Close() // the file is the socket now
		t.Cleanup(func() { _ = f.Close() })
		files, addrs = append(files, f), append(addrs, lis.Addr())
	}
	backend := startBackends(t, 1)[0].Addr()
	const text = `
frontends: [%s]
backends: {b: {endpoints: ["%s"]}}
routes: [{backend: b}]
`
	other := `{name: other, listen: "127.0.0.1:0"}`
	d, file := startDeclared(t, Config{Sockets: map[string][]*os.File{"web": files}}, text, other+`, {name: f, listen: "systemd:web"}`, backend)
	reach := func(addr net.Addr) error {
		conn, err := grpc.NewClient("passthrough:///"+addr.String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close() //nolint:errcheck // the call tells
		_, err = echo(callContext(t), conn)
		return err
	}
	for _, addr := range addrs {
		if err := reach(addr); err != nil {
			t.Errorf("%s: %v", addr, err)
		}
	}
	file.set(text, other, backend)
	reload(t, d)
	file.set(text, other+`, {name: again, listen: "systemd:web"}`, backend)
	reload(t, d)
	if err := reach(addrs[1]); err != nil {
		t.Errorf("removed and there again: %v", err)
	}
	file.set(text, `{name: f, listen: "systemd:nothing"}`, backend)
	if err := d.Reload(); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("%q", []string{"web"})) {
		t.Errorf("error = %v, want the names that there are", err)
	}
}
