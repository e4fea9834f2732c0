// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package relay

import (
	"cmp"
	"encoding/base64"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/manifold-grpc/manifold/fanout"
	"github.com/manifold-grpc/manifold/internal/h2"
	"github.com/manifold-grpc/manifold/internal/h2/hpack"
)

// A scratch is memory for one message on its way to the client.
type scratch struct{ p []byte }

// keepScratch is the capacity up to which a scratch is used again.
const keepScratch = 64 << 10

var scratchPool = sync.Pool{New: func() any { return &scratch{make([]byte, 0, 2<<10)} }}

func (s *scratch) free() {
	if cap(s.p) <= keepScratch {
		scratchPool.Put(s)
	}
}

// sendJoined sends the one answer to a unary method: those of all targets that have one. If it returns false
// the call is over.
func (f *fanCall) sendJoined(b *h2.Batch) bool {
	size, parts := 0, 0
	for i := range f.targets {
		if t := &f.targets[i]; t.joins() {
			size += len(t.answer)
			parts++
		}
	}
	if parts == 0 {
		return true // no message is no message for the caller either: an empty one would look like success
	}
	if f.cfg.ByArrival {
		return f.sendParts(b, size, f.byArrival())
	}
	return f.sendParts(b, size, nil)
}

// joins reports whether there is something of t in the joined answer.
func (t *fanTarget) joins() bool { return t.answered && t.phase != phaseCanceled }

func (f *fanCall) byArrival() []int {
	order := make([]int, len(f.targets))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int { return cmp.Compare(f.targets[a].arrival, f.targets[b].arrival) })
	return order
}

// sendParts sends the prefix and the answers, in order, or that of the targets where order is nil:
// gathered where they are small, as each Send is a frame.
func (f *fanCall) sendParts(b *h2.Batch, size int, order []int) bool {
	s := scratchPool.Get().(*scratch)
	defer s.free()
	s.p = append(s.p[:0], make([]byte, prefixLen)...)
	putPrefix(s.p, size)
	for i := range f.targets {
		if order != nil {
			i = order[i]
		}
		t := &f.targets[i]
		if !t.joins() {
			continue
		}
		if len(s.p) > 0 && len(s.p)+len(t.answer) > gatherBytes {
			if !f.send(b, s.p) {
				return false
			}
			s.p = s.p[:0]
		}
		if len(t.answer) > gatherBytes {
			if !f.send(b, t.answer) {
				return false
			}
			continue
		}
		s.p = append(s.p, t.answer...)
	}
	return len(s.p) == 0 || f.send(b, s.p)
}

// gatherBytes is about a DATA frame.
const gatherBytes = 16 << 10

// sendEnvelope sends a message of a target to the client, wrapped.
func (f *fanCall) sendEnvelope(b *h2.Batch, t *fanTarget, payload []byte) bool {
	s := scratchPool.Get().(*scratch)
	defer s.free()
	s.p = append(s.p[:0], make([]byte, prefixLen)...)
	s.p = t.envelope().AppendPrefix(s.p, len(payload))
	n := len(s.p) - prefixLen + len(payload)
	putPrefix(s.p, n)
	if len(payload) <= gatherBytes {
		s.p = append(s.p, payload...)
		return f.send(b, s.p)
	}
	return f.send(b, s.p) && f.send(b, payload)
}

// sendEvent sends a message that is encoded already.
func (f *fanCall) sendEvent(b *h2.Batch, m []byte) {
	s := scratchPool.Get().(*scratch)
	defer s.free()
	s.p = append(s.p[:0], make([]byte, prefixLen)...)
	f.sendOwn(b, s, m)
}

// sendOutcome tells the client how a target ended.
func (f *fanCall) sendOutcome(b *h2.Batch, t *fanTarget) {
	f.sendEvent(b, t.envelope().Outcome(t.outcome(), true))
}

// tellCancelled tells a client that gets envelopes of the targets that were not needed. If it returns false the call is over.
func (f *fanCall) tellCancelled(b *h2.Batch) bool {
	if !f.cfg.wraps() {
		return true
	}
	for i := range f.targets {
		if t := &f.targets[i]; t.phase == phaseCanceled {
			if f.sendOutcome(b, t); !f.running() {
				return false
			}
		}
	}
	return true
}

func (t *fanTarget) envelope() *fanout.Envelope {
	if t.wrap == nil {
		e := fanout.NewEnvelope(t.target().Name, t.index)
		t.wrap = &e
	}
	return t.wrap
}

// headed notes that the header fields of t came, or that none will. A call that streams gets those
// that come first; to one whose answers are joined all of them matter, and go out together as soon as no other can come.
func (f *fanCall) headed(b *h2.Batch, t *fanTarget, came bool) {
	if !t.headed {
		t.headed = true
		f.due--
	}
	switch {
	case !f.running():
	case f.merge != nil:
		f.mergeHeader(b, t, came)
	case f.cfg.Envelope:
		if came && len(t.header) > 0 {
			f.sendEvent(b, t.envelope().Header(mdOf(t.header)))
		}
	case came && f.cfg.Streaming, f.due == 0 && f.anyHeader():
		f.sendHead(b)
	}
}

// anyHeader reports whether a target has header fields for the client.
func (f *fanCall) anyHeader() bool {
	for i := range f.targets {
		if len(f.targets[i].header) > 0 {
			return true
		}
	}
	return false
}

