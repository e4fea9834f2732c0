// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package relay_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/manifold-grpc/manifold/fanout"
	"github.com/manifold-grpc/manifold/internal/rawpeer"
	"github.com/manifold-grpc/manifold/relay"
)

// answeringWith answers every request that has ended with a header block, octets, and trailers.
func answeringWith(head []string, body []byte, trailers ...string) func(*rawpeer.Peer) {
	return frames(func(p *rawpeer.Peer, f rawpeer.Frame) error {
		if !f.End() {
			return nil
		}
		if err := p.Headers(f.StreamID, false, append(rawpeer.Response(), head...)...); err != nil {
			return err
		}
		if err := p.Data(f.StreamID, false, body); err != nil {
			return err
		}
		return p.Headers(f.StreamID, true, append([]string{"grpc-status", "0"}, trailers...)...)
	})
}

func zipped(text string) []byte {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	w.Write([]byte(text)) //nolint:errcheck // to memory
	w.Close()             //nolint:errcheck // likewise
	m := rawpeer.Message(b.Bytes())
	m[0] = 1
	return m
}

// What targets may send that cannot be joined as it is: compressed messages are inflated, or the target fails; so it does
// with what is no message, no gRPC, or not whole.
func TestFanOdd(t *testing.T) {
	good := rawpeer.Message([]byte("m"))
	flagged := rawpeer.Message([]byte("m"))
	flagged[0] = 2
	deflated := rawpeer.Message([]byte("m"))
	deflated[0] = 1
	tests := []struct {
		name string
		play func(*rawpeer.Peer)
		want string
	}{
		{"plain", answeringWith(nil, good), "<a:m>"},
		{"two messages", answeringWith(nil, append(slices.Clone(good), good...)), "<a:m><a:m>"},
		{"no message", answeringWith(nil, nil), ""},
		{"an empty message", answeringWith(nil, make([]byte, 5)), "<a:>"},
		{"gzip", answeringWith([]string{"grpc-encoding", "gzip"}, zipped("zipped")), "<a:zipped>"},
		{"a bomb", answeringWith([]string{"grpc-encoding", "gzip"}, zipped(strings.Repeat("z", 2000))), "<a!ResourceExhausted>"},
		{"no gzip", answeringWith([]string{"grpc-encoding", "gzip"}, deflated), "<a!Internal>"},
		{"deflate", answeringWith([]string{"grpc-encoding", "deflate"}, deflated), "<a!Internal>"},
		{"a flag that is not", answeringWith(nil, flagged), "<a!Internal>"},
		{"cut short", answeringWith(nil, good[:4]), "<a!Internal>"},
		{"a length that is too much", answeringWith(nil, []byte{0, 0xff, 0xff, 0xff, 0xff}), "<a!ResourceExhausted>"},
		{"spoiled by the annotator", answeringWith(nil, rawpeer.Message([]byte("spoil"))), "<a!Internal>"},
		{"a panic of the annotator", answeringWith(nil, rawpeer.Message([]byte("panic"))), "<a!Internal>"},
		{"HTTP 503", frames(func(p *rawpeer.Peer, f rawpeer.Frame) error {
			if !f.End() {
				return nil
			}
			return p.Headers(f.StreamID, true, ":status", "503", "content-type", "text/html")
		}), "<a!Unavailable>"},
		{"no trailers", frames(func(p *rawpeer.Peer, f rawpeer.Frame) error {
			if !f.End() {
				return nil
			}
			if err := p.Headers(f.StreamID, false, rawpeer.Response()...); err != nil {
				return err
			}
			return p.Data(f.StreamID, true, good)
		}), "<a!Internal>"},
		{"reset", frames(func(p *rawpeer.Peer, f rawpeer.Frame) error {
			if !f.End() {
				return nil
			}
			return p.Reset(f.StreamID, http2.ErrCodeEnhanceYourCalm)
		}), "<a!ResourceExhausted>"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cfg := &relay.FanOut{Policy: fanout.BestEffort(), Limits: relay.FanLimits{TargetBytes: 1000}}
			f := fan(t, cfg, rigConfig{}, raw(t, tt.play).Addr(), serve(t, answers("m")))
			out, err := unary(within(t), dial(t, f.addr), "/a.B/C", "x")
			if err != nil || out != tt.want+"<b:m>" {
				t.Errorf("%q, %v, want %q", out, err, tt.want+"<b:m>")
			}
		})
	}
}

