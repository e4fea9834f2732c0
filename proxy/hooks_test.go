// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package proxy_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/grpclog"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/manifold-grpc/manifold/proxy"
)

func init() {
	// Panics of hooks are logged with their stacks, which is a lot of text for something that a test wants.
	grpclog.SetLoggerV2(grpclog.NewLoggerV2(io.Discard, io.Discard, io.Discard))
}

// panicking is a backend of which one method panics.
type panicking struct {
	hookNode
	in string
}

func (p *panicking) at(hook string) {
	if p.in == hook {
		panic("in " + hook)
	}
}

func (p *panicking) String() string { p.at("String"); return p.node.String() }

func (p *panicking) GetConnection(ctx context.Context, method string) (context.Context, *grpc.ClientConn, error) {
	p.at("GetConnection")

	if p.in == "String" { // which only errors need
		return nil, nil, io.ErrClosedPipe
	}

	return p.node.GetConnection(ctx, method)
}

func (p *panicking) CallOptions(context.Context, string) []grpc.CallOption {
	p.at("CallOptions")

	return nil
}

func (p *panicking) RewriteFirst(_ context.Context, _ string, first []byte) ([]byte, error) {
	p.at("RewriteFirst")

	return first, nil
}

func (p *panicking) Done(context.Context, proxy.Outcome) { p.at("Done") }

var (
	_ proxy.CallOptionsBackend  = (*panicking)(nil)
	_ proxy.FirstMessageBackend = (*panicking)(nil)
	_ proxy.DoneBackend         = (*panicking)(nil)
)

// A panic in a hook ends the call, or the backend's part in it, and nothing else. Each is repeated after a call that works.
func TestPanicInHook(t *testing.T) {
	crash := func() { panic("no") }

	tests := []struct {
		hook     string
		one      codes.Code // of a one-to-one call
		text     string
		many     string // the answer of a one-to-many call; "" if it fails
		manyText string
	}{
		{hook: "GetConnection", one: codes.Internal, text: "GetConnection of a panicked", many: "a!Internal;b=x;"},
		{hook: "CallOptions", one: codes.Internal, text: "CallOptions of a panicked", many: "a!Internal;b=x;"},
		{hook: "RewriteFirst", one: codes.Internal, text: "RewriteFirst of a panicked", many: "a!Internal;b=x;"},
		{hook: "String", one: codes.Unavailable, text: "closed pipe", many: "a!Unavailable;b=x;"},
		{hook: "AppendInfo", many: "a!Internal;b=x;"},
		{hook: "BuildError", manyText: "BuildError of a panicked"},
		{hook: "Done", many: "a=x;b=x;"},
	}

	for _, tt := range tests {
		t.Run(tt.hook, func(t *testing.T) {
			handlers := []grpc.StreamHandler{echo, echo}
			if tt.hook == "BuildError" {
				handlers[0] = fail(codes.Aborted, "")
			}

			all := nodes(t, handlers...)
			p := &panicking{in: tt.hook, hookNode: hookNode{node: *all[0].(*node)}}
			all[0] = p

			switch tt.hook {
			case "AppendInfo":
				p.appendInfo = func(bool, []byte) ([]byte, error) { crash(); return nil, nil }
			case "BuildError":
				p.buildError = func(bool, error) ([]byte, error) { crash(); return nil, nil }
			}

			if tt.text != "" {
				conn := dialRaw(t, startProxy(t, func(context.Context, string) (proxy.Mode, []proxy.Backend, error) {
					return proxy.One2One, all[:1], nil
				}))

				_, err := call(t, conn, unaryMethod, "x")
				wantStatus(t, err, tt.one, tt.text)
			}

			got, err := call(t, fan(t, all, proxy.WithStreamedDetector(byName)), unaryMethod, "x")
			if tt.many == "" {
				wantStatus(t, err, codes.Internal, tt.manyText)
			} else if err != nil || !slices.Equal(got, []string{tt.many}) {
				t.Errorf("one-to-many: got %q, %v, want %q", got, err, tt.many)
			}
		})
	}
}

