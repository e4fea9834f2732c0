// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/manifold-grpc/manifold/internal/config"
	"github.com/manifold-grpc/manifold/internal/rawpeer"
	"github.com/manifold-grpc/manifold/relay"
)

// octets is a codec whose messages are *[]byte as they are.
type octets struct{}

func (octets) Marshal(v any) ([]byte, error)   { return *v.(*[]byte), nil }
func (octets) Unmarshal(p []byte, v any) error { *v.(*[]byte) = bytes.Clone(p); return nil }
func (octets) Name() string                    { return "octets" }

// A copyOf is a call as a echoer got it.
type copyOf struct {
	method, who string
	authority   []string
	messages    [][]byte
	err         error // io.EOF: the request was complete
}

// An echoer is a backend for all methods that echoes messages, and tells of each call.
type echoer struct {
	addr  string
	calls chan copyOf // when they have ended
	got   chan []byte // messages; full: not told
}

// startEchoer runs a backend; answer may fail a call before its first message.
func startEchoer(t *testing.T, answer func(grpc.ServerStream) error) *echoer {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &echoer{addr: lis.Addr().String(), calls: make(chan copyOf, 2000), got: make(chan []byte, 10)}
	s := grpc.NewServer(grpc.ForceServerCodec(octets{}), grpc.WaitForHandlers(true), grpc.MaxRecvMsgSize(1<<30),
		grpc.UnknownServiceHandler(func(_ any, stream grpc.ServerStream) error { return r.serve(stream, answer) }))
	served := make(chan struct{})
	go func() { // ends with Stop
		defer close(served)
		_ = s.Serve(lis) // the calls tell
	}()
	t.Cleanup(func() { s.Stop(); <-served })

	return r
}

func (r *echoer) serve(stream grpc.ServerStream, answer func(grpc.ServerStream) error) error {
	md, _ := metadata.FromIncomingContext(stream.Context())
	c := copyOf{authority: md[":authority"], who: strings.Join(md["who"], ",")}
	c.method, _ = grpc.MethodFromServerStream(stream)
	defer func() { r.calls <- c }()
	if answer != nil {
		if err := answer(stream); err != nil {
			return err
		}
	}
	for {
		var p []byte
		if c.err = stream.RecvMsg(&p); c.err != nil {
			if errors.Is(c.err, io.EOF) {
				return nil
			}
			return c.err
		}
		c.messages = append(c.messages, p)
		select {
		case r.got <- p:
		default:
		}
		if err := stream.SendMsg(&p); err != nil {
			c.err = err
			return err
		}
	}
}

// next returns the next call that ended.
func (r *echoer) next(t *testing.T) copyOf {
	t.Helper()
	select {
	case c := <-r.calls:
		return c
	case <-time.After(testTimeout):
		t.Fatal("no call")
		panic("unreachable")
	}
}

// startMirrored runs a daemon whose calls go to one address and are copied to another.
func startMirrored(t *testing.T, to, mirror, more string) (*Daemon, *grpc.ClientConn) {
	t.Helper()
	d := startDaemon(t, Config{File: declare(t, `
frontends: [{name: f, listen: "127.0.0.1:0"}]
backends: {b: {endpoints: ["%s"]}, m: {endpoints: ["%s"]}}
routes: [{backend: b, mirror: {backend: m%s}}]
admin: {listen: "127.0.0.1:0"}
`, to, mirror, more)})

	return d, connectTo(t, d, "f", insecure.NewCredentials(),
		grpc.WithDefaultCallOptions(grpc.ForceCodec(octets{}), grpc.MaxCallRecvMsgSize(1<<30)))
}

// exchange makes a call that sends messages, and reads as many when it has sent them all, or each in its turn.
func exchange(ctx context.Context, conn *grpc.ClientConn, method string, turns bool, messages ...[]byte) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, method)
	if err != nil {
		return err
	}
	read := func(want []byte) error {
		var p []byte
		if err := stream.RecvMsg(&p); err != nil {
			return err
		}
		if !bytes.Equal(p, want) {
			return fmt.Errorf("answer of %d octets, want %d", len(p), len(want))
		}
		return nil
	}
	for _, m := range messages {
		if err := stream.SendMsg(&m); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if turns {
			if err := read(m); err != nil {
				return err
			}
		}
	}
	if err := stream.CloseSend(); err != nil {
		return err
	}
	for _, m := range messages {
		if !turns {
			if err := read(m); err != nil {
				return err
			}
		}
	}
	var p []byte
	if err := stream.RecvMsg(&p); !errors.Is(err, io.EOF) {
		return fmt.Errorf("after the last answer: %w", err)
	}

	return nil
}