// A request with gzip reaches all targets as it is, and grpc-go's answers in gzip are joined plain.
func TestFanCompressedRequest(t *testing.T) {
	f := fan(t, &relay.FanOut{}, rigConfig{}, serve(t, echo), serve(t, echo))
	cc := dial(t, f.addr)
	for range 10 {
		out, err := unary(within(t), cc, "/a.B/C", strings.Repeat("z", 300), grpc.UseCompressor("gzip"))
		if want := "<a:" + strings.Repeat("z", 300) + "><b:" + strings.Repeat("z", 300) + ">"; err != nil || out != want {
			t.Fatalf("%q, %v", out, err)
		}
	}
}

// Headers and trailers of all targets are passed on in their order, within a bound, and asked for without compression.
func TestFanMetadata(t *testing.T) {
	with := func(name string) grpc.StreamHandler {
		return func(srv any, st grpc.ServerStream) error {
			md, _ := metadata.FromIncomingContext(st.Context())
			st.SetTrailer(metadata.Pairs("t-name", name, "t-bin", "\x00"+name, "t-asked", strings.Join(md.Get("x-ask"), ",")))
			if err := st.SetHeader(metadata.Pairs("h-name", name, "h-big", strings.Repeat("b", 1000))); err != nil {
				return err
			}
			return answers("m")(srv, st)
		}
	}
	f := fan(t, &relay.FanOut{Limits: relay.FanLimits{MetadataBytes: 2500}}, rigConfig{}, serve(t, with("1")), serve(t, with("2")), serve(t, with("3")))
	var header, trailer metadata.MD
	ctx := metadata.AppendToOutgoingContext(within(t), "x-ask", "me")
	if _, err := unary(ctx, dial(t, f.addr), "/a.B/C", "x", grpc.Header(&header), grpc.Trailer(&trailer)); err != nil {
		t.Fatal(err)
	}
	if got := header.Get("h-name"); len(header.Get("h-big")) != 2 || len(got) < 2 || !slices.Equal(got[:2], []string{"1", "2"}) {
		t.Errorf("headers %q and %d large ones", got, len(header.Get("h-big")))
	}
	if got := trailer.Get("t-name"); !slices.Equal(got, []string{"1", "2", "3"}) || trailer.Get("t-bin")[2] != "\x003" || trailer.Get("t-asked")[0] != "me" {
		t.Errorf("trailers %q", trailer)
	}
	if ct := header.Get("content-type"); !slices.Equal(ct, []string{"application/grpc+octets"}) {
		t.Errorf("content-type %q", ct)
	}
}

// A target whose name leads nowhere says that it is that.
func TestFanUnresolved(t *testing.T) {
	f := fan(t, &relay.FanOut{Policy: fanout.Any(), Summary: true}, rigConfig{}, serve(t, answers("m")))
	f.targets = append([]relay.Target{{Name: "x", Backend: &relay.Backend{Choose: func(*relay.Call) (*relay.Endpoint, error) {
		return nil, &relay.Refusal{Code: codes.Unavailable, Reason: relay.ReasonNoEndpoint, Message: "no such host", Unresolved: true}
	}}}}, f.targets...)
	_, st, trailer := collect(within(t), t, dial(t, f.addr), "x")
	if got := report(t, trailer); st.Code() != codes.OK || got != "x:resolve:Unavailable a:complete:OK" {
		t.Errorf("%v, outcomes %s", st, got)
	}
}

