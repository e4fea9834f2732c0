// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package tracing

import (
	"context"
	"log/slog"
	"sync/atomic"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
)

// exporter is both ends of the SDK's batches: who lets spans in, so that the queue never has to drop one
// uncounted, and who sends them, and keeps errors to itself, as the SDK would write them to stderr.
type exporter struct {
	// Immutable.
	next   sdktrace.SpanExporter
	log    *slog.Logger
	ctx    context.Context // of exports
	cancel context.CancelFunc

	waiting               atomic.Int64 // spans let in and not sent yet, at most queueSize
	sent, dropped, failed atomic.Uint64

	failing bool // owned by ExportSpans, which the SDK does not call twice at once
}

func newExporter(next sdktrace.SpanExporter, log *slog.Logger) *exporter {
	e := &exporter{next: next, log: log}
	e.ctx, e.cancel = context.WithCancel(context.Background())

	return e
}

// processor returns the queue and its door.
func (e *exporter) processor() sdktrace.SpanProcessor {
	return door{sdktrace.NewBatchSpanProcessor(e, sdktrace.WithMaxQueueSize(queueSize), sdktrace.WithMaxExportBatchSize(batchSize),
		sdktrace.WithBatchTimeout(batchWait), sdktrace.WithExportTimeout(exportTimeout)), e}
}

// door lets spans into a queue.
type door struct {
	sdktrace.SpanProcessor
	e *exporter
}

// OnEnd never waits.
func (d door) OnEnd(s sdktrace.ReadOnlySpan) {
	if d.e.waiting.Add(1) > queueSize {
		d.e.waiting.Add(-1)
		d.e.dropped.Add(1)
		return
	}
	d.SpanProcessor.OnEnd(s)
}

var _ sdktrace.SpanExporter = (*exporter)(nil)

// ExportSpans sends a batch, or gives it up. It ends with cancel.
func (e *exporter) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	defer e.waiting.Add(-int64(len(spans)))
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(e.ctx, cancel)()
	err := e.next.ExportSpans(ctx, spans)
	switch {
	case err == nil:
		e.sent.Add(uint64(len(spans)))
		if e.failing {
			e.log.Info("spans are sent again", "given_up", e.failed.Load(), "dropped", e.dropped.Load())
		}
	default:
		e.failed.Add(uint64(len(spans)))
		if !e.failing {
			e.log.Warn("spans cannot be sent", "error", err)
		}
	}
	e.failing = err != nil

	return nil
}

// Shutdown ends the exporter.
func (e *exporter) Shutdown(ctx context.Context) error { return e.next.Shutdown(ctx) }