// The mirror gets what the backend gets, of all kinds of calls.
func TestMirrorGetsTheSame(t *testing.T) {
	b, m := startEchoer(t, nil), startEchoer(t, nil)
	_, conn := startMirrored(t, b.addr, m.addr, "")
	big := bytes.Repeat([]byte("0123456789"), 30_000)
	for _, tt := range []struct {
		name     string
		turns    bool
		messages [][]byte
	}{
		{"Unary", false, [][]byte{[]byte("one")}},
		{"Empty", false, nil},
		{"ServerStream", false, [][]byte{big}},
		{"ClientStream", false, [][]byte{[]byte("a"), big, {}, []byte("b")}},
		{"Bidi", true, [][]byte{[]byte("a"), big, {}, []byte("b"), big}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ctx := metadata.AppendToOutgoingContext(callContext(t), "who", tt.name)
			if err := exchange(ctx, conn, "/any.S/"+tt.name, tt.turns, tt.messages...); err != nil {
				t.Fatal(err)
			}
			got, want := m.next(t), b.next(t)
			if !errors.Is(got.err, io.EOF) || got.method != want.method || got.who != tt.name || !slices.Equal(got.authority, want.authority) {
				t.Errorf("mirror got %v, want %v", got, want)
			}
			if !slices.EqualFunc(got.messages, tt.messages, bytes.Equal) {
				t.Errorf("mirror got %d messages, other than were sent", len(got.messages))
			}
		})
	}
}

// Whatever the mirror answers, fails with or is, calls do not notice.
func TestMirrorFailuresAreInvisible(t *testing.T) {
	tests := map[string]struct {
		addr func(*testing.T) string
		want string // results in the metrics
	}{
		"fails": {func(t *testing.T) string {
			return startEchoer(t, func(grpc.ServerStream) error { return status.Error(codes.Internal, "mirror") }).addr
		}, "answered"},
		"answers more": {func(t *testing.T) string {
			return startEchoer(t, func(s grpc.ServerStream) error {
				p := make([]byte, 200_000)
				return errors.Join(s.SendMsg(&p), s.SendMsg(&p))
			}).addr
		}, "answered"},
		"is down": {closedPort, "dropped"},
		"resets": {func(t *testing.T) string {
			return rawBackend(t, func(p *rawpeer.Peer, f rawpeer.Frame) error {
				if f.Type == http2.FrameHeaders {
					return p.Reset(f.StreamID, http2.ErrCodeInternal)
				}
				return nil
			})
		}, "answered"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			b := startEchoer(t, nil)
			d, conn := startMirrored(t, b.addr, tt.addr(t), "")
			for range 20 {
				if err := exchange(callContext(t), conn, "/any.S/M", true, []byte("a"), []byte("b")); err != nil {
					t.Fatal(err)
				}
			}
			awaitMetric(t, d, `manifold_mirrors_total{backend="m",result="`+tt.want+`"} 20`)
		})
	}
}

// closedPort returns an address where nobody listens until the test ends: the near end of a connection has its port.
func closedPort(t *testing.T) string {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer lis.Close() //nolint:errcheck // of no use any more
	holder, err := net.Dial("tcp", lis.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = holder.Close() })

	return holder.LocalAddr().String()
}

// rawBackend runs a backend that is told of each frame, and returns its address.
func rawBackend(t *testing.T, on func(*rawpeer.Peer, rawpeer.Frame) error) string {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b := rawpeer.Serve(lis, func(p *rawpeer.Peer) {
		if p.Greet() != nil {
			return
		}
		for {
			f, err := p.Read()
			if err != nil || on(p, f) != nil {
				return
			}
		}
	})
	t.Cleanup(b.Close)

	return b.Addr()
}