// A report leaves the trailer within what peers take, beside long messages, details and trailers of targets.
func TestFanReportFits(t *testing.T) {
	long := func(_ any, st grpc.ServerStream) error {
		st.SetTrailer(metadata.Pairs("t", strings.Repeat("t", 200)))
		return must(status.New(codes.Aborted, strings.Repeat("long ", 50)).WithDetails(wrapperspb.String(strings.Repeat("d", 100))))(t).Err()
	}
	addrs := make([]string, 10)
	for i := range addrs {
		addrs[i] = serve(t, long)
	}
	f := fan(t, &relay.FanOut{Policy: fanout.Any(), Summary: true}, rigConfig{}, addrs...)
	_, st, trailer := collect(within(t), t, dial(t, f.addr), "x")
	if r := must(fanout.ReadTrailer(trailer))(t); st.Code() != codes.Aborted || r.GetFailed() != 10 {
		t.Errorf("%v, report %v", st.Code(), r)
	}
	size := len("grpc-message") + 32 + len(st.Message())
	for key, values := range trailer {
		for _, v := range values {
			if strings.HasSuffix(key, "-bin") {
				v = base64.RawStdEncoding.EncodeToString([]byte(v))
			}
			size += len(key) + 32 + len(v)
		}
	}
	if size > 8<<10 {
		t.Errorf("the trailer has %d octets", size)
	}
}

// A target that provably did nothing is tried again, with all of the request, and others are not bothered.
func TestFanRetry(t *testing.T) {
	var refused atomic.Int32
	refuser, requests := collecting(t, func(p *rawpeer.Peer, f rawpeer.Frame) bool {
		if !f.End() || refused.Add(1) > 3 {
			return false
		}
		p.Reset(f.StreamID, http2.ErrCodeRefusedStream) //nolint:errcheck // the test ends by it
		return true
	})
	var calls atomic.Int32
	f := fan(t, &relay.FanOut{}, rigConfig{}, refuser.Addr(), serve(t, func(srv any, st grpc.ServerStream) error {
		calls.Add(1)
		return answers("m")(srv, st)
	}))
	done := make(chan string, 1)
	go func() { // ends with the call
		out, err := unary(within(t), dial(t, f.addr), "/a.B/C", "the request")
		done <- fmt.Sprint(out, err)
	}()
	up := wait(t, requests, "the request that is not refused")
	if string(up.body) != string(rawpeer.Message([]byte("the request"))) {
		t.Errorf("the last attempt brought %q", up.body)
	}
	check(t, up.Headers(up.StreamID, false, rawpeer.Response()...))
	check(t, up.Data(up.StreamID, false, rawpeer.Message([]byte("n"))))
	check(t, up.Headers(up.StreamID, true, "grpc-status", "0"))
	if out := wait(t, done, "the answer"); out != "<a:n><b:m><nil>" {
		t.Errorf("got %s", out)
	}
	s := wait(t, f.stats, "the stats")
	if s.Targets[0].Attempts != 4 || s.Targets[1].Attempts != 1 || s.Attempts != 5 || calls.Load() != 1 {
		t.Errorf("attempts %d and %d, %d calls", s.Targets[0].Attempts, s.Targets[1].Attempts, calls.Load())
	}
}

// Caps of a call name themselves.
func TestFanCaps(t *testing.T) {
	big := answers(strings.Repeat("b", 3000))
	f := fan(t, &relay.FanOut{Policy: fanout.BestEffort(), Limits: relay.FanLimits{MergedBytes: 8000}}, rigConfig{}, serve(t, big), serve(t, big), serve(t, big))
	_, err := unary(within(t), dial(t, f.addr), "/a.B/C", "x")
	if status.Code(err) != codes.ResourceExhausted || !strings.Contains(err.Error(), "8000 bytes (MergedBytes)") {
		t.Errorf("over MergedBytes: %v", err)
	}
	g := fan(t, &relay.FanOut{Limits: relay.FanLimits{Targets: 1}}, rigConfig{}, f.backend.Endpoints[0].Addr(), f.backend.Endpoints[1].Addr())
	_, err = unary(within(t), dial(t, g.addr), "/a.B/C", "x")
	if status.Code(err) != codes.ResourceExhausted || !strings.Contains(err.Error(), "call to 2 targets, at most 1 allowed") {
		t.Errorf("over Targets: %v", err)
	}
	if n := f.Buffered() + g.Buffered(); n != 0 {
		t.Errorf("%d octets are held after the calls", n)
	}
}

