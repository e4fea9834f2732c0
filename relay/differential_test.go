// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package relay_test

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/status"
)

// A view is what one end saw of a call, as lines that can be compared.
type view struct {
	mu    sync.Mutex
	lines []string
}

func (v *view) add(format string, args ...any) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.lines = append(v.lines, fmt.Sprintf(format, args...))
}

func (v *view) md(what string, md metadata.MD) {
	for _, k := range slices.Sorted(maps.Keys(md)) {
		v.add("%s %s = %q", what, k, md[k])
	}
}

func (v *view) message(i int, m string) {
	v.add("message %d: %d octets %x", i, len(m), sha256.Sum256([]byte(m)))
}

func (v *view) String() string {
	v.mu.Lock()
	defer v.mu.Unlock()
	return strings.Join(v.lines, "\n")
}

// site is a server of generated calls: the one that is called directly, or the one behind the relay.
type site struct {
	cc    *grpc.ClientConn
	seed  uint64
	views sync.Map // of the server's end: call number to *view
	done  sync.Map // call number to a channel, closed when the handler is over
}

// compressionOf tells with which compressor a request or response came.
type compressionOf struct{}

type compressionKey struct{}

func (compressionOf) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context {
	if ctx.Value(compressionKey{}) != nil {
		return ctx // a client's, which made its own
	}
	return context.WithValue(ctx, compressionKey{}, new(atomic.Pointer[string]))
}

func (compressionOf) HandleRPC(ctx context.Context, s stats.RPCStats) {
	if h, ok := s.(*stats.InHeader); ok {
		ctx.Value(compressionKey{}).(*atomic.Pointer[string]).Store(&h.Compression)
	}
}

func (compressionOf) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }
func (compressionOf) HandleConn(context.Context, stats.ConnStats)                       {}

func compression(ctx context.Context) string {
	if p := ctx.Value(compressionKey{}).(*atomic.Pointer[string]).Load(); p != nil {
		return *p
	}
	return "nothing"
}

// handle is the server's side of every generated call.
func (s *site) handle(_ any, st grpc.ServerStream) error {
	md, _ := metadata.FromIncomingContext(st.Context())
	id, err := strconv.Atoi(md["call"][0])
	if err != nil {
		return err
	}
	g, v := generate(s.seed, id), &view{}
	s.views.Store(id, v)
	done, _ := s.done.Load(id)
	defer close(done.(chan struct{}))
	method, _ := grpc.MethodFromServerStream(st)
	v.add("method %s", method)
	v.md("request", md)
	v.add("compression %s", compression(st.Context()))
	_, timed := st.Context().Deadline()
	v.add("deadline %t", timed)
	return s.answer(g, v, st)
}

// answer sends the header, plays the kind's course and ends with the status.
func (s *site) answer(g *generated, v *view, st grpc.ServerStream) error {
	if g.downBy != "" {
		if err := grpc.SetSendCompressor(st.Context(), g.downBy); err != nil {
			return err
		}
	}
	st.SetTrailer(g.trailer)
	setHeader := st.SetHeader
	if g.eager {
		setHeader = st.SendHeader
	}
	if err := setHeader(g.header); err != nil {
		return err
	}
	if err := serverCourses[g.kind](g, v, st); err != nil {
		return err
	}
	return status.ErrorProto(g.status)
}

// take receives messages up to n, or to the end if n is negative.
func take(v *view, st interface{ RecvMsg(any) error }, from, n int) error {
	for i := from; n < 0 || i < from+n; i++ {
		m, err := recv(st)
		if err == io.EOF && n < 0 {
			v.add("end after %d", i)
			return nil
		}
		if err != nil {
			return err
		}
		v.message(i, m)
	}
	return nil
}

// give sends the messages of the sizes.
func (g *generated) give(st interface{ SendMsg(any) error }, dir string, from int, sizes []int) error {
	for i, n := range sizes {
		if err := send(st, g.content(dir, from+i, n)); err != nil {
			return err
		}
	}
	return nil
}

