// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package relay_test

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/net/http2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding"
	_ "google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/manifold-grpc/manifold/internal/rawpeer"
	"github.com/manifold-grpc/manifold/relay"
)

// sizes are of messages: none, small, around a frame, around windows, large.
var (
	sizes = append(fewSizes, 1, 16<<10-5, 16<<10, 1<<20, 5<<20)

	fewSizes = []int{0, 100, 64 << 10, 300_000}
)

func TestUnary(t *testing.T) {
	cc := dial(t, start(t, rigConfig{}, serve(t, echo)).addr)
	for _, n := range sizes {
		in := strings.Repeat("x", n)
		out, err := unary(within(t), cc, "/a.B/C", in)
		if err != nil || out != in {
			t.Errorf("%d octets: %d came back, %v", n, len(out), err)
		}
	}
}

func TestClientStreaming(t *testing.T) {
	cc := dial(t, start(t, rigConfig{}, serve(t, func(_ any, st grpc.ServerStream) error {
		var sum []string
		for {
			m, err := recv(st)
			if err == io.EOF {
				return send(st, strings.Join(sum, ","))
			}
			if err != nil {
				return err
			}
			sum = append(sum, fmt.Sprint(len(m)))
		}
	})).addr)
	st := must(cc.NewStream(within(t), bidi, "/a.B/C"))(t)
	var want []string
	for _, n := range sizes {
		check(t, send(st, strings.Repeat("x", n)))
		want = append(want, fmt.Sprint(n))
	}
	check(t, st.CloseSend())
	if got := must(recv(st))(t); got != strings.Join(want, ",") {
		t.Errorf("the backend saw %s, want %s", got, want)
	}
	if _, err := recv(st); err != io.EOF {
		t.Error(err)
	}
}

func TestServerStreaming(t *testing.T) {
	cc := dial(t, start(t, rigConfig{}, serve(t, func(_ any, st grpc.ServerStream) error {
		m, err := recv(st)
		for i := 0; err == nil && i < len(sizes); i++ {
			err = send(st, strings.Repeat(m, sizes[i]))
		}
		return err
	})).addr)
	st := must(cc.NewStream(within(t), bidi, "/a.B/C"))(t)
	check(t, send(st, "y"))
	check(t, st.CloseSend())
	for _, n := range sizes {
		if got := must(recv(st))(t); got != strings.Repeat("y", n) {
			t.Errorf("a message of %d octets came as %d", n, len(got))
		}
	}
	if _, err := recv(st); err != io.EOF {
		t.Error(err)
	}
}

func TestBidi(t *testing.T) {
	cc := dial(t, start(t, rigConfig{}, serve(t, echo)).addr)
	st := must(cc.NewStream(within(t), bidi, "/a.B/C"))(t)
	for i := range 1000 {
		in := strings.Repeat(string(rune('a'+i%26)), i)
		check(t, send(st, in))
		if out := must(recv(st))(t); out != in {
			t.Fatalf("message %d came back as %.20q", i, out)
		}
	}
	check(t, st.CloseSend())
	if _, err := recv(st); err != io.EOF {
		t.Error(err)
	}
}

// Both sides may send as fast as they can without looking at each other.
func TestBidiUncoupled(t *testing.T) {
	const messages = 500
	cc := dial(t, start(t, rigConfig{}, serve(t, func(_ any, st grpc.ServerStream) error {
		sent := make(chan error, 1)
		go func() { // ends with its messages, or the stream
			for i := range messages {
				if err := send(st, strings.Repeat("s", i*20)); err != nil {
					sent <- err
					return
				}
			}
			sent <- nil
		}()
		for i := range messages {
			if m, err := recv(st); err != nil || len(m) != i*30 {
				return fmt.Errorf("message %d has %d octets, %w", i, len(m), err)
			}
		}
		return <-sent
	})).addr)
	st := must(cc.NewStream(within(t), bidi, "/a.B/C"))(t)
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		for i := range messages {
			if err := send(st, strings.Repeat("c", i*30)); err != nil {
				t.Error(err)
			}
		}
		st.CloseSend() //nolint:errcheck // always nil
	})
	for i := range messages {
		if m := must(recv(st))(t); len(m) != i*20 {
			t.Fatalf("message %d has %d octets", i, len(m))
		}
	}
	if _, err := recv(st); err != io.EOF {
		t.Error(err)
	}
}

