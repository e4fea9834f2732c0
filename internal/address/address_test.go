// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package address

import (
	"strings"
	"testing"
)

func TestParseListen(t *testing.T) {
	tests := []struct {
		in, network, addr string
		wantErr           string // part of the error, "" for none
	}{
		{in: ":8080", network: "tcp", addr: ":8080"},
		{in: "127.0.0.1:0", network: "tcp", addr: "127.0.0.1:0"},
		{in: "[::1]:8080", network: "tcp", addr: "[::1]:8080"},
		{in: "proxy.local:65535", network: "tcp", addr: "proxy.local:65535"},
		{in: "unix:///run/m.sock", network: "unix", addr: "/run/m.sock"},
		{in: "unix:/run/m.sock", network: "unix", addr: "/run/m.sock"},
		{in: "unix:m.sock", network: "unix", addr: "m.sock"},
		{in: "", wantErr: "missing port"},
		{in: "8080", wantErr: "missing port"},
		{in: "localhost", wantErr: "missing port"},
		{in: "::1:8080", wantErr: "too many colons"},
		{in: ":http", wantErr: `port "http" is not a number from 0`},
		{in: ":65536", wantErr: "port"},
		{in: ":-1", wantErr: "port"},
		{in: "https://:8080", wantErr: "too many colons"},
		{in: "a b:8080", wantErr: "is no name"},
		{in: "unix:", wantErr: "no path"},
		{in: "unix://m.sock", wantErr: "absolute path"},
		{in: "unix:///" + strings.Repeat("x", 107), wantErr: "108 bytes"},
	}
	for _, tt := range tests {
		t.Run(tt.in, func(t *testing.T) {
			got, err := ParseListen(tt.in)
			checkError(t, err, tt.wantErr, "expected host:port, :port")
			if want := (Address{tt.network, tt.addr}); got != want {
				t.Errorf("address = %+v, want %+v", got, want)
			}
		})
	}
}

func TestParseEndpoint(t *testing.T) {
	tests := []struct {
		in, network, addr string
		tls               bool
		wantErr           string
	}{
		{in: "localhost:50051", network: "tcp", addr: "localhost:50051"},
		{in: "10.0.0.1:50051", network: "tcp", addr: "10.0.0.1:50051"},
		{in: "[::1]:50051", network: "tcp", addr: "[::1]:50051"},
		{in: "dns:///a.example:50051", network: "tcp", addr: "a.example:50051"},
		{in: "http://a.example:50051", network: "tcp", addr: "a.example:50051"},
		{in: "http://a.example", network: "tcp", addr: "a.example:80"},
		{in: "https://a.example:8443", network: "tcp", addr: "a.example:8443", tls: true},
		{in: "https://a.example", network: "tcp", addr: "a.example:443", tls: true},
		{in: "https://[::1]", network: "tcp", addr: "[::1]:443", tls: true},
		{in: "unix:///run/a.sock", network: "unix", addr: "/run/a.sock"},
		{in: "unix:a.sock", network: "unix", addr: "a.sock"},
		{in: "", wantErr: "missing port"},
		{in: "localhost", wantErr: "missing port"},
		{in: ":50051", wantErr: "no host"},
		{in: "localhost:0", wantErr: `port "0" is not a number from 1`},
		{in: "localhost:grpc", wantErr: "port"},
		{in: "a/b:1", wantErr: "is no name"},
		{in: "ftp://a.example:21", wantErr: `unknown scheme "ftp"`},
		{in: "https://a.example:8443/path", wantErr: "more than a scheme"},
		{in: "https://user@a.example", wantErr: "more than a scheme"},
		{in: "https://a.example?x=1", wantErr: "more than a scheme"},
		{in: "https://", wantErr: "no host"},
		{in: "https://a b", wantErr: "invalid character"},
		{in: "https://a.example:http", wantErr: "invalid port"},
		{in: "unix:", wantErr: "no path"},
	}
	for _, tt := range tests {
		t.Run(tt.in, func(t *testing.T) {
			got, err := ParseEndpoint(tt.in)
			checkError(t, err, tt.wantErr, "expected host:port, https://")
			if want := (Endpoint{Address{tt.network, tt.addr}, tt.tls}); got != want {
				t.Errorf("endpoint = %+v, want %+v", got, want)
			}
			if tt.wantErr != "" {
				return
			}
			if again, err := ParseEndpoint(got.String()); err != nil || again != got {
				t.Errorf("ParseEndpoint(%q) = %+v, %v; want what it came from, %+v", got, again, err, got)
			}
		})
	}
}

// checkError wants no error if want is empty, else one line that has want and
// what was expected.
func checkError(t *testing.T, err error, want, expected string) {
	t.Helper()

	switch {
	case want == "" && err != nil:
		t.Errorf("error = %v, want none", err)
	case want == "":
	case err == nil:
		t.Errorf("no error, want one with %q", want)
	case !strings.Contains(err.Error(), want), !strings.Contains(err.Error(), expected), strings.Contains(err.Error(), "\n"):
		t.Errorf("error = %q, want one line with %q and %q", err, want, expected)
	}
}

func FuzzParseEndpoint(f *testing.F) {
	for _, seed := range []string{"localhost:1", "https://[::1]", "unix:///a", "unix:a", "dns:///a:1", "http://a%zz", "unix:unix:", "unix:////a"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, err := ParseEndpoint(s)
		if err != nil {
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("error of several lines: %q", err)
			}
			return
		}
		if again, err := ParseEndpoint(got.String()); err != nil || again != got {
			t.Errorf("%q is %+v, which writes as %q, which is %+v, %v", s, got, got, again, err)
		}
	})
}
