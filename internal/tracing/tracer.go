// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package tracing

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/manifold-grpc/manifold/relay"
)

// Config says what is traced and where spans go.
type Config struct {
	// Endpoint is the collector's address as grpc.NewClient takes it.
	Endpoint string
	// Credentials are how it is spoken to; nil: in plaintext.
	Credentials credentials.TransportCredentials
	// Headers go with each export.
	Headers map[string]string
	// Sample is the share of calls, from 0 to 1, that are sampled if their caller does not say.
	Sample float64
	// IgnoreCaller has Sample decide on the other calls too. The trace of a call is its caller's still.
	IgnoreCaller bool
	// ServiceName and Version say who makes the spans.
	ServiceName, Version string
	// Log is told when spans cannot be sent, and when they can be again. nil: nobody is.
	Log *slog.Logger
	// Flush bounds Close. Default 3 s.
	Flush time.Duration
}

const (
	// queueSize is how many spans may wait, the batch on its way included.
	queueSize = 8192
	batchSize = 512
	batchWait = time.Second
	// exportTimeout is for one batch with its retries. Then it is given up, and the next one tried.
	exportTimeout = 10 * time.Second

	defaultFlush = 3 * time.Second

	// What a client may put into a span: names and values are cut there.
	maxName  = 256
	maxValue = 1024
)

// A Tracer makes spans and sends them. Its methods are safe for concurrent use.
type Tracer struct {
	// Immutable.
	flush    time.Duration
	sample   float64
	ignore   bool // what callers say about sampling
	tracer   trace.Tracer
	provider *sdktrace.TracerProvider
	conn     *grpc.ClientConn
	out      *exporter
}

// Open returns a tracer, which connects when it has something to send. Its owner closes it.
func Open(cfg Config) (*Tracer, error) {
	creds := cfg.Credentials
	if creds == nil {
		creds = insecure.NewCredentials()
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Flush == 0 {
		cfg.Flush = defaultFlush
	}
	conn, err := grpc.NewClient(cfg.Endpoint, grpc.WithTransportCredentials(creds), grpc.WithUserAgent("manifold/"+cfg.Version))
	if err != nil {
		return nil, fmt.Errorf("collector %q: %w", cfg.Endpoint, err)
	}
	t := &Tracer{flush: cfg.Flush, sample: cfg.Sample, ignore: cfg.IgnoreCaller, conn: conn}
	if err := t.open(&cfg); err != nil {
		conn.Close() //nolint:errcheck // nothing was sent
		return nil, fmt.Errorf("collector %q: %w", cfg.Endpoint, err)
	}

	return t, nil
}

// open makes the way from spans to the collector.
func (t *Tracer) open(cfg *Config) error {
	ctx := context.Background()
	headers := cfg.Headers
	if headers == nil {
		headers = map[string]string{} // not those of the environment
	}
	next, err := otlptracegrpc.New(ctx,
		otlptracegrpc.WithGRPCConn(t.conn), otlptracegrpc.WithHeaders(headers), otlptracegrpc.WithTimeout(exportTimeout),
		otlptracegrpc.WithRetry(otlptracegrpc.RetryConfig{
			Enabled: true, InitialInterval: time.Second, MaxInterval: exportTimeout / 2, MaxElapsedTime: exportTimeout,
		}))
	if err != nil {
		return err
	}
	from, err := resource.New(ctx, resource.WithFromEnv(), resource.WithHost(), resource.WithAttributes(
		semconv.ServiceName(cfg.ServiceName), semconv.ServiceVersion(cfg.Version)))
	if err != nil {
		cfg.Log.Warn("OTEL_RESOURCE_ATTRIBUTES are not all used", "error", err)
	}
	limits := sdktrace.NewSpanLimits()
	limits.AttributeValueLengthLimit = maxValue
	t.out = newExporter(next, cfg.Log.With("collector", cfg.Endpoint))
	t.provider = sdktrace.NewTracerProvider(
		sdktrace.WithSampler(sdktrace.AlwaysSample()), // Begin has decided
		sdktrace.WithResource(from), sdktrace.WithRawSpanLimits(limits), sdktrace.WithSpanProcessor(t.out.processor()))
	t.tracer = t.provider.Tracer("github.com/manifold-grpc/manifold", trace.WithInstrumentationVersion(cfg.Version))

	return nil
}

// Begin returns what a call's spans are made with, or nil if it is not sampled. It is for Route functions, before
// they change headers or decide. known is whether a route takes the call: its name is its caller's own invention else.
func (t *Tracer) Begin(c *relay.Call, frontend string, known bool) *Call {
	p, ok := parentOf(c)
	sampled := p.flags.IsSampled()
	if !ok || t.ignore {
		sampled = t.chosen()
	}
	if !sampled {
		return nil
	}
	call := &Call{tracer: t, fresh: !ok, flags: p.flags | trace.FlagsSampled, name: "other"}
	if known {
		call.name = spanName(c)
	}
	ctx := context.Background()
	if ok {
		ctx = trace.ContextWithRemoteSpanContext(ctx, trace.NewSpanContext(trace.SpanContextConfig{
			TraceID: p.trace, SpanID: p.span, TraceFlags: p.flags, TraceState: stateOf(c), Remote: true,
		}))
	}
	call.ctx, call.span = t.tracer.Start(ctx, "Recv."+call.name, trace.WithTimestamp(c.Start()), trace.WithSpanKind(trace.SpanKindServer),
		trace.WithAttributes(append(clientOf(c), semconv.RPCSystemNameGRPC, semconv.RPCMethod(methodOf(c)),
			attribute.String("server.address", text(c.Host())), attribute.String("manifold.frontend", frontend))...))

	return call
}

// chosen decides on a call whose caller does not say, or is not heard.
func (t *Tracer) chosen() bool { return t.sample > 0 && rand.Float64() < t.sample }

// parentOf returns what the caller says of its span. A traceparent that is malformed, or there more than once, says nothing.
func parentOf(c *relay.Call) (p parent, ok bool) {
	text, n := "", 0
	for name, value := range c.Headers() {
		if name == traceparent {
			text = value
			n++
		}
	}
	if n != 1 {
		return parent{}, false
	}

	return parseParent(text)
}

// TraceOf returns the id of the trace that a call is part of, sampled or not; empty if it is of none. call is what Begin returned
// for c.
func (t *Tracer) TraceOf(c *relay.Call, call *Call) string {
	if call != nil {
		return call.span.SpanContext().TraceID().String()
	}
	if p, ok := parentOf(c); ok {
		return p.trace.String()
	}

	return ""
}

// Stats are how many spans were sent, were dropped because too many waited, and were given up because the collector did not take them.
type Stats struct{ Sent, Dropped, Failed uint64 }

// Stats returns what became of spans up to now.
func (t *Tracer) Stats() Stats {
	return Stats{Sent: t.out.sent.Load(), Dropped: t.out.dropped.Load(), Failed: t.out.failed.Load()}
}

// Close sends what waits, for as long as Config.Flush at most, and ends. Spans that end later are lost.
func (t *Tracer) Close() {
	late := time.AfterFunc(t.flush, t.out.cancel)
	defer late.Stop()
	t.provider.Shutdown(context.Background()) //nolint:errcheck // of the exporter's, which has logged it
	t.out.cancel()
	t.conn.Close() //nolint:errcheck // nothing is on its way
}