func TestMetadata(t *testing.T) {
	sent := metadata.Pairs("x-a", "1", "x-a", "2", "x-utf-bin", "世界\x00\xff", "x-space", " a ", "x-empty", "", "x-long", strings.Repeat("l", 4000))
	seen := make(chan metadata.MD, 1)
	cc := dial(t, start(t, rigConfig{}, serve(t, func(_ any, st grpc.ServerStream) error {
		md, _ := metadata.FromIncomingContext(st.Context())
		seen <- md
		st.SetHeader(sent)  //nolint:errcheck // the client sees
		st.SetTrailer(sent) //nolint:errcheck // likewise
		return echo(nil, st)
	})).addr)
	var header, trailer metadata.MD
	_, err := unary(metadata.NewOutgoingContext(within(t), sent), cc, "/a.B/C", "m", grpc.Header(&header), grpc.Trailer(&trailer))
	check(t, err)
	for where, got := range map[string]metadata.MD{"request": <-seen, "header": header, "trailer": trailer} {
		for key, want := range sent {
			if !slices.Equal(got[key], want) {
				t.Errorf("%s: %s is %q, want %q", where, key, got[key], want)
			}
		}
	}
}

func TestContentSubtypes(t *testing.T) {
	addr := serve(t, func(_ any, st grpc.ServerStream) error {
		md, _ := metadata.FromIncomingContext(st.Context())
		return send(st, md.Get("content-type")[0])
	})
	r := start(t, rigConfig{}, addr)
	for _, subtype := range []string{"proto", "json", "x.y-z", "thrift+v2"} {
		var header metadata.MD
		cc := dial(t, r.addr, grpc.WithDefaultCallOptions(grpc.ForceCodec(octets{subtype})))
		out := must(unary(within(t), cc, "/a.B/C", "m", grpc.Header(&header)))(t)
		if want := "application/grpc+" + subtype; out != want || !slices.Equal(header["content-type"], []string{want}) {
			t.Errorf("%s went up as %q and came back as %q", subtype, out, header["content-type"])
		}
	}
}

// rot is a compression that only the two ends know.
type rot struct{}

func (rot) Name() string                                 { return "rot" }
func (rot) Compress(w io.Writer) (io.WriteCloser, error) { return rotWriter{w}, nil }
func (rot) Decompress(r io.Reader) (io.Reader, error)    { return rotReader{r}, nil }
func (r rotReader) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	rotate(p[:n], 1)
	return n, err
}
func (w rotWriter) Write(p []byte) (int, error) {
	q := bytes.Clone(p)
	rotate(q, 255)
	return w.w.Write(q)
}
func (rotWriter) Close() error { return nil }
func rotate(p []byte, by byte) {
	for i := range p {
		p[i] += by
	}
}

type (
	rotReader struct{ r io.Reader }
	rotWriter struct{ w io.Writer }
)

func TestCompression(t *testing.T) {
	encoding.RegisterCompressor(rot{})
	cc := dial(t, start(t, rigConfig{}, serve(t, echo)).addr)
	for _, name := range []string{"gzip", "rot"} {
		for _, n := range fewSizes {
			in := strings.Repeat("compressible ", n/13)
			var header metadata.MD
			out, err := unary(within(t), cc, "/a.B/C", in, grpc.UseCompressor(name), grpc.Header(&header))
			if err != nil || out != in {
				t.Errorf("%s, %d octets: %d came back, %v", name, len(in), len(out), err)
			}
		}
	}
}

