// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	collectorpb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/manifold-grpc/manifold/internal/certtest"
	"github.com/manifold-grpc/manifold/internal/sample/samplepb"
)

// collector is where spans go.
type collector struct {
	collectorpb.UnimplementedTraceServiceServer
	addr string

	mu sync.Mutex
	// Guarded by mu.
	spans    []*tracepb.Span
	resource map[string]string
	headers  metadata.MD
}

func (c *collector) Export(ctx context.Context, r *collectorpb.ExportTraceServiceRequest) (*collectorpb.ExportTraceServiceResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.headers, _ = metadata.FromIncomingContext(ctx)
	for _, of := range r.ResourceSpans {
		c.resource = attributes(of.Resource.GetAttributes())
		for _, scope := range of.ScopeSpans {
			c.spans = append(c.spans, scope.Spans...)
		}
	}

	return &collectorpb.ExportTraceServiceResponse{}, nil
}

func attributes(list []*commonpb.KeyValue) map[string]string {
	m := map[string]string{}
	for _, kv := range list {
		switch v := kv.Value.Value.(type) {
		case *commonpb.AnyValue_StringValue:
			m[kv.Key] = v.StringValue
		case *commonpb.AnyValue_IntValue:
			m[kv.Key] = fmt.Sprint(v.IntValue)
		case *commonpb.AnyValue_BoolValue:
			m[kv.Key] = fmt.Sprint(v.BoolValue)
		}
	}

	return m
}

// serveOn runs a server until the test ends.
func serveOn(t *testing.T, s *grpc.Server) string {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan struct{})
	go func() { // until Stop
		defer close(served)
		_ = s.Serve(lis) // it is stopped
	}()
	t.Cleanup(func() { s.Stop(); <-served })

	return lis.Addr().String()
}

func startCollector(t *testing.T, opts ...grpc.ServerOption) *collector {
	t.Helper()
	c := &collector{}
	s := grpc.NewServer(opts...)
	collectorpb.RegisterTraceServiceServer(s, c)
	c.addr = serveOn(t, s)

	return c
}

// ended stops the daemon, which sends what waits, and returns the spans, in the order of their names and starts.
func (c *collector) ended(t *testing.T, d *Daemon) []*tracepb.Span {
	t.Helper()
	shutdown(t, d)
	c.mu.Lock()
	defer c.mu.Unlock()
	slices.SortFunc(c.spans, func(a, b *tracepb.Span) int {
		if a.Name != b.Name {
			return -strings.Compare(a.Name, b.Name)
		}
		return int(int64(a.StartTimeUnixNano) - int64(b.StartTimeUnixNano))
	})

	return c.spans
}

// recorder is a backend that keeps the headers of its calls, and fails the first of them.
type recorder struct {
	fail int // calls to fail with UNAVAILABLE; guarded by mu
	addr string

	mu   sync.Mutex
	seen []metadata.MD // guarded by mu
}

func startRecorder(t *testing.T, fail int) *recorder {
	t.Helper()
	r := &recorder{fail: fail}
	r.addr = serveOn(t, grpc.NewServer(grpc.UnknownServiceHandler(r.handle)))

	return r
}

func (r *recorder) handle(_ any, stream grpc.ServerStream) error {
	r.mu.Lock()
	md, _ := metadata.FromIncomingContext(stream.Context())
	r.seen = append(r.seen, md)
	failing := r.fail > 0
	r.fail--
	r.mu.Unlock()
	if failing {
		return status.Error(codes.Unavailable, "not now")
	}
	for {
		if err := stream.RecvMsg(new(samplepb.EchoRequest)); err != nil {
			break
		}
	}

	return stream.SendMsg(&samplepb.EchoResponse{Text: "hi"})
}

// got returns the values of a header in each call.
func (r *recorder) got(name string) (values [][]string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, md := range r.seen {
		values = append(values, md.Get(name))
	}

	return values
}

// traceDaemon runs a daemon with the given tracing before a recorder.
func traceDaemon(t *testing.T, r *recorder, tracing string) (*Daemon, *grpc.ClientConn) {
	t.Helper()
	d := startDaemon(t, Config{Version: "v1.2.3", File: declare(t, `
frontends: [{name: public, listen: "127.0.0.1:0"}]
backends: {shop: {endpoints: ["%s"], retry: {initial_backoff: 1ms}}}
routes:
  - {match: {service: manifold.sample.v1.EchoService}, backend: shop}
  - {match: {service: denied.S}, deny: true}
%s`, r.addr, tracing)})

	return d, connectTo(t, d, "public", insecure.NewCredentials())
}