// A mirror that never reads delays and fails nothing, and holds no more memory than its cap.
func TestMirrorThatNeverReads(t *testing.T) {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	hole := rawpeer.Serve(lis, func(p *rawpeer.Peer) {
		if p.Greet() == nil && p.WideOpen() == nil {
			<-stop
		}
	})
	t.Cleanup(func() { close(stop); hole.Close() })
	b := startEchoer(t, nil)
	d, conn := startMirrored(t, b.addr, hole.Addr(), "")
	const calls, most = 8, 8 * (256<<10 + 64<<10)
	part := make([]byte, 64<<10)
	done := make(chan error, calls)
	ctx := callContext(t)
	for range calls {
		go func() { // ends with its context
			messages := slices.Repeat([][]byte{part}, 64) // 4 MiB
			done <- exchange(ctx, conn, "/any.S/M", true, messages...)
		}()
	}
	look := time.NewTicker(time.Millisecond)
	defer look.Stop()
	for left := calls; left > 0; {
		select {
		case err := <-done:
			if err != nil {
				t.Error(err)
			}
			left--
		case <-look.C:
			if used := relay.DefaultBuffer.Used(); used > most+(1<<20) { // what waits for the backend itself is little
				t.Fatalf("%d octets wait", used)
			}
		}
	}
	awaitMetric(t, d, fmt.Sprintf(`manifold_mirrors_total{backend="m",result="behind"} %d`, calls))
	if used := relay.DefaultBuffer.Used(); used > 1<<20 {
		t.Errorf("%d octets wait after the calls", used)
	}
	for range 50 {
		if err := exchange(callContext(t), conn, "/any.S/M", true, []byte("a")); err != nil {
			t.Fatal(err)
		}
	}
}

// A call that its client cancels resets the mirror.
func TestMirrorOfCancelledCall(t *testing.T) {
	b, m := startEchoer(t, nil), startEchoer(t, nil)
	d, conn := startMirrored(t, b.addr, m.addr, "")
	ctx, cancel := context.WithCancel(callContext(t))
	defer cancel()
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, "/any.S/M")
	if err != nil {
		t.Fatal(err)
	}
	p := []byte("a")
	if err := stream.SendMsg(&p); err != nil {
		t.Fatal(err)
	}
	select {
	case <-m.got:
	case <-ctx.Done():
		t.Fatal("the mirror got no message")
	}
	cancel()
	if c := m.next(t); status.Code(c.err) != codes.Canceled {
		t.Errorf("mirror's call ended with %v", c.err)
	}
	awaitMetric(t, d, `manifold_mirrors_total{backend="m",result="cut"} 1`)
}

// A mirror goes on after its call, but not beyond the call's deadline.
func TestMirrorAfterItsCall(t *testing.T) {
	within(t, func(timeout time.Duration) error {
		reset := make(chan http2.ErrCode, 1)
		m := rawBackend(t, func(_ *rawpeer.Peer, f rawpeer.Frame) error {
			if f.Type == http2.FrameRSTStream {
				reset <- f.Code
			}
			return nil
		})
		b := startEchoer(t, nil)
		d, conn := startMirrored(t, b.addr, m, "")
		ctx, cancel := context.WithTimeout(t.Context(), timeout)
		defer cancel()
		if err := exchange(ctx, conn, "/any.S/M", false, []byte("a")); err != nil {
			return err
		}
		if code := receive(t, reset, 1, "a reset of the mirror")[0]; code != http2.ErrCodeCancel {
			return fmt.Errorf("mirror was reset with %v", code)
		}
		awaitMetric(t, d, `manifold_mirrors_total{backend="m",result="cut"} 1`)

		return nil
	})
}

// A share of the calls is copied.
func TestMirrorPercent(t *testing.T) {
	b, m := startEchoer(t, nil), startEchoer(t, nil)
	d, conn := startMirrored(t, b.addr, m.addr, ", percent: 50")
	for range 500 {
		if err := exchange(callContext(t), conn, "/any.S/M", false, []byte("a")); err != nil {
			t.Fatal(err)
		}
	}
	m.next(t)
	shutdown(t, d) // then no more are begun
	if n := len(m.calls) + 1; n < 240 || n > 260 {
		t.Errorf("%d of 500 calls were copied, want about 250", n)
	}
	for _, percent := range []config.Percent{0, 0.5, 50, 99, 100} {
		r := newMirrorRoute(&config.Mirror{Percent: percent}, nil)
		n := 0
		for range 10_000 {
			if r.next() {
				n++
			}
		}
		want := 10_000 / 100 * int(100*cmp.Or(percent, config.All)) / 100
		if n < want-5 || n > want+5 || want == 10_000 && n != want {
			t.Errorf("%v percent: %d of 10000, want %d", percent, n, want)
		}
	}
}

// awaitMetric waits until a line is in the metrics.
func awaitMetric(t *testing.T, d *Daemon, line string) {
	t.Helper()
	addr, _ := d.AdminAddr()
	deadline := time.Now().Add(testTimeout)
	for {
		_, text := fetch(t, http.MethodGet, "http://"+addr+"/metrics", "")
		if strings.Contains(text, "\n"+line+"\n") {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("no line %s among\n%s", line, grep(text, "manifold_mirrors"))
		}
	}
}
