// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package proxy_test

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/manifold-grpc/manifold/proxy"
)

// lateNode is a node whose GetConnection waits for something.
type lateNode struct {
	node
	wait <-chan struct{}
}

func (n *lateNode) GetConnection(ctx context.Context, method string) (context.Context, *grpc.ClientConn, error) {
	select {
	case <-n.wait:
	case <-ctx.Done():
	}

	return n.node.GetConnection(ctx, method)
}

// allConnected connects the nodes, without which their targets are not opened in the handler's goroutine.
func allConnected(t *testing.T, all []proxy.Backend) []proxy.Backend {
	t.Helper()

	for _, b := range all {
		if n, ok := b.(*node); ok && n.conn != nil {
			connected(t, n.conn)
		}
	}

	return all
}

// closing returns a handler that closes c when its call is there, and then goes on with next.
func closing(c chan struct{}, next grpc.StreamHandler) grpc.StreamHandler {
	return func(srv any, s grpc.ServerStream) error {
		close(c)

		return next(srv, s)
	}
}

// A target whose hook does not return holds up nobody: here the first waits for the last to get its call.
func TestOpeningWaitsForNobody(t *testing.T) {
	for _, method := range []string{unaryMethod, streamMethod} {
		reached := make(chan struct{})
		all := allConnected(t, nodes(t, echo, echo, closing(reached, echo)))
		all[0] = &lateNode{*all[0].(*node), reached}

		got, err := call(t, fan(t, all, proxy.WithStreamedDetector(byName)), method, "x")
		slices.Sort(got)

		want := "a=x;b=x;c=x;"
		if method == streamMethod {
			want = "a=xb=xc=x"
		}

		if err != nil || strings.Join(got, "") != want {
			t.Errorf("%s: got %q, %v", method, got, err)
		}
	}
}

// Nor does a target that does not answer: here the first waits until the last has sent more than windows hold.
func TestReceivingWaitsForNobody(t *testing.T) {
	large := strings.Repeat("x", 1<<20)
	sent := make(chan struct{})
	all := allConnected(t, nodes(t, func(srv any, s grpc.ServerStream) error {
		select {
		case <-sent:
		case <-s.Context().Done():
		}

		return echo(srv, s)
	}, echo, func(srv any, s grpc.ServerStream) error {
		defer close(sent)

		return answer(large, large, large)(srv, s)
	}))

	got, err := call(t, fan(t, all, proxy.WithStreamedDetector(byName)), unaryMethod, "y")
	if want := "a=y;b=y;" + strings.Repeat("c="+large+";", 3); err != nil || len(got) != 1 || got[0] != want {
		t.Errorf("got %d messages, %v", len(got), err)
	}
}

// A failure that ends the call ends it, though the target that comes before it has not answered.
func TestFailNowBehindSilence(t *testing.T) {
	conn := fan(t, plain(allConnected(t, nodes(t, hang, fail(codes.Aborted, "stop")))), proxy.WithStreamedDetector(byName))

	within(t, 5*time.Second, "the call", func() {
		_, err := call(t, conn, unaryMethod, "x")
		wantStatus(t, err, codes.Aborted, "1 of 2 backends failed: b: Aborted: stop")
	})
}

// Requests that come after a while go to targets that wait for them already.
func TestRequestsComeLate(t *testing.T) {
	reached := make(chan struct{})
	s := open(t, fan(t, allConnected(t, nodes(t, closing(reached, echo))), proxy.WithStreamedDetector(byName)), unaryMethod)

	send(t, s, "1")
	<-reached
	send(t, s, "2")
	_ = s.CloseSend()

	if got, err := collect(s); err != nil || !slices.Equal(got, []string{"a=1;a=2;"}) {
		t.Errorf("got %q, %v", got, err)
	}
}

// promptChannel is a PromptChannel whose streams take no message of more than 64 KiB, prefix included, until somebody receives.
type promptChannel struct{ *grpc.ClientConn }

func (promptChannel) Prompt() bool { return true }

func (c promptChannel) NewStream(ctx context.Context, desc *grpc.StreamDesc, method string, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	s, err := c.ClientConn.NewStream(ctx, desc, method, opts...)

	return &promptStream{ClientStream: s, received: make(chan struct{})}, err
}

type promptStream struct {
	grpc.ClientStream
	received chan struct{} // closed by Header
}

func (s *promptStream) Header() (metadata.MD, error) {
	close(s.received)

	return s.ClientStream.Header()
}

func (s *promptStream) SendMsg(m any) error {
	if m.(*proxy.Frame).Len() > 64<<10-5 {
		select {
		case <-s.received:
		case <-s.Context().Done():
			return status.Error(codes.Internal, "nobody receives while the message is sent")
		}
	}

	return s.ClientStream.SendMsg(m)
}

// A message larger than a PromptChannel promises to take at once is sent while its answer is waited for.
func TestPromptChannelWaitsWithLargeMessages(t *testing.T) {
	b := nodes(t, echo)[0].(*node)
	connected(t, b.conn)
	conn := fan(t, []proxy.Backend{&channelNode{node: *b, channel: promptChannel{b.conn}}}, proxy.WithStreamedDetector(byName))

	for _, n := range []int{64<<10 - 5, 64<<10 - 4} {
		got, err := call(t, conn, unaryMethod, strings.Repeat("x", n))
		if err != nil || len(got) != 1 || len(got[0]) != n+len("a=;") {
			t.Errorf("%d octets: got %d messages, %v", n, len(got), err)
		}
	}
}