const (
	aTrace  = "4bf92f3577b34da6a3ce929d0e0e4736"
	aSpan   = "00f067aa0ba902b7"
	aParent = "00-" + aTrace + "-" + aSpan + "-01"
)

// child checks that a span is below another in the same trace.
func child(t *testing.T, of, span *tracepb.Span) {
	t.Helper()
	if string(span.TraceId) != string(of.TraceId) || string(span.ParentSpanId) != string(of.SpanId) || string(span.SpanId) == string(of.SpanId) {
		t.Errorf("%s %x in trace %x has parent %x, want %x in trace %x", span.Name, span.SpanId, span.TraceId, span.ParentSpanId, of.SpanId, of.TraceId)
	}
	if span.StartTimeUnixNano < of.StartTimeUnixNano || span.EndTimeUnixNano > of.EndTimeUnixNano || span.EndTimeUnixNano < span.StartTimeUnixNano {
		t.Errorf("%s is not within %s", span.Name, of.Name)
	}
}

// parentOf is the traceparent that has an upstream's span below s.
func parentOf(s *tracepb.Span) string {
	return "00-" + hex.EncodeToString(s.TraceId) + "-" + hex.EncodeToString(s.SpanId) + "-01"
}

func wantAttributes(t *testing.T, s *tracepb.Span, want map[string]string) {
	t.Helper()
	got := attributes(s.Attributes)
	for key, value := range want {
		if got[key] != value {
			t.Errorf("%s: %s = %q, want %q", s.Name, key, got[key], value)
		}
	}
}

// A retried call of a sampled caller has a span for itself and one for each attempt, which the backend sees as its parents.
func TestTraceOfCall(t *testing.T) {
	t.Parallel()
	c, r := startCollector(t), startRecorder(t, 1)
	d, conn := traceDaemon(t, r, `tracing: {endpoint: "`+c.addr+`", sample: 0, service_name: edge, headers: {x-key: secret}}`)
	ctx := metadata.AppendToOutgoingContext(callContext(t), "traceparent", aParent, "tracestate", "a=1,b=2")
	if _, err := echo(ctx, conn); err != nil {
		t.Fatal(err)
	}
	spans := c.ended(t, d)
	if len(spans) != 3 {
		t.Fatalf("spans: %v", spans)
	}
	call, first, second := spans[0], spans[1], spans[2]
	if hex.EncodeToString(call.TraceId) != aTrace || hex.EncodeToString(call.ParentSpanId) != aSpan || call.TraceState != "a=1,b=2" {
		t.Errorf("call: trace %x, parent %x, state %q", call.TraceId, call.ParentSpanId, call.TraceState)
	}
	child(t, call, first)
	child(t, call, second)
	if got, want := r.got("traceparent"), [][]string{{parentOf(first)}, {parentOf(second)}}; !slices.EqualFunc(got, want, slices.Equal) {
		t.Errorf("traceparent %v, want %v", got, want)
	}
	if got := r.got("tracestate"); fmt.Sprint(got) != "[[a=1,b=2] [a=1,b=2]]" {
		t.Errorf("tracestate %v", got)
	}
	const method = "manifold.sample.v1.EchoService.Echo"
	if call.Name != "Recv."+method || first.Name != "Attempt."+method || second.Name != first.Name {
		t.Errorf("names %q, %q, %q", call.Name, first.Name, second.Name)
	}
	if call.Kind != tracepb.Span_SPAN_KIND_SERVER || first.Kind != tracepb.Span_SPAN_KIND_CLIENT {
		t.Errorf("kinds %v, %v", call.Kind, first.Kind)
	}
	if call.Status.Code != tracepb.Status_STATUS_CODE_OK || first.Status.Code != tracepb.Status_STATUS_CODE_ERROR || second.Status.Code != tracepb.Status_STATUS_CODE_OK {
		t.Errorf("statuses %v, %v, %v", call.Status, first.Status, second.Status)
	}
	wantAttributes(t, call, map[string]string{
		"rpc.system.name": "grpc", "rpc.method": "manifold.sample.v1.EchoService/Echo", "rpc.response.status_code": "OK", "client.address": "127.0.0.1",
		"manifold.frontend": "public", "manifold.route": "routes[0]", "manifold.backend": "shop", "manifold.attempts": "2",
		"manifold.request.messages": "1", "manifold.request.bytes": "9", "manifold.response.messages": "1",
	})
	wantAttributes(t, first, map[string]string{
		"rpc.response.status_code": "UNAVAILABLE", "manifold.endpoint": r.addr, "previous-rpc-attempts": "0", "transparent-retry": "false",
	})
	wantAttributes(t, second, map[string]string{
		"rpc.response.status_code": "OK", "manifold.endpoint": r.addr, "previous-rpc-attempts": "1", "manifold.backend": "shop", "manifold.response.messages": "1",
	})
	if c.resource["service.name"] != "edge" || c.resource["service.version"] != "v1.2.3" || fmt.Sprint(c.headers.Get("x-key")) != "[secret]" {
		t.Errorf("resource %v, headers %v", c.resource, c.headers)
	}
}