// A panic of String where the name is needed gives the backend a name.
func TestPanicInName(t *testing.T) {
	all := nodes(t, fail(codes.Aborted, "stop"), echo)
	all[0] = &panicking{in: "String", hookNode: hookNode{
		node: *all[0].(*node), buildError: func(bool, error) ([]byte, error) { return nil, nil },
	}}

	_, err := call(t, fan(t, all, proxy.WithStreamedDetector(byName)), unaryMethod, "x")
	wantStatus(t, err, codes.Unavailable, "backend #0 (String panicked): Unavailable: io: read/write on closed pipe")
}

// Panics of the director and of the detector do not end the process either.
func TestPanicInDirector(t *testing.T) {
	director := func(context.Context, string) (proxy.Mode, []proxy.Backend, error) { panic("no") }
	_, err := call(t, dialRaw(t, startProxy(t, director)), unaryMethod, "x")
	wantStatus(t, err, codes.Internal, "the director panicked")

	detector := proxy.WithStreamedDetector(func(string) bool { panic("no") })

	// The answer comes after the half-close: an earlier one would show a stream.
	got, err := call(t, fan(t, nodes(t, answer("x")), detector), unaryMethod, "x")
	if err != nil || !slices.Equal(got, []string{"a=x;"}) {
		t.Errorf("detector: got %q, %v", got, err)
	}
}

// done collects the outcomes of its node.
type done struct {
	hookNode

	mu       sync.Mutex
	outcomes []proxy.Outcome
}

func (d *done) Done(_ context.Context, o proxy.Outcome) {
	d.mu.Lock()
	defer d.mu.Unlock()

	d.outcomes = append(d.outcomes, o)
}

// Each call that a backend gets is reported once, with what became of it, before the handler returns.
func TestOutcome(t *testing.T) {
	header := func(h grpc.StreamHandler) grpc.StreamHandler {
		return func(srv any, s grpc.ServerStream) error {
			s.SetTrailer(metadata.Pairs("t", "1"))
			_ = s.SendHeader(metadata.Pairs("h", "1"))

			return h(srv, s)
		}
	}
	spoil := func(bool, []byte) ([]byte, error) { return nil, errors.New("spoiled") }

	tests := []struct {
		name       string
		handler    grpc.StreamHandler
		appendInfo func(bool, []byte) ([]byte, error)
		cancel     bool
		mode       proxy.Mode
		want       string // phase, code, requests, their bytes, responses, their bytes, header, trailer
	}{
		{"one", header(answer("12", "345")), nil, false, proxy.One2One, "0 OK 2 7 2 5 [1] [1]"},
		{"many", header(answer("12", "345")), nil, false, proxy.One2Many, "0 OK 2 7 2 5 [1] [1]"},
		{"one, failing", header(fail(codes.Aborted, "", "12")), nil, false, proxy.One2One, "0 Aborted 2 7 1 2 [1] [1]"},
		{"many, failing", header(fail(codes.Aborted, "", "12")), nil, false, proxy.One2Many, "0 Aborted 2 7 1 2 [1] [1]"},
		{"one, unconnected", nil, nil, false, proxy.One2One, "1 Unavailable 0 0 0 0 [] []"},
		{"many, unconnected", nil, nil, false, proxy.One2Many, "1 Unavailable 0 0 0 0 [] []"},
		{"many, spoiled", header(answer("12", "345")), spoil, false, proxy.One2Many, "4 Internal 2 7 1 2 [1] []"},
		{"one, cancelled", hang, nil, true, proxy.One2One, "5 Canceled 2 7 0 0 [] []"},
		{"many, cancelled", hang, nil, true, proxy.One2Many, "5 Canceled 2 7 0 0 [] []"},
	}

	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d := &done{hookNode: hookNode{node: *nodes(t, tt.handler)[0].(*node), appendInfo: tt.appendInfo}}
			ended := make(chan error, 1)
			conn := dialRaw(t, startProxy(t, func(context.Context, string) (proxy.Mode, []proxy.Backend, error) {
				return tt.mode, []proxy.Backend{d}, nil
			}, intercept(ended)))

			ctx, cancel := context.WithTimeout(context.Background(), testTimeout)
			defer cancel()

			s := openContext(t, ctx, conn, streamMethod)
			send(t, s, "1234")
			send(t, s, "567")
			_ = s.CloseSend()

			if tt.cancel {
				time.AfterFunc(100*time.Millisecond, cancel)
			}

			_, _ = collect(s)
			<-ended

			if len(d.outcomes) != 1 {
				t.Fatalf("%d outcomes", len(d.outcomes))
			}

			o := d.outcomes[0]
			if got := fmt.Sprint(int(o.Phase), " ", o.Status.Code(), " ", o.RequestMessages, " ", o.RequestBytes, " ",
				o.ResponseMessages, " ", o.ResponseBytes, " ", o.Header["h"], " ", o.Trailer["t"]); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}

			if o.Backend != "a" || o.FullMethod != streamMethod || o.Duration <= 0 || o.Duration > testTimeout {
				t.Errorf("got %+v", o)
			}

			if (o.FirstResponse > 0) != (o.ResponseMessages > 0) || o.FirstResponse > o.Duration {
				t.Errorf("first response after %v of %v", o.FirstResponse, o.Duration)
			}
		})
	}
}

