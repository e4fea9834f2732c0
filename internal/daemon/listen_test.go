// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/manifold-grpc/manifold/internal/sample"
)

// socket returns an address in a directory of the test, whose path is short
// enough for a socket.
func socket(t *testing.T, name string) Address {
	t.Helper()

	dir, err := os.MkdirTemp("", "manifold")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) }) // of no interest if it fails

	return Address{Network: "unix", Addr: filepath.Join(dir, name)}
}

func TestUnixOnBothSides(t *testing.T) {
	backend := startBackend(t, socket(t, "b.sock"), sample.Options{Name: "unix"})
	address := socket(t, "m.sock")
	d := startDaemon(t, Config{Listen: address, Endpoints: endpoints(backend)})

	if name, err := echo(callContext(t), connect(t, d)); err != nil || name != "unix" {
		t.Errorf("call = %q, %v", name, err)
	}

	shutdown(t, d)
	if _, err := os.Stat(address.Addr); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after shutdown the socket is there: %v", err)
	}
}

func TestListenOnStaleSocket(t *testing.T) {
	address := socket(t, "m.sock")
	lis, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: address.Addr})
	if err != nil {
		t.Fatal(err)
	}
	lis.SetUnlinkOnClose(false) // as a killed process leaves it
	if err := lis.Close(); err != nil {
		t.Fatal(err)
	}

	d := startDaemon(t, Config{Listen: address, Endpoints: endpoints(startBackends(t, 1)...)})
	if _, err := echo(callContext(t), connect(t, d)); err != nil {
		t.Error(err)
	}
}

func TestListenLeavesOthersAlone(t *testing.T) {
	live := socket(t, "live.sock")
	lis, err := net.Listen(live.Network, live.Addr)
	if err != nil {
		t.Fatal(err)
	}
	defer lis.Close()
	file := socket(t, "file")
	if err := os.WriteFile(file.Addr, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}

	tests := []struct {
		name, want string
		address    Address
	}{
		{"socket in use", "another process listens there", live},
		{"no socket", "is not a socket", file},
		{"no directory", "no such file", Address{Network: "unix", Addr: filepath.Join(file.Addr+"s", "x")}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			lis, err := listen(tt.address, 0)
			if err == nil {
				_ = lis.Close()
			}
			if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), tt.address.Addr) {
				t.Errorf("error = %v, want %q and the path", err, tt.want)
			}
		})
	}

	for _, address := range []Address{live, file} {
		if _, err := os.Stat(address.Addr); err != nil {
			t.Errorf("afterwards: %v", err)
		}
	}
}

func TestPointsAt(t *testing.T) {
	tests := []struct {
		endpoint, own string
		want          bool
	}{
		{"127.0.0.1:80", "127.0.0.1:80", true},
		{"localhost:80", "127.0.0.1:80", true},
		{"localhost:80", "[::]:80", true},
		{"127.0.0.1:80", "[::]:80", true},
		{"[::1]:80", "[::]:80", true},
		{"10.0.0.1:80", "10.0.0.1:80", true},
		{"127.0.0.1:80", "127.0.0.1:81", false},
		{"localhost:80", "10.0.0.1:80", false},
		{"10.0.0.1:80", "[::]:80", false},
		{"a.example:80", "[::]:80", false},
		{"127.0.0.2:80", "127.0.0.1:80", false},
	}
	for _, tt := range tests {
		t.Run(tt.endpoint+" "+tt.own, func(t *testing.T) {
			own, err := net.ResolveTCPAddr("tcp", tt.own)
			if err != nil {
				t.Fatal(err)
			}
			e := Endpoint{Address: Address{Network: "tcp", Addr: tt.endpoint}}
			if got := pointsAt(e, own); got != tt.want {
				t.Errorf("points at itself = %v, want %v", got, tt.want)
			}
		})
	}

	unix := Endpoint{Address: Address{Network: "unix", Addr: "/a"}}
	if !pointsAt(unix, &net.UnixAddr{Net: "unix", Name: "/a"}) || pointsAt(unix, &net.UnixAddr{Net: "unix", Name: "/b"}) {
		t.Error("unix sockets are not told apart by their paths")
	}
}
