// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package channel_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/manifold-grpc/manifold/relay"
)

// script is a server that does as the method says and notes what it saw of the call, by the number in its metadata.
type script struct {
	mu   sync.Mutex
	seen map[string][]string
}

func (s *script) note(number []string, format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.seen == nil {
		s.seen = make(map[string][]string)
	}
	key := strings.Join(number, "")
	s.seen[key] = append(s.seen[key], fmt.Sprintf(format, args...))
}

func (s *script) of(number string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.seen[number]
}

func (s *script) handle(_ any, st grpc.ServerStream) error {
	method, _ := grpc.MethodFromServerStream(st)
	md, _ := metadata.FromIncomingContext(st.Context())
	number := md["number"]
	for _, own := range []string{"user-agent", ":authority", "grpc-accept-encoding", "number"} {
		delete(md, own) // of another client
	}
	_, bounded := st.Context().Deadline()
	s.note(number, "%s %v %v", method, md, bounded)
	var got []string
	for {
		m := new(wrapperspb.StringValue)
		err := st.RecvMsg(m)
		if err != nil {
			s.note(number, "request ended with %v", err)
			break
		}
		got = append(got, m.Value)
		if method == "/s/early" {
			return status.Error(codes.FailedPrecondition, "early")
		}
	}
	s.note(number, "%d messages %.40q", len(got), got)
	st.SetTrailer(metadata.Pairs("t", "1", "t-bin", "\x00\x01"))
	if err := st.SendHeader(metadata.Pairs("h", "1", "h", "2", "h-bin", "\xff")); err != nil {
		return err
	}
	switch method {
	case "/s/none":
	case "/s/two", "/s/large":
		for range 2 {
			if err := st.SendMsg(wrapperspb.String(strings.Repeat("x", 200<<10))); err != nil {
				return err
			}
		}
	case "/s/fail":
		return status.Error(codes.Aborted, "it did\nnot work: 100% €")
	case "/s/hang":
		<-st.Context().Done()
		return status.FromContextError(st.Context().Err()).Err() // which may be there before the caller's own clock
	default:
		return st.SendMsg(wrapperspb.String(strings.Join(got, ",")))
	}
	return nil
}

// outcome is all that a caller sees of a call.
type outcome struct {
	result
	Options struct{ Header, Trailer metadata.MD }
	Peer    bool
	Finish  []string
	Sends   []string
}

// digest says what is in a message, in few words.
func digest(m *wrapperspb.StringValue) string {
	return fmt.Sprintf("%.20s %x", m.Value, sha256.Sum256([]byte(m.Value)))
}

// tryCall makes a call with n requests and returns what comes of it.
func tryCall(ctx context.Context, cc grpc.ClientConnInterface, desc *grpc.StreamDesc, method string, requests []string, local bool, opts ...grpc.CallOption) (o outcome) {
	var p peer.Peer
	finished := make(chan string, 2)
	opts = append(opts, grpc.Header(&o.Options.Header), grpc.Trailer(&o.Options.Trailer), grpc.Peer(&p), grpc.OnFinish(func(err error) {
		finished <- fmt.Sprint(err)
	}))
	end := func(err error) outcome {
		if err != nil && !errors.Is(err, io.EOF) {
			o.Code, o.Message = status.Code(err), status.Convert(err).Message()
		}
		o.Peer = p.Addr != nil
		select {
		case f := <-finished:
			o.Finish = append(o.Finish, f)
		case <-time.After(time.Second): // grpc-go forgets to tell of some
		}
		return o
	}
	if desc == nil {
		m := new(wrapperspb.StringValue)
		err := cc.Invoke(ctx, method, wrapperspb.String(requests[0]), m, opts...)
		o.Messages = append(o.Messages, digest(m))
		return end(err)
	}
	s, err := cc.NewStream(ctx, desc, method, opts...)
	if err != nil {
		return end(err)
	}
	for _, r := range requests {
		o.Sends = append(o.Sends, fmt.Sprint(s.SendMsg(wrapperspb.String(r))))
	}
	o.Sends = append(o.Sends, fmt.Sprint(s.CloseSend()), fmt.Sprint(s.CloseSend()))
	o.Header, _ = s.Header()
	for {
		m := new(wrapperspb.StringValue)
		if err = s.RecvMsg(m); err != nil {
			break
		}
		o.Messages = append(o.Messages, digest(m))
		if !desc.ServerStreams {
			break
		}
	}
	if !local { // grpc-go writes it without a lock where the call ended on this side
		o.Trailer = s.Trailer()
	}
	return end(err)
}

