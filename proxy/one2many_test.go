// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package proxy_test

import (
	"context"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc"

	"github.com/manifold-grpc/manifold/proxy"
)

// node is a backend for one-to-many calls. Its answers and errors are readable text: "name=payload;" and "name!error;".
type node struct {
	name string
	conn *grpc.ClientConn
}

var _ proxy.Backend = (*node)(nil)

func (n *node) String() string { return n.name }

func (n *node) GetConnection(ctx context.Context, _ string) (context.Context, *grpc.ClientConn, error) {
	return withMetadata(n.conn)(ctx)
}

func (n *node) AppendInfo(_ bool, resp []byte) ([]byte, error) {
	return []byte(n.name + "=" + string(resp) + ";"), nil
}

func (n *node) BuildError(_ bool, err error) ([]byte, error) {
	return []byte(n.name + "!" + err.Error() + ";"), nil
}

// toAll is a director of one-to-many calls.
func toAll(backends ...proxy.Backend) proxy.StreamDirector {
	return func(context.Context, string) (proxy.Mode, []proxy.Backend, error) {
		return proxy.One2Many, backends, nil
	}
}

// byMethod detects streaming methods by their name.
func byMethod(method string) bool { return strings.Contains(method, "Stream") }

func TestFanoutEcho(t *testing.T) {
	var nodes []proxy.Backend
	for _, name := range []string{"a", "b", "c"} {
		nodes = append(nodes, &node{name, dial(t, startBackend(t, echo))})
	}

	conn := dialRaw(t, startProxy(t, toAll(nodes...), proxy.WithStreamedDetector(byMethod)))

	got, err := call(t, conn, "/test.Echo/Unary", "hi")
	if want := []string{"a=hi;b=hi;c=hi;"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("unary: got %q, %v, want %q", got, err, want)
	}

	got, err = call(t, conn, "/test.Echo/Stream", "1", "2")
	slices.Sort(got)

	if want := []string{"a=1;", "a=2;", "b=1;", "b=2;", "c=1;", "c=2;"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("streaming: got %q, %v, want %q in any order", got, err, want)
	}
}