// Calls wait for streams of a target that has few, each within the connect timeout.
func TestFanQueue(t *testing.T) {
	f := fan(t, &relay.FanOut{}, rigConfig{endpoint: relay.EndpointConfig{MaxConnections: 1}},
		serve(t, answers("m"), grpc.MaxConcurrentStreams(2)), serve(t, answers("m")))
	cc := dial(t, f.addr)
	errs := make(chan error)
	for range 50 {
		go func() { // ends with the call
			out, err := unary(within(t), cc, "/a.B/C", "x")
			if err == nil && out != "<a:m><b:m>" {
				err = errors.New(out)
			}
			errs <- err
		}()
	}
	for range 50 {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
}

// A thousand calls at once over a hundred endpoints, ten of which are dead: no answer of a healthy one is lost, the dead
// are reported at once, and nothing is held in the end.
func TestFanThousand(t *testing.T) {
	if testing.Short() {
		t.Skip("90,000 calls")
	}
	const endpoints, calls, atOnce = 100, 1000, 1000
	// All answers of all calls take 90,000 times 210 octets, and each answer that is joined as much again on its way out.
	const budget = 48 << 20
	// grpc-go's servers reset connections whose other end takes nothing for 20 s (TCP_USER_TIMEOUT), as may be on a busy machine.
	patient := grpc.KeepaliveParams(keepalive.ServerParameters{Timeout: 8 * time.Minute})
	text := strings.Repeat("m", 200)
	waiting := relay.NewBuffer(8 << 20)
	var f *fanRig
	var held peak
	var addrs []string
	var want strings.Builder
	for i := range endpoints {
		if i%10 == 7 {
			addrs = append(addrs, vacant(t))
			fmt.Fprintf(&want, "<%s!Unavailable>", targetName(i))
			continue
		}
		addrs = append(addrs, serve(t, func(srv any, st grpc.ServerStream) error {
			held.look(f.Server) // with 90,000 calls, at all times
			return answers(text)(srv, st)
		}, patient))
		fmt.Fprintf(&want, "<%s:%s>", targetName(i), text)
	}
	cfg := &relay.FanOut{Policy: fanout.BestEffort()}
	f = fan(t, cfg, rigConfig{
		// No keepalive: on a busy machine 90,000 calls may be before an answer.
		endpoint: relay.EndpointConfig{BackoffBase: time.Minute, BackoffMax: time.Minute, Buffer: waiting, KeepaliveTime: -1},
		server:   func(s *relay.Server) { s.Limits.Buffer = budget },
	}, addrs...)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	var wg sync.WaitGroup
	var made atomic.Int32
	for range 10 {
		cc := dial(t, f.addr)
		for range atOnce / 10 {
			wg.Go(func() {
				for made.Add(1) <= calls {
					ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
					out, err := unary(ctx, cc, "/a.B/C", "x")
					cancel()
					if err != nil || out != want.String() {
						t.Errorf("%v, %d octets", err, len(out))
						return
					}
				}
			})
		}
	}
	wg.Wait()
	runtime.ReadMemStats(&after)
	t.Logf("at most %d KiB were held, at most %d are allowed; the heap has %d KiB from the system, %d KiB more than before", held.octets.Load()>>10, budget>>10, after.HeapSys>>10, (after.HeapSys-before.HeapSys)>>10)
	if n := held.octets.Load(); n == 0 || n > budget {
		t.Errorf("%d octets were held, at most %d are allowed", n, budget)
	}
	for range calls {
		s := wait(t, f.stats, "the stats")
		for _, o := range s.Targets {
			if dead := o.Index%10 == 7; dead != (o.Status.Code() == codes.Unavailable) || dead && o.Attempts != 0 {
				t.Fatalf("%s: %v after %d attempts", o.Name, o.Status, o.Attempts)
			}
		}
	}
	if n := f.Buffered(); n != 0 {
		t.Errorf("%d octets are held", n)
	}
	for _, e := range f.backend.Endpoints {
		if n := e.InFlight(); n != 0 {
			t.Errorf("%d calls left at %s", n, e.Addr())
		}
	}
}

// vacant returns an address that refuses connections until the test ends: the near end of a connection has its
// port, so that nobody else can get it and listen.
func vacant(t *testing.T) string {
	l := must(net.Listen("tcp", "127.0.0.1:0"))(t)
	defer l.Close()
	holder := must(net.Dial("tcp", l.Addr().String()))(t)
	t.Cleanup(func() { holder.Close() })
	return holder.LocalAddr().String()
}