// The same call over the channel and over grpc-go's connection looks the same to caller and server.
func TestCallsAreThoseOfGRPCGo(t *testing.T) {
	var srv script
	addr := startServer(t, srv.handle)
	theirs, ours := dial(t, addr), open(t, addr, relay.EndpointConfig{})
	up, down := &grpc.StreamDesc{ClientStreams: true}, &grpc.StreamDesc{ServerStreams: true}
	md := []string{"k", "one", "k", "two", "b-bin", "\x00\xff", "user-agent", "dropped", "grpc-timeout", "dropped"}
	type opts = []grpc.CallOption
	for _, tt := range []struct {
		name     string
		desc     *grpc.StreamDesc // nil: Invoke
		method   string
		requests []string
		opts     opts
		md       []string
		local    bool // the caller ends it, and when the server learns of that is another's business
	}{
		{"unary", nil, "/s/echo", []string{"hello"}, nil, md, false},
		{"unary, empty", nil, "/s/echo", []string{""}, nil, nil, false},
		{"unary, failed", nil, "/s/fail", []string{"hello"}, nil, nil, false},
		{"unary, no answer", nil, "/s/none", []string{"hello"}, nil, nil, false},
		{"unary, two answers", nil, "/s/two", []string{"hello"}, nil, nil, true},
		{"unary, gzip", nil, "/s/echo", []string{strings.Repeat("a", 9000)}, opts{grpc.UseCompressor(gzip.Name)}, nil, false},
		{"unary, identity", nil, "/s/echo", []string{"a"}, opts{grpc.UseCompressor("identity")}, nil, false},
		{"unary, unknown compressor", nil, "/s/echo", []string{"a"}, opts{grpc.UseCompressor("odd")}, nil, true},
		{"unary, subtype", nil, "/s/echo", []string{"a"}, opts{grpc.CallContentSubtype("proto")}, nil, false},
		{"unary, unknown subtype", nil, "/s/echo", []string{"a"}, opts{grpc.CallContentSubtype("odd")}, nil, true},
		{"unary, too large to send", nil, "/s/echo", []string{"hello"}, opts{grpc.MaxCallSendMsgSize(3)}, nil, true},
		{"unary, too large to receive", nil, "/s/echo", []string{"hello"}, opts{grpc.MaxCallRecvMsgSize(3)}, nil, true},
		{"unary, gzip bomb", nil, "/s/echo", []string{strings.Repeat("a", 90000)}, opts{grpc.UseCompressor(gzip.Name), grpc.MaxCallRecvMsgSize(5000)}, nil, true},
		{"unary, bad key", nil, "/s/echo", []string{"a"}, nil, []string{"bad key", "v"}, true},
		{"unary, bad value", nil, "/s/echo", []string{"a"}, nil, []string{"key", "v\n"}, true},
		{"bidi", bidi, "/s/echo", []string{"a", "", "c"}, nil, md, false},
		{"bidi, nothing sent", bidi, "/s/echo", nil, nil, nil, false},
		{"bidi, failed", bidi, "/s/fail", []string{"a"}, nil, nil, false},
		{"bidi, gzip", bidi, "/s/echo", []string{strings.Repeat("b", 70000), "", "c"}, opts{grpc.UseCompressor(gzip.Name)}, nil, false},
		{"up", up, "/s/echo", []string{"a", "b"}, nil, md, false},
		{"up, two answers", up, "/s/two", []string{"a", "b"}, nil, nil, true},
		{"up, no answer", up, "/s/none", []string{"a"}, nil, nil, false},
		{"up, failed", up, "/s/fail", []string{"a"}, nil, nil, false},
		{"down", down, "/s/large", []string{"a"}, nil, md, false},
		{"down, sent twice", down, "/s/large", []string{"a", "b"}, nil, nil, true},
		{"down, failed", down, "/s/fail", []string{"a"}, nil, nil, false},
		{"down, no answer", down, "/s/none", []string{"a"}, nil, nil, false},
		{"ended early", down, "/s/early", []string{"a"}, nil, nil, false},
		{"malformed path", nil, "nonsense", []string{"a"}, nil, nil, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ctx := metadata.AppendToOutgoingContext(testContext(t), tt.md...)
			numbered := func(who string) context.Context {
				return metadata.AppendToOutgoingContext(ctx, "number", tt.name+who)
			}
			want := tryCall(numbered("theirs"), theirs, tt.desc, tt.method, tt.requests, tt.local, tt.opts...)
			got := tryCall(numbered("ours"), ours, tt.desc, tt.method, tt.requests, tt.local, tt.opts...)
			if w, g := srv.of(tt.name+"theirs"), srv.of(tt.name+"ours"); !tt.local && !reflect.DeepEqual(g, w) {
				t.Errorf("the server saw\n%q of the channel, of grpc-go\n%q", g, w)
			}
			if tt.local {
				if w, g := want.Finish, got.Finish; len(g) != 1 || len(w) == 1 && w[0] != g[0] {
					t.Errorf("the channel told of the end: %q, grpc-go %q", g, w)
				}
				for _, o := range []*outcome{&want, &got} {
					// What came of the response by then is a matter of time.
					o.Header, o.Options.Header, o.Options.Trailer, o.Trailer, o.Peer, o.Finish = nil, nil, nil, nil, false, nil
				}
			}
			for _, md := range []*metadata.MD{&want.Header, &want.Trailer, &got.Header, &got.Trailer, &want.Options.Header,
				&want.Options.Trailer, &got.Options.Header, &got.Options.Trailer} {
				if len(*md) == 0 {
					*md = nil
				}
			}
			if !reflect.DeepEqual(got, want) {
				t.Errorf("the channel's caller saw\n%+v, that of grpc-go\n%+v", got, want)
			}
		})
	}
}