// A compression that nobody here knows goes through bit by bit, both ways, with all
// that is said of it.
func TestUnknownCompression(t *testing.T) {
	request := append([]byte{1}, rawpeer.Message([]byte("\x00\xff squeezed"))[1:]...)
	answer := append([]byte{1}, rawpeer.Message([]byte("squeezed too"))[1:]...)
	seen := make(chan rawpeer.Frame, 2)
	b := raw(t, frames(func(p *rawpeer.Peer, f rawpeer.Frame) error {
		switch f.Type {
		case http2.FrameHeaders:
			seen <- f
		case http2.FrameData:
			seen <- f
			p.Headers(f.StreamID, false, rawpeer.Response("grpc-encoding", "x-late", "grpc-accept-encoding", "x-late,x-more")...)
			p.Data(f.StreamID, false, answer)
			return p.Headers(f.StreamID, true, "grpc-status", "0")
		}
		return nil
	}))
	c := rawDial(t, start(t, rigConfig{}, b.Addr()).addr)
	check(t, c.Headers(1, false, rawpeer.Request("/a.B/C", "grpc-encoding", "x-early", "grpc-accept-encoding", "x-early,x-more")...))
	check(t, c.Data(1, true, request))
	head, data := wait(t, seen, "the request"), wait(t, seen, "its message")
	if head.Field("grpc-encoding") != "x-early" || head.Field("grpc-accept-encoding") != "x-early,x-more" || !bytes.Equal(data.Payload, request) {
		t.Errorf("upstream got %v and %q", head, data.Payload)
	}
	head = must(c.Until(rawpeer.Is(http2.FrameHeaders, 1)))(t)
	data = must(c.Until(rawpeer.Is(http2.FrameData, 1)))(t)
	if head.Field("grpc-encoding") != "x-late" || head.Field("grpc-accept-encoding") != "x-late,x-more" || !bytes.Equal(data.Payload, answer) {
		t.Errorf("the client got %v and %q", head, data.Payload)
	}
}

// Each call of one client connection goes to the next endpoint.
func TestRoundRobin(t *testing.T) {
	r := start(t, rigConfig{}, serve(t, named("a")), serve(t, named("b")), serve(t, named("c")))
	cc := dial(t, r.addr)
	got := map[string]int{}
	for range 300 {
		var header metadata.MD
		must(unary(within(t), cc, "/a.B/C", "m", grpc.Header(&header)))(t)
		got[header["backend"][0]]++
	}
	if got["a"] != 100 || got["b"] != 100 || got["c"] != 100 {
		t.Errorf("300 calls went to %v", got)
	}
	if n := r.Connections(); n != 1 {
		t.Errorf("the client has %d connections", n)
	}
}

// Pick replaces round robin, and may find none good enough.
func TestPick(t *testing.T) {
	r := start(t, rigConfig{server: func(s *relay.Server) {}}, serve(t, named("a")), serve(t, named("b")))
	r.backend.Pick = func(c *relay.Call, candidates []*relay.Endpoint) *relay.Endpoint {
		if i, ok := c.Header("x-pick"); ok {
			return candidates[i[0]-'0']
		}
		return nil
	}
	cc := dial(t, r.addr)
	for i, want := range []string{"a", "b"} {
		var header metadata.MD
		ctx := metadata.AppendToOutgoingContext(within(t), "x-pick", fmt.Sprint(i))
		must(unary(ctx, cc, "/a.B/C", "m", grpc.Header(&header)))(t)
		if header["backend"][0] != want {
			t.Errorf("pick %d went to %v", i, header)
		}
	}
	if _, err := unary(within(t), cc, "/a.B/C", "m"); status.Code(err) != codes.Unavailable {
		t.Errorf("a call that no endpoint fits got %v", err)
	}
}