// Who decides, and what of the caller's headers goes on.
func TestTraceDecisions(t *testing.T) {
	t.Parallel()
	const unsampled = "00-" + aTrace + "-" + aSpan + "-00"
	malformed := []string{
		"nonsense", "", aParent + "-01", "ff" + aParent[2:], strings.ToUpper(aParent), aParent[:53],
		"00-" + strings.Repeat("0", 32) + "-" + aSpan + "-01", "00-" + aTrace + "-" + strings.Repeat("0", 16) + "-01",
	}
	tests := []struct {
		name, sample string     // sample is its value, and keys after it
		parents      [][]string // of each call
		fresh        bool       // the backend gets a traceparent of another trace, and no tracestate
		kept         bool       // the backend gets what came
	}{
		{name: "caller sampled, nobody else", sample: "0", parents: [][]string{{aParent}, {"00-" + aTrace + "-" + aSpan + "-03"}, {"42-" + aTrace + "-" + aSpan + "-01-more"}}},
		{name: "caller not sampled, all others", sample: "1", parents: [][]string{{unsampled}, {unsampled[:53] + "02"}}, kept: true},
		{name: "sampled by a stranger", sample: "0, ignore_caller: true", parents: [][]string{{aParent}, {unsampled}, nil}, kept: true},
		{name: "not sampled by a stranger", sample: "1, ignore_caller: true", parents: [][]string{{unsampled}, {aParent}}},
		{name: "no parent, sampled", sample: "1", parents: [][]string{nil}, fresh: true},
		{name: "no parent, not sampled", sample: "0", parents: [][]string{nil}, kept: true},
		{name: "malformed, not sampled", sample: "0", parents: [][]string{{malformed[0]}, {malformed[2]}, {aParent, aParent}}, kept: true},
		{name: "twice, sampled", sample: "1", parents: [][]string{{aParent, aParent}}, fresh: true},
	}
	for _, m := range malformed {
		tests = append(tests, tests[4]) // no parent, sampled
		last := &tests[len(tests)-1]
		last.name, last.parents = "malformed, sampled: "+m, [][]string{{m}}
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c, r := startCollector(t), startRecorder(t, 0)
			d, conn := traceDaemon(t, r, `tracing: {endpoint: "`+c.addr+`", sample: `+tt.sample+`}`)
			for i, parents := range tt.parents {
				md := metadata.MD{"traceparent": parents, "tracestate": {"a=1", "b=2"}}
				if _, err := echo(metadata.NewOutgoingContext(callContext(t), md), conn); err != nil {
					t.Fatal(err)
				}
				got, state := r.got("traceparent")[i], r.got("tracestate")[i]
				switch {
				case tt.kept:
					if !slices.Equal(got, parents) || !slices.Equal(state, md["tracestate"]) {
						t.Errorf("backend got %q and %q of %q", got, state, md)
					}
				case len(got) != 1 || len(got[0]) != len(aParent) || strings.Contains(got[0], aSpan) || strings.Contains(got[0], aTrace) == tt.fresh:
					t.Errorf("backend got %q of %q", got, parents)
				case tt.fresh != (state == nil):
					t.Errorf("tracestate %q with a traceparent of another trace: %t", state, tt.fresh)
				}
			}
			want := 2 * len(tt.parents)
			if tt.kept {
				want = 0
			}
			spans := c.ended(t, d)
			if len(spans) != want {
				t.Errorf("%d spans, want %d", len(spans), want)
			}
			if tt.fresh && len(spans) > 0 && (len(spans[0].ParentSpanId) > 0 || spans[0].TraceState != "") {
				t.Errorf("call has parent %x, state %q", spans[0].ParentSpanId, spans[0].TraceState)
			}
		})
	}
}

