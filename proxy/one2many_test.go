// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package proxy_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/manifold-grpc/manifold/proxy"
)

// node is a backend for one-to-many calls. Its answers and errors are readable text: "name=payload;" and "name!Code;".
type node struct {
	name string
	conn *grpc.ClientConn
}

var _ proxy.Backend = (*node)(nil)

func (n *node) String() string { return n.name }

func (n *node) GetConnection(ctx context.Context, _ string) (context.Context, *grpc.ClientConn, error) {
	if n.conn == nil {
		return ctx, nil, status.Error(codes.Unavailable, "no connection to "+n.name)
	}

	return withMetadata(n.conn)(ctx)
}

func (n *node) AppendInfo(streaming bool, resp []byte) ([]byte, error) {
	if streaming {
		return []byte(n.name + "=" + string(resp)), nil
	}

	return []byte(n.name + "=" + string(resp) + ";"), nil
}

func (n *node) BuildError(streaming bool, err error) ([]byte, error) {
	if streaming {
		return []byte(n.name + "!" + status.Code(err).String()), nil
	}

	return []byte(n.name + "!" + status.Code(err).String() + ";"), nil
}

// plainNode is a node whose errors fail the call.
type plainNode struct{ node }

func (*plainNode) BuildError(bool, error) ([]byte, error) { return nil, nil }

// toAll is a director of one-to-many calls.
func toAll(backends ...proxy.Backend) proxy.StreamDirector {
	return func(context.Context, string) (proxy.Mode, []proxy.Backend, error) {
		return proxy.One2Many, backends, nil
	}
}

// nodes starts a backend for each handler, and names them a, b, c and so on. A nil handler makes a node without a connection.
func nodes(t testing.TB, handlers ...grpc.StreamHandler) []proxy.Backend {
	t.Helper()

	var all []proxy.Backend

	for i, h := range handlers {
		n := &node{name: string(rune('a' + i))}
		if h != nil {
			n.conn = dial(t, startBackend(t, h))
		}

		all = append(all, n)
	}

	return all
}

// plain makes nodes whose errors fail the call.
func plain(all []proxy.Backend) []proxy.Backend {
	for i, n := range all {
		all[i] = &plainNode{*n.(*node)}
	}

	return all
}

// fan returns a connection to a proxy in front of all the backends.
func fan(t testing.TB, backends []proxy.Backend, opts ...any) *grpc.ClientConn {
	t.Helper()

	return dialRaw(t, startProxy(t, toAll(backends...), opts...))
}

// byName detects streaming methods by their name.
func byName(method string) bool { return strings.Contains(method, "Stream") }

const (
	unaryMethod  = "/test.Fan/Unary"
	streamMethod = "/test.Fan/Stream"
)

// The answers of a unary call are joined in the order of the backends, whichever comes first. Those of a streaming
// call keep their order per backend.
func TestJoinAndInterleave(t *testing.T) {
	all := nodes(t, echo, echo, echo)
	conn := fan(t, all, proxy.WithStreamedDetector(byName))

	for range 20 {
		got, err := call(t, conn, unaryMethod, "hi")
		if want := []string{"a=hi;b=hi;c=hi;"}; err != nil || !slices.Equal(got, want) {
			t.Fatalf("unary: got %q, %v, want %q", got, err, want)
		}
	}

	got, err := call(t, conn, streamMethod, "1", "2", "3")
	if err != nil || len(got) != 9 {
		t.Fatalf("streaming: got %q, %v", got, err)
	}

	for _, n := range all {
		var own []string

		for _, m := range got {
			if strings.HasPrefix(m, n.String()) {
				own = append(own, m[2:])
			}
		}

		if !slices.Equal(own, []string{"1", "2", "3"}) {
			t.Errorf("streaming: %v answered %q", n, own)
		}
	}
}

// A call taken for unary ends well whatever the backends send: more messages than one, none, or some and then an error.
func TestUnaryMergeOfAnything(t *testing.T) {
	many := strings.Split(strings.Repeat("m ", 100), " ")[:100]
	joined := func(name string) string { return strings.Repeat(name+"=m;", 100) }

	tests := []struct {
		name     string
		handlers []grpc.StreamHandler
		want     []string
	}{
		{"many messages", []grpc.StreamHandler{answer(many...), answer(many...)}, []string{joined("a") + joined("b")}},
		{"a message and an error", []grpc.StreamHandler{fail(codes.Aborted, "", "m"), answer("m")}, []string{"a=m;a!Aborted;b=m;"}},
		{"many and an error", []grpc.StreamHandler{fail(codes.Aborted, "", many...), answer("m")}, []string{joined("a") + "a!Aborted;b=m;"}},
		{"no message", []grpc.StreamHandler{answer(), answer("m")}, []string{"b=m;"}},
		{"no message at all", []grpc.StreamHandler{answer(), answer()}, nil},
		{"empty messages", []grpc.StreamHandler{answer(""), answer("")}, []string{"a=;b=;"}},
		{"only errors", []grpc.StreamHandler{fail(codes.Aborted, ""), nil}, []string{"a!Aborted;b!Unavailable;"}},
	}

	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := call(t, fan(t, nodes(t, tt.handlers...), proxy.WithStreamedDetector(byName)), unaryMethod, "x")
			if err != nil || !slices.Equal(got, tt.want) {
				t.Errorf("got %.80q, %v, want %.80q", got, err, tt.want)
			}
		})
	}
}

