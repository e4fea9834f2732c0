// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package undertest

import (
	"bufio"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
)

func TestExpand(t *testing.T) {
	t.Parallel()
	identity := &Identity{Cert: []byte("cert"), Key: []byte("key")}
	two := []string{"a:1", "b:2"}
	tests := []struct {
		name, line string
		config     Config
		want       []string // nil for ErrUnsupported; DIR is the directory of the files
	}{
		{"addresses", "p -l {listen} -b {backends}", Config{Backends: two}, []string{"p", "-l", "h:9", "-b", "a:1,b:2"}},
		{"port and URLs", "p {port} {https-backends}", Config{Backends: two}, []string{"p", "9", "https://a:1,https://b:2"}},
		{"identity", "p {cert} {key}", Config{Identity: identity}, []string{"p", "DIR/cert.pem", "DIR/key.pem"}},
		{"identity not in the line", "p", Config{Identity: identity}, nil},
		{"identity not in the config", "p {cert} {key}", Config{}, nil},
		{"authority not in the line", "p {cert} {key}", Config{Identity: identity, ClientCA: []byte("ca")}, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			got, err := expand(tt.line, "h:9", dir, tt.config)
			if tt.want == nil {
				if !errors.Is(err, ErrUnsupported) {
					t.Fatalf("got %q, %v; want ErrUnsupported", got, err)
				}
				return
			}
			for i := range tt.want {
				tt.want[i] = strings.Replace(tt.want[i], "DIR", dir, 1)
			}
			if err != nil || !slices.Equal(got, tt.want) {
				t.Fatalf("got %q, %v; want %q", got, err, tt.want)
			}
		})
	}
}

func TestExpandWritesFiles(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if _, err := expand("p {backend-ca}", "h:9", dir, Config{BackendCA: []byte("authority")}); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(dir + "/backend-ca.pem"); string(got) != "authority" {
		t.Errorf("file of the authority = %q, %v", got, err)
	}
}

func TestCommandThatEnds(t *testing.T) {
	t.Parallel()
	_, _, err := Command("true {listen}")(Config{})
	if err == nil || !strings.Contains(err.Error(), "ended before it listened") {
		t.Errorf("got %v, want that it ended before it listened", err)
	}
}

// Forward must go between TLS on both sides, and stop must end what is open.
func TestForward(t *testing.T) {
	t.Parallel()
	identity, err := NewIdentity()
	if err != nil {
		t.Fatal(err)
	}
	config := Config{Identity: identity, ClientCA: identity.Cert, BackendCA: identity.Cert, BackendIdentity: identity}
	config.Backends = []string{echo(t, config)}
	addr, stop, err := Forward(config)
	if err != nil {
		t.Fatal(err)
	}
	client, err := config.BackendTLS()
	if err != nil {
		t.Fatal(err)
	}
	conn, err := tls.Dial("tcp", addr, client)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if _, err := io.WriteString(conn, "there and back\n"); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(conn)
	if line, err := r.ReadString('\n'); line != "there and back\n" {
		t.Fatalf("got %q, %v", line, err)
	}
	stop()
	if b, err := r.ReadByte(); err == nil {
		t.Errorf("read %q after stop, want an error", b)
	}
}

// echo starts a server with the TLS of a proxy of that config, until the test ends.
func echo(t *testing.T, config Config) string {
	t.Helper()
	server, err := config.ServerTLS()
	if err != nil {
		t.Fatal(err)
	}
	lis, err := tls.Listen("tcp", "127.0.0.1:0", server)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = lis.Close() })
	go accept(lis) // ends when the test closes the listener
	return lis.Addr().String()
}

func accept(lis net.Listener) {
	for {
		conn, err := lis.Accept()
		if err != nil {
			return
		}
		_, _ = io.Copy(conn, conn)
		_ = conn.Close()
	}
}