// Without tracing, headers go on as they came.
func TestNoTracing(t *testing.T) {
	t.Parallel()
	r := startRecorder(t, 0)
	_, conn := traceDaemon(t, r, "")
	for i, parents := range [][]string{{aParent}, {"nonsense"}, {aParent, "x"}, nil} {
		md := metadata.MD{"traceparent": parents, "tracestate": {"a=1", "b=2"}}
		if _, err := echo(metadata.NewOutgoingContext(callContext(t), md), conn); err != nil {
			t.Fatal(err)
		}
		if got, state := r.got("traceparent")[i], r.got("tracestate")[i]; !slices.Equal(got, parents) || !slices.Equal(state, md["tracestate"]) {
			t.Errorf("backend got %q and %q, want %q", got, state, md)
		}
	}
}

// Calls that go nowhere have a span too; one without a route has no name of its caller's making.
func TestTraceOfRejectedCalls(t *testing.T) {
	t.Parallel()
	c, r := startCollector(t), startRecorder(t, 0)
	d, conn := traceDaemon(t, r, `tracing: {endpoint: "`+c.addr+`", sample: 1}`)
	for _, method := range []string{"/denied.S/M", "/made.Up/Name", "/grpc.health.v1.Health/Check"} {
		_ = conn.Invoke(callContext(t), method, &samplepb.EchoRequest{}, &samplepb.EchoResponse{}) // fails, but the last
	}
	spans := c.ended(t, d)
	if len(spans) != 2 { // nobody wants the daemon's own health traced
		t.Fatalf("spans: %v", spans)
	}
	other, denied := spans[0], spans[1]
	if other.Name != "Recv.other" || denied.Name != "Recv.denied.S.M" {
		t.Errorf("names %q, %q", other.Name, denied.Name)
	}
	wantAttributes(t, other, map[string]string{"rpc.method": "made.Up/Name", "rpc.response.status_code": "UNIMPLEMENTED", "manifold.reason": reasonNoRoute, "manifold.route": ""})
	wantAttributes(t, denied, map[string]string{"rpc.response.status_code": "PERMISSION_DENIED", "manifold.reason": reasonDenied, "manifold.route": "routes[1]"})
}

// Each target of a one-to-many call has a span, which it sees as its parent.
func TestTraceOfFanOut(t *testing.T) {
	t.Parallel()
	c := startCollector(t)
	backends := map[string]*recorder{"a": startRecorder(t, 0), "b": startRecorder(t, 0), "c": startRecorder(t, 1)}
	d := startDaemon(t, Config{File: declare(t, `
frontends: [{name: public, listen: "127.0.0.1:0"}]
backends: {all: {endpoints: {a: "%s", b: "%s", c: "%s"}}}
routes:
  - fan_out: {backend: all, policy: best-effort, carrier: envelope}
tracing: {endpoint: "%s", sample: 1}
`, backends["a"].addr, backends["b"].addr, backends["c"].addr, c.addr)})
	conn := connectTo(t, d, "public", insecure.NewCredentials())
	stream, err := conn.NewStream(callContext(t), &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, "/manifold.sample.v1.EchoService/Chat")
	if err != nil {
		t.Fatal(err)
	}
	_ = stream.CloseSend() // an error is seen below
	for err == nil {
		err = stream.RecvMsg(&emptypb.Empty{}) // which takes any message
	}
	if !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	spans := c.ended(t, d)
	if len(spans) != 4 {
		t.Fatalf("spans: %v", spans)
	}
	call := spans[0]
	wantAttributes(t, call, map[string]string{"manifold.attempts": "3", "manifold.backend": "all"})
	for _, span := range spans[1:] {
		child(t, call, span)
		name := attributes(span.Attributes)["manifold.target"]
		to := backends[name]
		if to == nil {
			t.Fatalf("target %q", name)
		}
		if got := to.got("traceparent"); fmt.Sprint(got) != "[["+parentOf(span)+"]]" {
			t.Errorf("target %s got %q, want %s", name, got, parentOf(span))
		}
		code := map[bool]string{false: "OK", true: "UNAVAILABLE"}[name == "c"]
		wantAttributes(t, span, map[string]string{"manifold.endpoint": to.addr, "rpc.response.status_code": code})
		delete(backends, name)
	}
}

