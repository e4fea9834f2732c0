// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package tracing

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	collectorpb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/manifold-grpc/manifold/relay"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// collector answers exports as export says.
type collector struct {
	collectorpb.UnimplementedTraceServiceServer
	export func(ctx context.Context, spans int) error
}

func (c *collector) Export(ctx context.Context, r *collectorpb.ExportTraceServiceRequest) (*collectorpb.ExportTraceServiceResponse, error) {
	n := 0
	for _, of := range r.ResourceSpans {
		for _, scope := range of.ScopeSpans {
			n += len(scope.Spans)
		}
	}

	return &collectorpb.ExportTraceServiceResponse{}, c.export(ctx, n)
}

func startCollector(t *testing.T, export func(ctx context.Context, spans int) error) (addr string) {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	collectorpb.RegisterTraceServiceServer(s, &collector{export: export})
	served := make(chan struct{})
	go func() { // until Stop
		defer close(served)
		_ = s.Serve(lis) // it is stopped
	}()
	t.Cleanup(func() { s.Stop(); <-served })

	return lis.Addr().String()
}

func open(t *testing.T, cfg Config) *Tracer {
	t.Helper()
	tracer, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}

	return tracer
}

// spans makes so many.
func (t *Tracer) spans(n int) {
	for range n {
		_, span := t.tracer.Start(context.Background(), "x")
		span.End()
	}
}

// A collector that hangs fills the queue and nothing else: what does not fit is dropped and counted, and Close ends
// all the same.
func TestCollectorHangs(t *testing.T) {
	t.Parallel()
	asked := make(chan struct{}, 64)
	addr := startCollector(t, func(ctx context.Context, _ int) error {
		asked <- struct{}{}
		<-ctx.Done()
		return ctx.Err()
	})
	tracer := open(t, Config{Endpoint: addr, Flush: time.Millisecond})
	tracer.spans(batchSize)
	<-asked // the first batch is on its way, and still counts as waiting
	tracer.spans(queueSize - batchSize + 77)
	if s := tracer.Stats(); s != (Stats{Dropped: 77}) {
		t.Errorf("%+v, want 77 dropped", s)
	}
	tracer.Close()
	if s := tracer.Stats(); s != (Stats{Dropped: 77, Failed: queueSize}) {
		t.Errorf("closed: %+v, want 77 dropped and %d failed", s, queueSize)
	}
	tracer.spans(1) // of a call that ends late
}

// Close sends what waits.
func TestCloseFlushes(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	got := 0
	addr := startCollector(t, func(_ context.Context, n int) error {
		mu.Lock()
		defer mu.Unlock()
		got += n
		return nil
	})
	tracer := open(t, Config{Endpoint: addr, Flush: time.Minute})
	tracer.spans(2*batchSize + 1)
	tracer.Close()
	if s := tracer.Stats(); got != 2*batchSize+1 || s != (Stats{Sent: 2*batchSize + 1}) {
		t.Errorf("collector got %d, %+v", got, s)
	}
}

// A collector that is not there, or refuses, is told of once in the log.
func TestCollectorRefuses(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	addr := startCollector(t, func(context.Context, int) error { return status.Error(codes.PermissionDenied, "no key") })
	tracer := open(t, Config{Endpoint: addr, Log: slog.New(slog.NewTextHandler(&out, nil)), Flush: time.Minute})
	tracer.spans(3*batchSize + 1)
	tracer.Close()
	if s := tracer.Stats(); s != (Stats{Failed: 3*batchSize + 1}) {
		t.Errorf("%+v", s)
	}
	if text := out.String(); strings.Count(text, "\n") != 1 || !strings.Contains(text, "no key") {
		t.Errorf("log:\n%s", text)
	}
}

func TestCollectorAbsent(t *testing.T) {
	t.Parallel()
	tracer := open(t, Config{Endpoint: "127.0.0.1:1", Flush: time.Millisecond})
	tracer.spans(3)
	tracer.Close()
	if s := tracer.Stats(); s != (Stats{Failed: 3}) {
		t.Errorf("%+v", s)
	}
	if _, err := Open(Config{Endpoint: "dns://%"}); err == nil {
		t.Error("an endpoint that is none was taken")
	}
}

// A call that is not sampled costs no memory.
func TestUnsampledAllocatesNothing(t *testing.T) {
	tracer := open(t, Config{Endpoint: "127.0.0.1:1", Sample: 1e-18})
	defer tracer.Close()
	for _, parents := range [][]string{nil, {"00-" + ids + "-00"}, {"nonsense"}, {"00-" + ids + "-01", "00-" + ids + "-01"}} {
		c := new(relay.Call)
		c.AddHeader("user-agent", "x")
		for _, p := range parents {
			c.AddHeader(traceparent, p)
		}
		if n := testing.AllocsPerRun(100, func() {
			if tracer.Begin(c, "f", true) != nil {
				t.Fatal("sampled")
			}
		}); n > 0 {
			t.Errorf("%q: %v allocations", parents, n)
		}
	}
}

// The hooks may be given what Begin returned, whatever it is.
func TestNilCall(t *testing.T) {
	t.Parallel()
	var c *Call
	c.Routed("r", "b")
	c.AttemptOpening(nil, 0)
	c.TargetOpening(nil, 0, nil)
	c.AttemptRetried(nil, relay.AttemptStats{})
	c.End(nil, &relay.CallStats{})
}

// What Begin costs a call that is not sampled, because nobody says so or because its caller says not.
func BenchmarkUnsampled(b *testing.B) {
	tracer, err := Open(Config{Endpoint: "127.0.0.1:1", Sample: 1e-18}) // the choice is made, and never for it
	if err != nil {
		b.Fatal(err)
	}
	defer tracer.Close()
	for name, p := range map[string]string{"no parent": "", "parent": "00-" + ids + "-00"} {
		b.Run(name, func(b *testing.B) {
			c := new(relay.Call)
			for _, h := range []string{":method", ":scheme", ":path", ":authority", "content-type", "user-agent", "te", "grpc-timeout"} {
				c.AddHeader(h, "x")
			}
			if p != "" {
				c.AddHeader(traceparent, p)
			}
			for b.Loop() {
				if tracer.Begin(c, "f", true) != nil {
					b.Fatal("sampled")
				}
			}
		})
	}
}