// Without a detector the proxy finds out by itself what kind of call it is.
func TestUnknownKind(t *testing.T) {
	tests := []struct {
		name     string
		handlers []grpc.StreamHandler
		want     []string // sorted
	}{
		{"one message each is unary", []grpc.StreamHandler{answer("1"), answer("2")}, []string{"a=1;b=2;"}},
		{"an error beside a message is unary", []grpc.StreamHandler{answer("1"), nil}, []string{"a=1;b!Unavailable;"}},
		{"a message and its error are unary", []grpc.StreamHandler{fail(codes.Aborted, "", "1"), answer("2")}, []string{"a=1;a!Aborted;b=2;"}},
		{"none is none", []grpc.StreamHandler{answer(), answer()}, nil},
		{"two messages are a stream", []grpc.StreamHandler{answer("1", "2"), answer("3")}, []string{"a=1", "a=2", "b=3"}},
		{"errors of a stream too", []grpc.StreamHandler{nil, fail(codes.Aborted, "", "1", "2"), fail(codes.Aborted, "")},
			[]string{"a!Unavailable", "b!Aborted", "b=1", "b=2", "c!Aborted"}},
	}

	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := call(t, fan(t, nodes(t, tt.handlers...)), unaryMethod)
			slices.Sort(got)

			if err != nil || !slices.Equal(got, tt.want) {
				t.Errorf("got %q, %v, want %q", got, err, tt.want)
			}
		})
	}
}

// Nothing of a conversation is held back when the kind is unknown: each side waits for the other.
func TestUnknownKindConversation(t *testing.T) {
	s := open(t, fan(t, nodes(t, echo, echo)), unaryMethod)

	for i := range 3 {
		send(t, s, fmt.Sprint(i))

		got := []string{recv(t, s), recv(t, s)}
		slices.Sort(got)

		if want := []string{fmt.Sprint("a=", i), fmt.Sprint("b=", i)}; !slices.Equal(got, want) {
			t.Fatalf("got %q, want %q", got, want)
		}
	}

	_ = s.CloseSend()

	if rest, err := collect(s); len(rest) > 0 || err != nil {
		t.Errorf("at the end: %q, %v", rest, err)
	}
}

// GracefulStop returns once a merge is over, however it went.
func TestGracefulStopAfterMerge(t *testing.T) {
	server := grpc.NewServer(proxy.ServerOptions(toAll(nodes(t, answer("1", "2", "3"), fail(codes.Aborted, "", "1"))...))...)

	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}

	go func() { _ = server.Serve(l) }() // ends with GracefulStop

	if _, err := call(t, dialRaw(t, l.Addr().String()), unaryMethod, "x"); err != nil {
		t.Error(err)
	}

	within(t, 5*time.Second, "GracefulStop", server.GracefulStop)
}

// With several failures the code does not depend on which comes first, and the message names the backends on one line.
func TestFailureOfMany(t *testing.T) {
	notFound, broken := fail(codes.NotFound, "no such\nthing"), fail(codes.Internal, "broken")

	tests := []struct {
		name string
		a, b time.Duration // when the backends fail
		code codes.Code
		text string
	}{
		{"together", 0, 0, codes.NotFound, "2 of 3 backends failed: a: NotFound: no such thing; b: Internal: broken"},
		{"a first", 10 * time.Millisecond, 90 * time.Millisecond, codes.NotFound, "2 of 3 backends failed: a: NotFound: no such thing; b: Internal: broken"},
		{"b first", 90 * time.Millisecond, 10 * time.Millisecond, codes.NotFound, "2 of 3 backends failed: a: NotFound: no such thing; b: Internal: broken"},
		{"a much later", time.Second, time.Millisecond, codes.Internal, "1 of 3 backends failed: b: Internal: broken"},
		{"both late", time.Second, time.Second + 400*time.Millisecond, codes.NotFound, "2 of 3 backends failed: a: NotFound: no such thing; b: Internal: broken"},
	}

	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				inMemory(t)

				conn := fan(t, plain(nodes(t, after(tt.a, notFound), after(tt.b, broken), hang)), proxy.WithStreamedDetector(byName))

				_, err := call(t, conn, unaryMethod, "x")
				wantStatus(t, err, tt.code, tt.text)
			})
		})
	}
}

