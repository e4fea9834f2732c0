// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package clients

import (
	"cmp"
	"context"
	"net"
	"os"
	"os/exec"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/manifold-grpc/manifold/fanout"
	"github.com/manifold-grpc/manifold/proxy"
)

// A Python program with nothing but grpcio reads the summary of a call that package proxy has fanned out.
func TestPythonFanout(t *testing.T) {
	python := cmp.Or(os.Getenv("PYTHON"), "/usr/bin/python3")
	if out, err := exec.Command(python, "-c", "import grpc").CombinedOutput(); err != nil {
		t.Fatalf("needs $PYTHON or /usr/bin/python3 with grpcio: apt install python3-grpcio\n%s", out)
	}

	backends := []proxy.Backend{
		&proxy.Upstream{Name: "one", Channel: connection(t, run(t, "sample", "--listen", "127.0.0.1:0", "--name", "one"))},
		&proxy.Upstream{Name: "two", Channel: connection(t, run(t, "sample", "--listen", "127.0.0.1:0", "--name", "two"))},
		&proxy.Upstream{Name: "rack 3, node:7", Channel: connection(t, closedPort(t))},
	}

	for _, tt := range []struct {
		policy fanout.Policy
		method string
		want   string
	}{
		{fanout.BestEffort(), "/manifold.sample.v1.FleetService/Describe", "OK True\ntargets 3 ok 2 failed 1 cancelled 0\nrack 3, node:7 UNAVAILABLE\n"},
		{fanout.BestEffort(), "/manifold.sample.v1.FleetService/Nothing", "UNIMPLEMENTED"},
	} {
		addr := fanoutProxy(t, backends, proxy.Fanout{Policy: tt.policy, Summary: true})
		cmd := exec.Command(python, "python/fanout.py")
		cmd.Env = append(os.Environ(), "MANIFOLD_TARGET="+addr, "MANIFOLD_METHOD="+tt.method, "NO_PROXY=127.0.0.1", "no_proxy=127.0.0.1")

		out, err := cmd.CombinedOutput()
		if got := string(out); err != nil || len(got) < len(tt.want) || got[:len(tt.want)] != tt.want {
			t.Errorf("%v: got\n%s%v, want\n%s", tt.policy, got, err, tt.want)
		}
	}
}

// fanoutProxy serves until the test ends.
func fanoutProxy(t *testing.T, backends []proxy.Backend, o proxy.Fanout) string {
	t.Helper()

	director := func(context.Context, string) (proxy.Mode, []proxy.Backend, error) {
		return proxy.One2Many, backends, nil
	}
	server := grpc.NewServer(proxy.ServerOptions(director, proxy.WithFanout(o), proxy.WithStreamedDetector(func(string) bool { return false }))...)

	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}

	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }() // ends with Stop

	t.Cleanup(func() {
		server.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})

	return l.Addr().String()
}

func connection(t *testing.T, addr string) *grpc.ClientConn {
	t.Helper()

	conn, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })

	return conn
}

// closedPort returns an address that refuses connections.
func closedPort(t *testing.T) string {
	t.Helper()

	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()

	return l.Addr().String()
}