// sendHead opens the response, with the header fields that are there.
func (f *fanCall) sendHead(b *h2.Batch) {
	c := f.c
	if c.responded {
		return
	}
	c.responded = true
	var array [16]hpack.Field
	fields := append(array[:0],
		hpack.Field{Name: ":status", Value: "200"},
		hpack.Field{Name: "content-type", Value: c.content})
	if !f.cfg.Envelope && f.merge == nil {
		left := or(f.cfg.Limits.MetadataBytes, defaultMetadataBytes)
		for i := range f.targets {
			fields = appendWithin(fields, f.targets[i].header, &left)
		}
	}
	if c.changes != nil {
		fields = c.changes.appendTo(nil, fields)
	}
	c.down.SendHeaders(b, fields, false)
}

// trailers appends what the targets' trailers have, and the outcomes if the call is to tell them.
func (f *fanCall) trailers(fields []hpack.Field) []hpack.Field {
	if !f.cfg.wraps() {
		left := f.cfg.Limits.MetadataBytes
		if left == 0 {
			left = leftOf(fields)
			if f.cfg.Summary {
				left -= summaryBytes
			}
		}
		for i := range f.targets {
			fields = appendWithin(fields, f.targets[i].trailer, &left)
		}
	}
	if !f.cfg.Summary {
		return fields
	}
	outcomes := make([]fanout.Outcome, len(f.targets))
	for i := range f.targets {
		outcomes[i] = f.targets[i].outcome()
	}
	limits := f.cfg.Report
	if limits.MaxBytes == 0 {
		limits.MaxBytes = reportBytes(fields)
	}
	for key, values := range fanout.Trailer(fanout.NewReport(outcomes, limits)) {
		for _, v := range values {
			if strings.HasSuffix(key, "-bin") {
				v = base64.RawStdEncoding.EncodeToString([]byte(v))
			}
			fields = append(fields, hpack.Field{Name: key, Value: v})
		}
	}
	return fields
}

const (
	// maxTrailerBytes is what peers usually take of a trailer.
	maxTrailerBytes = 8 << 10
	// summaryBytes has room for the outcomes as a line, for those in their shortest form, and for the names of both.
	summaryBytes = 1500
)

// leftOf returns what the fields leave of a trailer.
func leftOf(fields []hpack.Field) int {
	left := maxTrailerBytes
	for i := range fields {
		left -= len(fields[i].Name) + len(fields[i].Value) + 32 // RFC 9113, 6.5.2
	}
	return left
}

// reportBytes returns the size of a report that may join the fields in a trailer.
func reportBytes(fields []hpack.Field) int {
	return min(fanout.DefaultReportBytes, max(1, (leftOf(fields)-summaryBytes)*3/4)) // it travels as base64
}

// appendWithin appends fields while they take no more than left, counted as header lists are.
func appendWithin(dst, fields []hpack.Field, left *int) []hpack.Field {
	for _, f := range fields {
		if *left -= len(f.Name) + len(f.Value) + 32; *left < 0 {
			break
		}
		dst = append(dst, f)
	}
	return dst
}

// passedOn appends the fields of a target that go to the client: those that are neither
// HTTP/2's nor gRPC's own.
func passedOn(dst, fields []hpack.Field) []hpack.Field {
	for _, f := range fields {
		if !ownField(f.Name) {
			dst = append(dst, f)
		}
	}
	return dst
}

func ownField(name string) bool {
	switch name {
	case ":status", "content-type", "content-length", "te":
		return true
	}
	return strings.HasPrefix(name, "grpc-")
}

// statusOfFields returns the status that trailers carry; nil is OK.
func statusOfFields(fields []hpack.Field) *status.Status {
	code := codeOf(find(fields, "grpc-status"))
	if code == codes.OK {
		return nil
	}
	message := find(fields, "grpc-message")
	if decoded, err := url.PathUnescape(message); err == nil {
		message = decoded
	}
	if raw, err := decodeBinary(find(fields, "grpc-status-details-bin")); err == nil && len(raw) > 0 {
		p := &spb.Status{}
		if proto.Unmarshal(raw, p) == nil && p.GetCode() == int32(code) {
			return status.FromProto(p)
		}
	}
	return status.New(code, message)
}

// decodeBinary reads the value of a field that ends in -bin, with or without padding.
func decodeBinary(s string) ([]byte, error) {
	return base64.RawStdEncoding.DecodeString(strings.TrimRight(s, "="))
}

// mdOf returns fields as metadata.
func mdOf(fields []hpack.Field) metadata.MD {
	if len(fields) == 0 {
		return nil
	}
	md := make(metadata.MD, len(fields))
	for _, f := range fields {
		v := f.Value
		if strings.HasSuffix(f.Name, "-bin") {
			if raw, err := decodeBinary(v); err == nil {
				v = string(raw)
			}
		}
		md[f.Name] = append(md[f.Name], v)
	}
	return md
}

// outcome returns what became of t, or what is known by now.
func (t *fanTarget) outcome() fanout.Outcome {
	total := t.total
	if total == 0 {
		total = time.Since(t.f.c.start)
	}
	return fanout.Outcome{
		Name: t.target().Name, Index: t.index, Phase: t.phase, Status: t.status,
		FirstResponse: t.firstAt, Total: total,
		RequestMessages: t.messages, RequestBytes: t.octets,
		ResponseMessages: t.count.messages, ResponseBytes: t.count.bytes,
		Header: mdOf(t.header), Trailer: mdOf(t.trailer),
	}
}

// stats returns what CallStats says of the targets.
func (f *fanCall) stats() (targets []TargetStats, attempts int) {
	targets = make([]TargetStats, len(f.targets))
	for i := range f.targets {
		t := &f.targets[i]
		targets[i] = TargetStats{Outcome: t.outcome(), Attempts: t.attempts}
		if t.ep != nil {
			targets[i].Endpoint = t.ep.addr
		}
		attempts += t.attempts
	}
	return targets, attempts
}