// A backend whose errors make no message fails the call at once, and the others are cancelled.
func TestFailNow(t *testing.T) {
	for _, method := range []string{unaryMethod, streamMethod} {
		cancelled := make(chan error, 1)
		conn := fan(t, plain(nodes(t, fail(codes.Aborted, "stop"), func(_ any, s grpc.ServerStream) error {
			cancelled <- hang(nil, s)

			return nil
		})), proxy.WithStreamedDetector(byName))

		within(t, 5*time.Second, method, func() {
			_, err := call(t, conn, method, "x")
			wantStatus(t, err, codes.Aborted, "1 of 2 backends failed: a: Aborted: stop")
		})

		select {
		case <-cancelled:
		case <-time.After(testTimeout):
			t.Error("the other backend goes on")
		}
	}
}

// With SingleBackend, which makes no messages of errors, a call of which all backends failed does not look like success. And
// the status of a single backend passes through whole.
func TestAllFailed(t *testing.T) {
	single := func(h grpc.StreamHandler) proxy.Backend {
		return &proxy.SingleBackend{GetConn: withMetadata(dial(t, startBackend(t, h)))}
	}
	refuse := fail(codes.ResourceExhausted, "full")

	_, err := call(t, fan(t, []proxy.Backend{single(refuse), single(refuse)}), unaryMethod, "x")
	wantStatus(t, err, codes.ResourceExhausted, "2 of 2 backends failed: backend: ResourceExhausted: full; backend: ResourceExhausted: full")

	_, err = call(t, fan(t, []proxy.Backend{single(refuse)}), unaryMethod, "x")
	if got := status.Convert(err); got.Code() != codes.ResourceExhausted || got.Message() != "full" {
		t.Errorf("one backend: got %v", got)
	}
}

// hookNode is a node with hooks of the test's choice.
type hookNode struct {
	node
	appendInfo func(streaming bool, resp []byte) ([]byte, error)
	buildError func(streaming bool, err error) ([]byte, error)
}

func (n *hookNode) AppendInfo(streaming bool, resp []byte) ([]byte, error) {
	if n.appendInfo == nil {
		return n.node.AppendInfo(streaming, resp)
	}

	return n.appendInfo(streaming, resp)
}

func (n *hookNode) BuildError(streaming bool, err error) ([]byte, error) {
	if n.buildError == nil {
		return n.node.BuildError(streaming, err)
	}

	return n.buildError(streaming, err)
}

// A failing AppendInfo spoils the answer of its own backend only.
func TestAppendInfoFails(t *testing.T) {
	all := nodes(t, answer("1", "2"), answer("3"))
	all[0] = &hookNode{node: *all[0].(*node), appendInfo: func(bool, []byte) ([]byte, error) { return nil, errors.New("no room") }}

	for method, want := range map[string]string{unaryMethod: "a!Internal;b=3;", streamMethod: "a!Internal,b=3"} {
		got, err := call(t, fan(t, all, proxy.WithStreamedDetector(byName)), method, "x")
		slices.Sort(got)

		if err != nil || strings.Join(got, ",") != want {
			t.Errorf("%s: got %q, %v, want %q", method, got, err, want)
		}
	}

	got, err := call(t, fan(t, all), unaryMethod, "x")
	slices.Sort(got)

	if err != nil || len(got) != 1 || got[0] != "a!Internal;b=3;" {
		t.Errorf("unknown kind: got %q, %v", got, err)
	}
}

// What AppendInfo gets is its own: it may write into it and behind it.
func TestAppendInfoOwnsMessage(t *testing.T) {
	scribble := func(_ bool, resp []byte) ([]byte, error) {
		for i := range resp {
			resp[i] ^= 0xff
		}

		return append(resp, '!'), nil
	}
	all := nodes(t, echo, echo)

	for i, n := range all {
		all[i] = &hookNode{node: *n.(*node), appendInfo: scribble}
	}

	text := strings.Repeat("\x55", 5000) // long enough for a pooled buffer
	want := strings.Repeat("\xaa", 5000) + "!"
	got, err := call(t, fan(t, all, proxy.WithStreamedDetector(byName)), streamMethod, text, text, text)

	if err != nil || len(got) != 6 || slices.ContainsFunc(got, func(m string) bool { return m != want }) {
		t.Errorf("got %d messages, %v: %.20q", len(got), err, got)
	}
}

// An error of BuildError fails the call and says so.
func TestBuildErrorFails(t *testing.T) {
	all := nodes(t, fail(codes.Aborted, "stop"), answer("fine"))
	all[0] = &hookNode{node: *all[0].(*node), buildError: func(bool, error) ([]byte, error) { return nil, errors.New("cannot") }}

	_, err := call(t, fan(t, all), unaryMethod, "x")
	wantStatus(t, err, codes.Internal, "1 of 2 backends failed: a: Internal: proxy: BuildError: cannot")
}