// serverCourses are what a server does for each kind.
var serverCourses = [kinds]func(g *generated, v *view, st grpc.ServerStream) error{
	kindUnary:    serveAllThenAnswer,
	kindUpload:   serveAllThenAnswer,
	kindDownload: serveAllThenAnswer,
	kindLockstep: func(g *generated, v *view, st grpc.ServerStream) error {
		for i := range g.up {
			if err := take(v, st, i, 1); err != nil {
				return err
			}
			if err := g.give(st, "down", i, g.down[i:i+1]); err != nil {
				return err
			}
		}
		return take(v, st, len(g.up), -1)
	},
	kindUncoupled: func(g *generated, v *view, st grpc.ServerStream) error {
		sent := make(chan error, 1)
		go func() { sent <- g.give(st, "down", 0, g.down) }() // ends with its messages, or the stream
		err := take(v, st, 0, -1)
		if e := <-sent; e != nil {
			return e
		}
		return err
	},
	kindFail: func(*generated, *view, grpc.ServerStream) error { return nil },
	kindEarlyEnd: func(g *generated, v *view, st grpc.ServerStream) error {
		if err := take(v, st, 0, 1); err != nil {
			return err
		}
		return g.give(st, "down", 0, g.down)
	},
	kindCancel: func(g *generated, v *view, st grpc.ServerStream) error {
		if err := g.give(st, "down", 0, g.down); err != nil {
			return err
		}
		<-st.Context().Done()
		v.add("ended by %v", st.Context().Err())
		return nil
	},
	kindDeadline: func(_ *generated, _ *view, st grpc.ServerStream) error {
		<-st.Context().Done()
		return status.FromContextError(st.Context().Err()).Err()
	},
}

func serveAllThenAnswer(g *generated, v *view, st grpc.ServerStream) error {
	if err := take(v, st, 0, -1); err != nil {
		return err
	}
	return g.give(st, "down", 0, g.down)
}

// call makes a generated call, and returns what the client saw.
func (s *site) call(t *testing.T, g *generated) *view {
	v := &view{}
	s.done.Store(g.id, make(chan struct{}))
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	if g.timeout > 0 {
		ctx, cancel = context.WithTimeout(t.Context(), g.timeout)
	}
	defer cancel()
	ctx = metadata.NewOutgoingContext(ctx, metadata.Join(g.md, metadata.Pairs("call", strconv.Itoa(g.id))))
	ctx = context.WithValue(ctx, compressionKey{}, new(atomic.Pointer[string]))
	var opts []grpc.CallOption
	if g.upBy != "" {
		opts = append(opts, grpc.UseCompressor(g.upBy))
	}
	st, err := s.cc.NewStream(ctx, bidi, g.method, opts...)
	if err == nil {
		err = clientCourse(g, v, st, cancel)
	}
	if g.kind == kindDeadline {
		v.add("status %v", status.Code(err)) // see docs/limits.md: its text is of who was first
		return v
	}
	v.add("status %v %q", status.Code(err), status.Convert(err).Message())
	for _, d := range status.Convert(err).Proto().GetDetails() {
		v.add("detail %s %q", d.GetTypeUrl(), d.GetValue())
	}
	if st == nil || g.kind == kindCancel {
		return v
	}
	header, err := st.Header()
	v.md("header", header)
	v.add("header error %v", err)
	v.md("trailer", st.Trailer())
	v.add("compression %s", compression(ctx))
	return v
}

// clientCourse is the client's side of every kind. It returns the status that the call ended with.
func clientCourse(g *generated, v *view, st grpc.ClientStream, cancel func()) (err error) {
	if g.eager && g.kind != kindDeadline {
		header, err := st.Header() // there before anything is sent
		v.md("early header", header)
		v.add("early header error %v", err)
	}
	switch g.kind {
	case kindLockstep:
		for i := range g.up {
			g.give(st, "up", i, g.up[i:i+1]) //nolint:errcheck // the status tells
			if err := take(v, st, i, 1); err != nil {
				return err
			}
		}
		st.CloseSend() //nolint:errcheck // always nil
		err = take(v, st, len(g.up), -1)
	case kindEarlyEnd:
		sent := make(chan struct{})
		go func() { // ends with the stream
			defer close(sent)
			for i := 0; g.give(st, "up", i, []int{100}) == nil; i++ {
			}
		}()
		err = take(v, st, 0, -1)
		<-sent
	case kindCancel:
		if err = take(v, st, 0, len(g.down)); err == nil {
			cancel()
			err = take(v, st, len(g.down), -1)
		}
	default:
		sent := make(chan struct{})
		go func() { // ends with its messages, or the stream
			defer close(sent)
			g.give(st, "up", 0, g.up) //nolint:errcheck // the status tells
			st.CloseSend()            //nolint:errcheck // always nil
		}()
		if g.halfClose {
			<-sent
		}
		err = take(v, st, 0, -1)
		<-sent
	}
	return err
}