// rewriting replaces the first request.
type rewriting struct {
	node
	rewrite func(first []byte) ([]byte, error)
}

func (r *rewriting) RewriteFirst(_ context.Context, method string, first []byte) ([]byte, error) {
	if method != streamMethod {
		return nil, fmt.Errorf("method %s", method)
	}

	return r.rewrite(first)
}

// Each backend may have a first request of its own; the others are not touched.
func TestRewriteFirst(t *testing.T) {
	large := strings.Repeat("x", 100_000)
	rewrites := []func([]byte) ([]byte, error){
		func(first []byte) ([]byte, error) { return append(slices.Clone(first), " for a"...), nil },
		func(first []byte) ([]byte, error) { return first, nil },
		func([]byte) ([]byte, error) { return nil, nil },
		func([]byte) ([]byte, error) { return nil, status.Error(codes.InvalidArgument, "not this") },
		func([]byte) ([]byte, error) { return nil, errors.New("not that") },
	}
	all := nodes(t, echo, echo, echo, echo, echo)

	for i, n := range all {
		all[i] = &rewriting{*n.(*node), rewrites[i]}
	}

	got, err := call(t, fan(t, all, proxy.WithStreamedDetector(byName)), streamMethod, large, "second")
	slices.Sort(got)

	want := []string{"a=" + large + " for a", "a=second", "b=" + large, "b=second", "c=", "c=second", "d!InvalidArgument", "e!Internal"}
	slices.Sort(want)

	if err != nil || !slices.Equal(got, want) {
		t.Errorf("got %.30q, %v, want %.30q", got, err, want)
	}

	one := func(b proxy.Backend) *grpc.ClientConn {
		return dialRaw(t, startProxy(t, func(context.Context, string) (proxy.Mode, []proxy.Backend, error) {
			return proxy.One2One, []proxy.Backend{b}, nil
		}))
	}

	if got, err := call(t, one(all[0]), streamMethod, "1", "2"); err != nil || !slices.Equal(got, []string{"1 for a", "2"}) {
		t.Errorf("one-to-one: got %q, %v", got, err)
	}

	_, err = call(t, one(all[3]), streamMethod, "1", "2")
	wantStatus(t, err, codes.InvalidArgument, "not this")

	if got, err := call(t, one(all[3]), streamMethod); err != nil || got != nil {
		t.Errorf("no request, nothing to rewrite: got %q, %v", got, err)
	}
}