// Headers of a stream go out as soon as one backend has sent them; those of a merge as soon as all have. In both cases before
// any message.
func TestFanoutHeaderBeforeMessage(t *testing.T) {
	early := func(value string) grpc.StreamHandler {
		return func(_ any, s grpc.ServerStream) error {
			if err := s.SendHeader(metadata.Pairs("early", value)); err != nil {
				return err
			}

			_, err := tryRecv(s) // comes after the caller has seen the header

			return err
		}
	}

	tests := []struct {
		method   string
		handlers []grpc.StreamHandler
		want     string
	}{
		{streamMethod, []grpc.StreamHandler{hang, early("2")}, "[2]"},
		{unaryMethod, []grpc.StreamHandler{early("1"), early("2"), nil}, "[1 2]"},
	}

	for _, tt := range tests {
		s := open(t, fan(t, nodes(t, tt.handlers...), proxy.WithStreamedDetector(byName)), tt.method)

		header, err := s.Header()
		if got := fmt.Sprint(header["early"]); err != nil || got != tt.want {
			t.Errorf("%s: header %v, %v, want %v", tt.method, got, err, tt.want)
		}

		if header["content-type"][0] != "application/grpc+proto" || len(header["content-type"]) > 1 {
			t.Errorf("%s: content-type %q", tt.method, header["content-type"])
		}

		send(t, s, "go on")
	}
}

// Trailers are joined in the order of the backends, but not the details of a status that is not the call's.
func TestFanoutTrailer(t *testing.T) {
	trail := func(value string) grpc.StreamHandler {
		return func(srv any, s grpc.ServerStream) error {
			s.SetTrailer(metadata.Pairs("who", value, "grpc-status-details-bin", "\x08\x05"))

			return fail(codes.Aborted, "")(srv, s)
		}
	}

	for range 10 {
		s := open(t, fan(t, nodes(t, trail("1"), trail("2"), trail("3"))), unaryMethod)
		_ = s.CloseSend()

		if _, err := collect(s); err != nil {
			t.Fatal(err)
		}

		if got := s.Trailer(); fmt.Sprint(got["who"]) != "[1 2 3]" || got["grpc-status-details-bin"] != nil {
			t.Fatalf("trailer: %v", got)
		}
	}
}

// A joined answer above the cap ends in ResourceExhausted that names it, also when a backend sends without end.
func TestMergedBytes(t *testing.T) {
	endless := func(_ any, s grpc.ServerStream) error {
		for {
			if err := s.SendMsg(proxy.NewFrame(make([]byte, 1000))); err != nil {
				return err
			}
		}
	}
	limit := proxy.WithFanoutLimits(proxy.FanoutLimits{MergedBytes: 50_000})

	_, err := call(t, fan(t, nodes(t, answer("x"), endless), limit, proxy.WithStreamedDetector(byName)), unaryMethod, "x")
	wantStatus(t, err, codes.ResourceExhausted, "limit of 50000 bytes")

	got, err := call(t, fan(t, nodes(t, answer(strings.Repeat("x", 24_000)), answer(strings.Repeat("y", 24_000))), limit), unaryMethod, "x")
	if err != nil || len(got) != 1 || len(got[0]) != 48_006 {
		t.Errorf("below the limit: %d messages, %v", len(got), err)
	}
}

// The callers of a fan-out are told why it ended, too.
func TestFanoutCallerGone(t *testing.T) {
	// In real time a busy machine may take longer to bring the call here than its deadline lets it.
	synctest.Test(t, func(t *testing.T) {
		inMemory(t)

		all := allConnected(t, nodes(t, hang, hang))

		for _, method := range []string{unaryMethod, streamMethod} {
			intercepted := make(chan error, 1)
			conn := fan(t, all, proxy.WithStreamedDetector(byName), grpc.MaxRecvMsgSize(1000), intercept(intercepted))
			connected(t, conn)

			ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
			_, err := collect(openContext(t, ctx, conn, method))
			wantStatus(t, err, codes.DeadlineExceeded, "")
			wantStatus(t, <-intercepted, codes.DeadlineExceeded, "")
			cancel()

			ctx, cancel = context.WithCancel(context.Background())
			time.AfterFunc(50*time.Millisecond, cancel)

			_, err = collect(openContext(t, ctx, conn, method))
			wantStatus(t, err, codes.Canceled, "")
			wantStatus(t, <-intercepted, codes.Canceled, "")

			_, err = call(t, conn, method, strings.Repeat("x", 2000))
			wantStatus(t, err, codes.ResourceExhausted, "larger than max")
			wantStatus(t, <-intercepted, codes.ResourceExhausted, "larger than max")
		}
	})
}
