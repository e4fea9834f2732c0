// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package relay_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"io"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/manifold-grpc/manifold/internal/rawpeer"
	"github.com/manifold-grpc/manifold/relay"
)

// A played backend hands over each frame that is not about the connection, and the peer to
// answer with.
type event struct {
	rawpeer.Frame
	*rawpeer.Peer
}

func played(t testing.TB) (*rawpeer.Backend, <-chan event) {
	ch := make(chan event, 10_000)
	return raw(t, frames(func(p *rawpeer.Peer, f rawpeer.Frame) error {
		switch f.Type {
		case http2.FrameHeaders, http2.FrameData, http2.FrameRSTStream, http2.FrameGoAway:
			ch <- event{f, p}
		}
		return nil
	})), ch
}

// The first octet of a message of 100 MiB is at the backend before its last was sent, and
// the relay never holds more than its windows.
func TestCutThrough(t *testing.T) {
	size := 100 << 20
	if testing.Short() || raceEnabled {
		size = 20 << 20
	}
	first := make(chan bool, 1)
	got := make(chan int, 1)
	total := 0
	b := raw(t, func(p *rawpeer.Peer) {
		p.Refill = true
		frames(func(p *rawpeer.Peer, f rawpeer.Frame) error {
			if f.Type != http2.FrameData {
				return nil
			}
			if total == 0 {
				first <- true
			}
			if total += len(f.Payload); f.End() {
				got <- total
				return p.Headers(f.StreamID, true, rawpeer.TrailersOnly("0", "")...)
			}
			return nil
		})(p)
	})
	r := start(t, rigConfig{}, b.Addr())
	c := rawDial(t, r.addr)
	check(t, c.Headers(1, false, rawpeer.Request("/a.B/C")...))
	prefix := []byte{0, byte(size >> 24), byte(size >> 16), byte(size >> 8), byte(size)}
	check(t, c.Data(1, false, append(prefix, make([]byte, 1000)...)))
	wait(t, first, "the first octet at the backend") // with all but 1000 octets unsent
	before := heap()
	var most int64
	sendLarge(t, c, size-1000, func() { most = max(most, heap()-before) })
	if n := wait(t, got, "the end at the backend"); n != size+5 {
		t.Errorf("%d octets arrived, want %d", n, size+5)
	}
	t.Logf("the heap grew by up to %d KiB for a message of %d MiB", most>>10, size>>20)
	if most > 16<<20 {
		t.Errorf("the heap grew by %d KiB", most>>10)
	}
}

// sendLarge sends n octets on stream 1 as the windows let it, calls look now and then, and
// takes the response.
func sendLarge(t *testing.T, c *rawpeer.Peer, n int, look func()) {
	t.Helper()
	conn, stream := 65535-1005, 65535-1005
	chunk := make([]byte, 16<<10)
	for step := 0; n > 0; step++ {
		for min(conn, stream) < min(n, len(chunk)) {
			f, err := c.Read()
			check(t, err)
			switch {
			case f.Type == http2.FrameWindowUpdate && f.StreamID == 0:
				conn += int(f.Increment)
			case f.Type == http2.FrameWindowUpdate:
				stream += int(f.Increment)
			}
		}
		m := min(n, len(chunk))
		n, conn, stream = n-m, conn-m, stream-m
		check(t, c.Data(1, n == 0, chunk[:m]))
		if step%1000 == 0 {
			look()
		}
	}
	must(c.Until(rawpeer.Is(http2.FrameHeaders, 1)))(t)
}

// heap returns what the process holds, without garbage.
func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapInuse + m.StackInuse)
}

func TestTrailersOnly(t *testing.T) {
	details := base64.RawStdEncoding.EncodeToString([]byte("\x08\x05\x12\x01x not even a status \xff"))
	want := rawpeer.Response("x-a", "1", "grpc-status", "5", "grpc-message", "50%25 nein%20, %E4%B8%96 ", "grpc-status-details-bin", details, "x-a", "2")
	b := raw(t, frames(func(p *rawpeer.Peer, f rawpeer.Frame) error {
		if f.Type == http2.FrameHeaders {
			return p.Headers(f.StreamID, true, want...)
		}
		return nil
	}))
	c := rawDial(t, start(t, rigConfig{}, b.Addr()).addr)
	check(t, c.Headers(1, true, rawpeer.Request("/a.B/C")...))
	f := must(c.Until(rawpeer.Is(http2.FrameHeaders, 1)))(t)
	if !f.End() || !slices.Equal(pairs(f.Fields), want) {
		t.Errorf("got %v, want %q in one frame that ends the stream", f, want)
	}
}

func pairs(fields []hpack.HeaderField) []string {
	var ps []string
	for _, f := range fields {
		ps = append(ps, f.Name, f.Value)
	}
	return ps
}