// What a caller writes into its headers cannot keep the spans of others from the collector: texts of OTLP are UTF-8.
func TestTraceOfOddText(t *testing.T) {
	t.Parallel()
	c, r := startCollector(t), startRecorder(t, 0)
	d, _ := traceDaemon(t, r, `tracing: {endpoint: "`+c.addr+`", sample: 1}`)
	conn := connectTo(t, d, "public", insecure.NewCredentials(), grpc.WithAuthority("h\xffst"))
	err := conn.Invoke(callContext(t), "/made.Up/Name", &samplepb.EchoRequest{}, &samplepb.EchoResponse{})
	if status.Code(err) != codes.Unimplemented {
		t.Fatal(err)
	}
	spans := c.ended(t, d)
	if len(spans) != 1 {
		t.Fatalf("spans: %v, call: %v", spans, err)
	}
	wantAttributes(t, spans[0], map[string]string{"server.address": "h\uFFFDst"})
}

// A target that has not ended when its call is cut has no OK.
func TestTraceOfCutFanOut(t *testing.T) {
	t.Parallel()
	c, r := startCollector(t), startRecorder(t, 0)
	d := startDaemon(t, Config{File: declare(t, `
frontends: [{name: public, listen: "127.0.0.1:0"}]
backends: {all: {endpoints: {a: "%s"}}}
routes:
  - fan_out: {backend: all, carrier: envelope}
tracing: {endpoint: "%s", sample: 1}
`, r.addr, c.addr)})
	conn := connectTo(t, d, "public", insecure.NewCredentials())
	ctx, cancel := context.WithCancel(callContext(t))
	defer cancel()
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, "/manifold.sample.v1.EchoService/Chat")
	if err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(testTimeout); len(r.got("traceparent")) == 0; runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Fatal("the target was not asked")
		}
	}
	cancel()
	if err := stream.RecvMsg(&emptypb.Empty{}); status.Code(err) != codes.Canceled {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(testTimeout); d.inFlight() > 0; runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Fatal("the call does not end")
		}
	}
	spans := c.ended(t, d)
	if len(spans) != 2 {
		t.Fatalf("spans: %v", spans)
	}
	for _, span := range spans {
		wantAttributes(t, span, map[string]string{"rpc.response.status_code": "CANCELLED"})
	}
}

// The access log names the trace, of callers that do not sample too; the metrics count spans. The collector is spoken to by TLS.
func TestTraceInLogAndMetrics(t *testing.T) {
	t.Parallel()
	ca := certtest.New(t)
	pair := ca.Issue(t, "127.0.0.1")
	c := startCollector(t, grpc.Creds(credentials.NewServerTLSFromCert(&pair.Certificate)))
	r := startRecorder(t, 0)
	accessLog := filepath.Join(t.TempDir(), "access.log")
	d, conn := traceDaemon(t, r, fmt.Sprintf(`
tracing: {endpoint: "https://%s", tls: {ca: "%s"}}
access_log: {path: "%s"}
admin: {listen: "127.0.0.1:0"}
`, c.addr, ca.File, accessLog))
	for _, flags := range []string{"01", "00"} {
		ctx := metadata.AppendToOutgoingContext(callContext(t), "traceparent", aParent[:53]+flags)
		if _, err := echo(ctx, conn); err != nil {
			t.Fatal(err)
		}
	}
	addr, _ := d.AdminAddr()
	if _, text := fetch(t, "GET", "http://"+addr+"/metrics", ""); !strings.Contains(text, `manifold_tracing_spans_total{result="dropped"} 0`) {
		t.Error("no spans in the metrics")
	}
	if spans := c.ended(t, d); len(spans) != 2 {
		t.Errorf("spans: %v", spans)
	}
	text, err := os.ReadFile(accessLog)
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(text), `"trace_id":"`+aTrace+`"`); n != 2 {
		t.Errorf("the trace is %d times in %s", n, text)
	}
}
