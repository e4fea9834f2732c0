// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/manifold-grpc/manifold/internal/certtest"
)

func TestNewRefuses(t *testing.T) {
	authority := certtest.New(t)
	a, b := authority.Issue(t, "a"), authority.Issue(t, "b")
	garbage := filepath.Join(t.TempDir(), "garbage.pem")
	if err := os.WriteFile(garbage, []byte("garbage"), 0o600); err != nil {
		t.Fatal(err)
	}
	plain := Endpoint{Address: Address{Network: "tcp", Addr: "127.0.0.1:1"}}
	secure := Endpoint{Address: plain.Address, TLS: true}

	tests := []struct {
		name string
		cfg  Config
		want []string // a part of each line of the error
	}{
		{"nothing", Config{}, []string{"no address to listen on", "no backend endpoint"}},
		{"endpoint twice", Config{Listen: loopback, Endpoints: []Endpoint{plain, plain}}, []string{`"127.0.0.1:1" is given twice`}},
		{"no key", Config{Listen: loopback, Endpoints: []Endpoint{plain}, TLS: ServerTLS{CertFile: a.CertFile}}, []string{"only one is given"}},
		{"no certificate", Config{Listen: loopback, Endpoints: []Endpoint{plain}, TLS: ServerTLS{KeyFile: a.KeyFile}}, []string{"only one is given"}},
		{"missing certificate file", Config{Listen: loopback, Endpoints: []Endpoint{plain}, TLS: ServerTLS{"absent.crt", a.KeyFile}}, []string{"absent.crt: no such file"}},
		{"missing key file", Config{Listen: loopback, Endpoints: []Endpoint{plain}, TLS: ServerTLS{a.CertFile, "absent.key"}}, []string{"absent.key: no such file"}},
		{"key of another", Config{Listen: loopback, Endpoints: []Endpoint{plain}, TLS: ServerTLS{a.CertFile, b.KeyFile}}, []string{"does not match"}},
		{"CA file without use", Config{Listen: loopback, Endpoints: []Endpoint{plain}, CAFile: authority.File}, []string{"no endpoint is https://"}},
		{"missing CA file", Config{Listen: loopback, Endpoints: []Endpoint{secure}, CAFile: "absent.pem"}, []string{"absent.pem: no such file"}},
		{"CA file of garbage", Config{Listen: loopback, Endpoints: []Endpoint{secure}, CAFile: garbage}, []string{"no certificate in it; expected PEM"}},
		{"all files", Config{Listen: loopback, Endpoints: []Endpoint{secure}, CAFile: "absent.pem", TLS: ServerTLS{"absent.crt", "absent.key"}}, []string{"absent.crt", "absent.pem"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := New(tt.cfg)
			if err == nil {
				t.Fatal("no error")
			}
			lines := strings.Split(err.Error(), "\n")
			if len(lines) != len(tt.want) {
				t.Fatalf("error has %d lines, want %d:\n%v", len(lines), len(tt.want), err)
			}
			for i, want := range tt.want {
				if !strings.Contains(lines[i], want) {
					t.Errorf("line %d = %q, want %q", i+1, lines[i], want)
				}
			}
		})
	}
}