// Header blocks keep their moments, their order and every octet.
func TestResponseMoments(t *testing.T) {
	b, events := played(t)
	c := rawDial(t, start(t, rigConfig{}, b.Addr()).addr)
	check(t, c.Headers(1, false, rawpeer.Request("/a.B/C")...))
	up := wait(t, events, "the request")

	header := rawpeer.Response("x-h", "1", "x-b-bin", "AAECAw", "x-h", "2")
	check(t, up.Headers(up.StreamID, false, header...))
	f := must(c.Until(rawpeer.Is(http2.FrameHeaders, 1)))(t) // before any message, and before the request ended
	if f.End() || !slices.Equal(pairs(f.Fields), header) {
		t.Errorf("the header came as %v", f)
	}
	check(t, up.Data(up.StreamID, false, rawpeer.Message([]byte("one"))[:4])) // a part of a prefix
	f = must(c.Until(rawpeer.Is(http2.FrameData, 1)))(t)
	if len(f.Payload) != 4 {
		t.Errorf("the part of a message came as %v", f)
	}
	check(t, c.Data(1, true, rawpeer.Message([]byte("late")))) // the request's end follows the response's start
	for !wait(t, events, "the request's end").End() {
	}
	check(t, up.Data(up.StreamID, false, rawpeer.Message([]byte("one"))[4:]))
	trailer := []string{"grpc-status", "0", "x-t", "1", "x-t-bin", "/w", "x-t", "2"}
	check(t, up.Headers(up.StreamID, true, trailer...))
	f = must(c.Until(rawpeer.Is(http2.FrameHeaders, 1)))(t)
	if !f.End() || !slices.Equal(pairs(f.Fields), trailer) {
		t.Errorf("the trailer came as %v", f)
	}
}

// Interim responses stay out of gRPC; request trailers count as the end.
func TestOddBlocks(t *testing.T) {
	b, events := played(t)
	c := rawDial(t, start(t, rigConfig{}, b.Addr()).addr)
	check(t, c.Headers(1, false, rawpeer.Request("/a.B/C")...))
	up := wait(t, events, "the request")
	check(t, up.Headers(up.StreamID, false, ":status", "103", "link", "x"))
	check(t, c.Headers(1, true, "x-request-trailer", "1"))
	if f := wait(t, events, "the request's end"); f.Type != http2.FrameData || !f.End() || len(f.Payload) > 0 {
		t.Errorf("the request ended upstream by %v", f.Frame)
	}
	check(t, up.Headers(up.StreamID, true, rawpeer.TrailersOnly("0", "")...))
	if f := must(c.Until(rawpeer.Is(http2.FrameHeaders, 1)))(t); !f.End() || f.Field(":status") != "200" {
		t.Errorf("the client got %v", f)
	}
}

// A server may end a call while the client still sends: the status arrives, the
// client is told to stop (RFC 9113 section 8.1), and so is the backend's stream.
func TestEarlyEnd(t *testing.T) {
	b, events := played(t)
	c := rawDial(t, start(t, rigConfig{}, b.Addr()).addr)
	check(t, c.Headers(1, false, rawpeer.Request("/a.B/C")...))
	check(t, c.Data(1, false, rawpeer.Message([]byte("one"))))
	up := wait(t, events, "the request")
	wait(t, events, "its message")
	check(t, up.Headers(up.StreamID, true, rawpeer.TrailersOnly("7", "no more")...))
	if f := must(c.Until(rawpeer.Is(http2.FrameHeaders, 1)))(t); !f.End() || f.Field("grpc-status") != "7" {
		t.Errorf("the client got %v", f)
	}
	if f := must(c.Until(rawpeer.Is(http2.FrameRSTStream, 1)))(t); f.Code != http2.ErrCodeNo {
		t.Errorf("the client got %v, want NO_ERROR", f)
	}
	if f := wait(t, events, "the end upstream"); f.Type != http2.FrameRSTStream || f.Code != http2.ErrCodeNo {
		t.Errorf("the backend got %v, want RST_STREAM NO_ERROR", f.Frame)
	}
	check(t, c.Data(1, false, rawpeer.Message([]byte("two")))) // on its way when the end came: ignored
	check(t, c.Ping(false, [8]byte{1}))
	must(c.Until(rawpeer.Is(http2.FramePing, 0)))(t)
}

// The same through grpc-go: what a client sees whose server leaves early.
func TestEarlyEndGRPC(t *testing.T) {
	cc := dial(t, start(t, rigConfig{}, serve(t, func(_ any, st grpc.ServerStream) error {
		if _, err := recv(st); err != nil {
			return err
		}
		return status.Error(codes.OutOfRange, "enough")
	})).addr)
	st := must(cc.NewStream(within(t), bidi, "/a.B/C"))(t)
	for {
		if err := send(st, "more"); err != nil {
			if err != io.EOF {
				t.Errorf("SendMsg failed with %v, want io.EOF", err)
			}
			break
		}
	}
	if _, err := recv(st); status.Code(err) != codes.OutOfRange || status.Convert(err).Message() != "enough" {
		t.Errorf("got %v", err)
	}
}