// A call that ends by its deadline, or is cancelled, ends with the same status, and the server learns of it.
func TestEndsOfContexts(t *testing.T) {
	var srv script
	ended := make(chan error, 1)
	addr := startServer(t, func(s any, st grpc.ServerStream) error {
		err := srv.handle(s, st)
		ended <- st.Context().Err()
		return err
	})
	theirs, ours := dial(t, addr), open(t, addr, relay.EndpointConfig{})
	for _, desc := range []*grpc.StreamDesc{nil, bidi} {
		for _, deadline := range []bool{true, false} {
			t.Run(fmt.Sprintf("stream %v, deadline %v", desc != nil, deadline), func(t *testing.T) {
				var ends []codes.Code
				for _, cc := range []grpc.ClientConnInterface{theirs, ours} {
					ctx, cancel := context.WithCancel(testContext(t))
					if deadline {
						ctx, cancel = context.WithTimeout(testContext(t), 50*time.Millisecond)
					} else {
						time.AfterFunc(50*time.Millisecond, cancel)
					}
					o := tryCall(ctx, cc, desc, "/s/hang", []string{"a"}, true)
					cancel()
					if err := <-ended; err == nil {
						t.Error("the server was not told")
					}
					ends = append(ends, o.Code)
				}
				want := codes.Canceled
				if deadline {
					want = codes.DeadlineExceeded
				}
				if ends[0] != want || ends[1] != want {
					t.Errorf("grpc-go's call ended with %v, the channel's with %v, expected %v", ends[0], ends[1], want)
				}
			})
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := ours.Invoke(ctx, "/s/echo", wrapperspb.String(""), new(wrapperspb.StringValue)); status.Code(err) != codes.Canceled {
		t.Errorf("a call whose context is over ended with %v", err)
	}
}