// A director may look at the first request, and it is forwarded all the same.
func TestFirstMessage(t *testing.T) {
	all := nodes(t, echo, echo)

	var kept context.Context

	director := func(ctx context.Context, method string) (proxy.Mode, []proxy.Backend, error) {
		kept = ctx

		for range 2 { // the second time gives the same
			first, err := proxy.FirstMessage(ctx)
			if err == io.EOF {
				return 0, nil, status.Error(codes.InvalidArgument, "nothing to see")
			} else if err != nil {
				return 0, nil, err
			}

			if string(first.Bytes()) == "all" {
				return proxy.One2Many, all, nil
			}
		}

		return proxy.One2One, all[1:], nil
	}
	conn := dialRaw(t, startProxy(t, director, proxy.WithStreamedDetector(byName)))

	tests := []struct {
		requests []string
		want     string
	}{
		{[]string{"one", "two"}, "one two"},
		{[]string{""}, ""},
		{[]string{"all"}, "a=all b=all"},
	}

	for _, tt := range tests {
		got, err := call(t, conn, streamMethod, tt.requests...)
		slices.Sort(got)

		if err != nil || strings.Join(got, " ") != tt.want {
			t.Errorf("%q: got %q, %v, want %q", tt.requests, got, err, tt.want)
		}
	}

	_, err := call(t, conn, streamMethod)
	wantStatus(t, err, codes.InvalidArgument, "nothing to see")

	for _, ctx := range []context.Context{kept, context.Background()} {
		_, err = proxy.FirstMessage(ctx)
		wantStatus(t, err, codes.Internal, "FirstMessage is for directors")
	}
}

// A caller who leaves while the director waits for the first request ends that wait.
func TestFirstMessageOfNobody(t *testing.T) {
	ended := make(chan error, 1)
	conn := dialRaw(t, startProxy(t, func(ctx context.Context, _ string) (proxy.Mode, []proxy.Backend, error) {
		_, err := proxy.FirstMessage(ctx)

		return 0, nil, err
	}, intercept(ended)))

	ctx, cancel := context.WithCancel(context.Background())
	s := openContext(t, ctx, conn, streamMethod)

	time.AfterFunc(20*time.Millisecond, cancel)

	_, err := collect(s)
	wantStatus(t, err, codes.Canceled, "")
	wantStatus(t, <-ended, codes.Canceled, "")
}

// channelNode is a node over a channel that is no *grpc.ClientConn.
type channelNode struct {
	node
	channel grpc.ClientConnInterface
}

func (c *channelNode) GetChannel(ctx context.Context, _ string) (context.Context, grpc.ClientConnInterface, error) {
	return ctx, c.channel, nil
}

var _ proxy.ChannelBackend = (*channelNode)(nil)

// pool is a channel that takes its connections in turn.
type pool struct {
	mu    sync.Mutex
	conns []*grpc.ClientConn
}

func (p *pool) next() *grpc.ClientConn {
	p.mu.Lock()
	defer p.mu.Unlock()

	p.conns = append(p.conns[1:], p.conns[0])

	return p.conns[0]
}

func (p *pool) Invoke(ctx context.Context, method string, args, reply any, opts ...grpc.CallOption) error {
	return p.next().Invoke(ctx, method, args, reply, opts...)
}

func (p *pool) NewStream(ctx context.Context, desc *grpc.StreamDesc, method string, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	return p.next().NewStream(ctx, desc, method, opts...)
}

// A backend may be any channel.
func TestChannelBackend(t *testing.T) {
	p := &pool{}

	for _, name := range []string{"1", "2"} {
		p.conns = append(p.conns, dial(t, startBackend(t, func(_ any, s grpc.ServerStream) error {
			send(t, s, name)

			return echo(nil, s)
		})))
	}

	n := &channelNode{node{name: "a"}, p}

	for mode, want := range map[proxy.Mode]string{proxy.One2One: "1 x y,2 x y", proxy.One2Many: "a=1 a=x a=y,a=2 a=x a=y"} {
		conn := dialRaw(t, startProxy(t, func(context.Context, string) (proxy.Mode, []proxy.Backend, error) {
			return mode, []proxy.Backend{n}, nil
		}, proxy.WithStreamedDetector(byName)))

		var answers []string

		for range 2 {
			got, err := call(t, conn, streamMethod, "x", "y")
			if err != nil {
				t.Fatal(err)
			}

			answers = append(answers, strings.Join(got, " "))
		}

		slices.Sort(answers)

		if got := strings.Join(answers, ","); got != want {
			t.Errorf("%v: got %q, want %q", mode, got, want)
		}
	}

	_, err := call(t, fan(t, []proxy.Backend{&channelNode{node{name: "a"}, nil}}), unaryMethod, "x")
	if err != nil {
		t.Error(err)
	}
}