func TestCancelByClient(t *testing.T) {
	ended := make(chan error, 1)
	cc := dial(t, start(t, rigConfig{}, serve(t, func(_ any, st grpc.ServerStream) error {
		if err := send(st, "hello"); err != nil {
			return err
		}
		<-st.Context().Done()
		ended <- st.Context().Err()
		return nil
	})).addr)
	ctx, cancel := context.WithCancel(within(t))
	st := must(cc.NewStream(ctx, bidi, "/a.B/C"))(t)
	must(recv(st))(t)
	cancel()
	if err := wait(t, ended, "the backend to see the cancel"); err != context.Canceled {
		t.Errorf("the backend saw %v", err)
	}
}

// A reset by the upstream becomes the status that gRPC maps it to, before and after the
// response began.
func TestResetByUpstream(t *testing.T) {
	tests := []struct {
		code http2.ErrCode
		want string
	}{
		{http2.ErrCodeNo, "13"},
		{http2.ErrCodeProtocol, "13"},
		{http2.ErrCodeInternal, "13"},
		{http2.ErrCodeFlowControl, "13"},
		{http2.ErrCodeStreamClosed, "13"},
		{http2.ErrCodeCancel, "1"},
		{http2.ErrCodeEnhanceYourCalm, "8"},
		{http2.ErrCodeInadequateSecurity, "7"},
		{http2.ErrCode(0x99), "13"},
	}
	b, events := played(t)
	c := rawDial(t, start(t, rigConfig{}, b.Addr()).addr)
	id := uint32(1)
	for _, tt := range tests {
		for _, began := range []bool{false, true} {
			check(t, c.Headers(id, true, rawpeer.Request("/a.B/C")...))
			up := wait(t, events, "the request")
			if began {
				check(t, up.Headers(up.StreamID, false, rawpeer.Response()...))
				must(c.Until(rawpeer.Is(http2.FrameHeaders, id)))(t)
			}
			check(t, up.Reset(up.StreamID, tt.code))
			f := must(c.Until(rawpeer.Is(http2.FrameHeaders, id)))(t)
			if !f.End() || f.Field("grpc-status") != tt.want || f.Field("grpc-message") == "" {
				t.Errorf("%v (response began: %t) became %v, want status %s", tt.code, began, f, tt.want)
			}
			id += 2
		}
	}
}

// The deadline goes up less the time spent, and is kept even if neither end does.
func TestDeadline(t *testing.T) {
	b, events := played(t)
	hold := 50 * time.Millisecond
	r := start(t, rigConfig{server: func(s *relay.Server) {
		forward := s.Route
		s.Route = func(c *relay.Call) { time.AfterFunc(hold, func() { forward(c) }) }
	}}, b.Addr())
	c := rawDial(t, r.addr)
	check(t, c.Headers(1, false, rawpeer.Request("/a.B/C", "grpc-timeout", "300m")...))
	up := wait(t, events, "the request")
	text := up.Field("grpc-timeout")
	left := must(time.ParseDuration(strings.NewReplacer("u", "us", "n", "ns", "m", "ms").Replace(text)))(t)
	if left <= 0 || left > 250*time.Millisecond {
		t.Errorf("300m less 50 ms went up as %q", text)
	}
	f := must(c.Until(rawpeer.Is(http2.FrameHeaders, 1)))(t)
	if !f.End() || f.Field("grpc-status") != "4" {
		t.Errorf("the client got %v, want DEADLINE_EXCEEDED", f)
	}
	if f := wait(t, events, "the end upstream"); f.Type != http2.FrameRSTStream || f.Code != http2.ErrCodeCancel {
		t.Errorf("the backend got %v", f.Frame)
	}
}

// grpc-go at both ends: the backend's context has the deadline.
func TestDeadlineGRPC(t *testing.T) {
	const timeout = 2 * time.Second // enough for the call to come to the backend on a busy machine
	seen := make(chan time.Duration, 1)
	cc := dial(t, start(t, rigConfig{}, serve(t, func(_ any, st grpc.ServerStream) error {
		d, _ := st.Context().Deadline()
		seen <- time.Until(d)
		<-st.Context().Done()
		return st.Context().Err()
	})).addr)
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	defer cancel()
	if _, err := unary(ctx, cc, "/a.B/C", "m"); status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("got %v", err)
	}
	if d := wait(t, seen, "the backend"); d <= 0 || d > timeout {
		t.Errorf("the backend had %v left", d)
	}
}

// Status and details arrive octet for octet, those of codes that nobody has defined too.
func TestStatusExact(t *testing.T) {
	details := []byte("\x0a\x00 raw octets, no protobuf \xff\xfe")
	cc := dial(t, start(t, rigConfig{}, serve(t, func(_ any, st grpc.ServerStream) error {
		st.SetTrailer(metadata.Pairs("x-details-bin", string(details)))
		return status.Error(codes.Code(117), "50% nein,\n世界 \x01 ")
	})).addr)
	var trailer metadata.MD
	_, err := unary(within(t), cc, "/a.B/C", "m", grpc.Trailer(&trailer))
	if st := status.Convert(err); st.Code() != 117 || st.Message() != "50% nein,\n世界 \x01 " {
		t.Errorf("got %d, %q", st.Code(), st.Message())
	}
	if !bytes.Equal([]byte(trailer["x-details-bin"][0]), details) {
		t.Errorf("details are %q", trailer["x-details-bin"])
	}
}