// server returns what the server saw of a call, once it is over there.
func (s *site) server(t *testing.T, id int) string {
	if done, ok := s.done.Load(id); ok {
		if _, reached := s.views.Load(id); !reached {
			return "never reached" // a deadline can be that short
		}
		select {
		case <-done.(chan struct{}):
		case <-time.After(patience):
			t.Errorf("call %d: the server's end goes on for ever", id)
		}
	}
	v, _ := s.views.Load(id)
	return v.(*view).String()
}

// newSite starts a server of generated calls; front, if not nil, starts what stands before it.
func newSite(t *testing.T, seed uint64, front func(addr string) string) *site {
	s := &site{seed: seed}
	addr := serve(t, s.handle, grpc.StatsHandler(compressionOf{}))
	if front != nil {
		addr = front(addr)
	}
	s.cc = dial(t, addr, grpc.WithAuthority("same.test"), grpc.WithStatsHandler(compressionOf{}))
	return s
}

// The same call, direct and through the relay, looks the same at both ends: 10,000 generated calls.
// What may differ is in docs/limits.md, and is left out above where it says so.
func TestDifferential(t *testing.T) {
	const seed = 20_260_117
	n := 10_000
	if raceEnabled {
		n = 400
	}
	if testing.Short() {
		n = 300
	}
	encoding.RegisterCompressor(rot{})
	direct := newSite(t, seed, nil)
	relayed := newSite(t, seed, func(addr string) string { return start(t, rigConfig{}, addr).addr })
	var next atomic.Int64
	var seen [kinds]atomic.Int64
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for !t.Failed() {
				id := int(next.Add(1))
				if id > n {
					return
				}
				g := generate(seed, id)
				seen[g.kind].Add(1)
				compare(t, g, direct, relayed)
			}
		})
	}
	wg.Wait()
	for k := range kinds {
		t.Logf("%6d %v", seen[k].Load(), k)
	}
}

func compare(t *testing.T, g *generated, direct, relayed *site) {
	want, got := direct.call(t, g).String(), relayed.call(t, g).String()
	if want != got {
		t.Errorf("call %d, %v: the client's view\n%s", g.id, g.kind, differ(want, got))
	}
	want, got = direct.server(t, g.id), relayed.server(t, g.id)
	if g.kind == kindDeadline && (want == "never reached" || got == "never reached") {
		return
	}
	if want != got {
		t.Errorf("call %d, %v: the server's view\n%s", g.id, g.kind, differ(want, got))
	}
}

// differ shows the lines that only one of two texts has.
func differ(want, got string) string {
	w, g := strings.Split(want, "\n"), strings.Split(got, "\n")
	var b strings.Builder
	for _, l := range w {
		if !slices.Contains(g, l) {
			fmt.Fprintf(&b, "direct:  %.300s\n", l)
		}
	}
	for _, l := range g {
		if !slices.Contains(w, l) {
			fmt.Fprintf(&b, "relayed: %.300s\n", l)
		}
	}
	return b.String()
}

// A generated call with a status must be able to fail the comparison: the views are not blind.
func TestDifferentialSees(t *testing.T) {
	a, b := &view{}, &view{}
	a.md("header", metadata.Pairs("k", "1"))
	b.md("header", metadata.Pairs("k", "2"))
	if d := differ(a.String(), b.String()); !strings.Contains(d, `direct:  header k = ["1"]`) || !strings.Contains(d, `relayed: header k = ["2"]`) {
		t.Errorf("the difference is %q", d)
	}
	first, again := generate(1, 1), generate(1, 1)
	if first.status.GetCode() != again.status.GetCode() || generate(1, 2).method == generate(1, 3).method {
		t.Error("generated calls do not depend on their number alone")
	}
}
