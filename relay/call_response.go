// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package relay

import (
	"fmt"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/manifold-grpc/manifold/internal/h2"
	"github.com/manifold-grpc/manifold/internal/h2/frame"
	"github.com/manifold-grpc/manifold/internal/h2/hpack"
)

// response takes the header block that opens the upstream's response. mu is held.
func (c *Call) response(b *h2.Batch, head h2.Head, scratch *[]hpack.Field) {
	if r := responseOf(&head, true); r != nil {
		c.respond(b, &head, r.forward.Fields, r.forward, r.code)
		return
	}
	httpStatus := head.Fields[0].Value
	if httpStatus[0] == '1' {
		return // interim responses have no place in gRPC
	}
	contentType := find(head.Fields, "content-type")
	switch {
	case httpStatus != "200" && find(head.Fields, "grpc-status") == "":
		c.abort(b, codeOfHTTP(httpStatus), ReasonUpstreamNotGRPC, fmt.Sprintf("upstream answered with HTTP status %s and content-type %q", httpStatus, contentType))
		return
	case httpStatus == "200" && !isGRPC(contentType):
		c.abort(b, codes.Unknown, ReasonUpstreamNotGRPC, fmt.Sprintf("upstream answered with content-type %q, expected application/grpc", contentType))
		return
	}
	fields := forwardable(head.Fields, scratch)
	c.noteResponse(&head, true, fields)
	c.respond(b, &head, fields, nil, codeOf(find(fields, "grpc-status")))
}

// joined takes a whole response that came before but for its message, as most of unary calls do, and reports
// whether it was one. mu is held.
func (c *Call) joined(b *h2.Batch, head *h2.Head) bool {
	j := head.Joined
	if j == nil || c.changes != nil {
		return false
	}
	first, last := responseOf(head, true), responseOf(&j.Trailers, false)
	if first == nil || last == nil {
		return false
	}
	c.responds(b)
	c.resCount.feed(j.Data, 0)
	var err error
	j.Taken = true
	if j.Passed, err = c.down.SendMessage(b, first.forward, j.Data, last.forward); err != nil {
		c.overBudget(b)
		j.Passed = len(j.Data)
		return true
	}
	if !j.Trailers.Over {
		c.up.Reset(b, frame.NoError) // the request has not ended
	}
	c.finish(b, last.code, "")
	return true
}

// responds notes that the response is about to be sent. mu is held.
func (c *Call) responds(b *h2.Batch) {
	c.responded = true
	if c.srv.Hooks.FirstResponse {
		c.answered = max(1, b.Now().Sub(c.start))
	}
	c.replay.drop()
}

// respond sends the header block that opens the response: list, or fields if that is nil. mu is held.
func (c *Call) respond(b *h2.Batch, head *h2.Head, fields []hpack.Field, list *hpack.List, code codes.Code) {
	if head.EndStream && code != codes.OK && c.retry(b, code, "", find(head.Fields, "grpc-retry-pushback-ms")) {
		return
	}
	c.responds(b)
	if c.changes != nil {
		c.respondChanged(b, head, fields, code)
		return
	}
	switch {
	case head.EndStream:
		c.complete(b, head, fields, list, code)
	case list != nil:
		c.down.SendList(b, list, false)
	default:
		c.down.SendHeaders(b, fields, false)
	}
}

// respondChanged sends the header block that opens the response with the route's changes. mu is held.
func (c *Call) respondChanged(b *h2.Batch, head *h2.Head, fields []hpack.Field, code codes.Code) {
	var array [24]hpack.Field
	fields = c.changes.appendTo(array[:0], fields)
	if head.EndStream {
		c.complete(b, head, fields, nil, code)
		return
	}
	c.down.SendHeaders(b, fields, false)
}

// trailers takes the header block that ends the upstream's response. mu is held.
func (c *Call) trailers(b *h2.Batch, head h2.Head, scratch *[]hpack.Field) {
	if r := responseOf(&head, false); r != nil {
		c.complete(b, &head, r.forward.Fields, r.forward, r.code)
		return
	}
	fields := forwardable(head.Fields, scratch)
	c.noteResponse(&head, false, fields)
	c.complete(b, &head, fields, nil, codeOf(find(fields, "grpc-status")))
}

// responseData takes octets of the upstream's response, and returns how many need no more memory. mu is held.
func (c *Call) responseData(b *h2.Batch, p []byte, end bool) (passed int) {
	c.moved(b)
	c.resCount.feed(p, 0)
	passed, err := c.down.Send(b, p, false)
	switch {
	case err != nil:
		c.overBudget(b)
		return len(p)
	case end:
		c.up.Reset(b, frame.Cancel) // if the request has not ended
		c.fail(b, failure(codes.Internal, ReasonUpstreamNoStatus, "upstream ended the response without a status"), ReasonUpstreamNoStatus)
	}
	return passed
}

// responseRun is responseData for several frames. mu is held.
func (c *Call) responseRun(b *h2.Batch, r h2.Run) (passed int) {
	c.moved(b)
	for p := range r.All() {
		c.resCount.feed(p, 0)
	}
	passed, err := c.down.SendRun(b, r)
	if err != nil {
		c.overBudget(b)
		return r.Len()
	}
	return passed
}

// complete hands over the end of the upstream's response: list, or fields if that is nil. mu is held.
func (c *Call) complete(b *h2.Batch, head *h2.Head, fields []hpack.Field, list *hpack.List, code codes.Code) {
	if list != nil {
		c.down.SendLastList(b, list)
	} else {
		c.down.SendLast(b, fields)
	}
	if !head.Over {
		c.up.Reset(b, frame.NoError) // the request has not ended
	}
	c.finish(b, code, "")
}

// codeOf reads a grpc-status.
func codeOf(s string) codes.Code {
	n := 0
	for _, c := range []byte(s) {
		if c < '0' || c > '9' || n > 1e6 {
			return codes.Unknown
		}
		n = 10*n + int(c-'0')
	}
	if s == "" {
		return codes.Unknown
	}
	return codes.Code(n)
}

// abort ends the call because of what the upstream did. mu is held.
func (c *Call) abort(b *h2.Batch, code codes.Code, reason, msg string) {
	if c.retry(b, code, reason, "") {
		return
	}
	if c.up != nil {
		c.up.Reset(b, frame.Cancel)
	}
	where := ""
	if c.ep != nil {
		where = "backend " + c.decision.backend.Name + ": endpoint " + c.ep.addr + ": "
	}
	c.fail(b, failure(code, reason, where+msg), reason)
}

// fail answers the client with st: as trailers-only, or as trailers where the response
// began. mu is held.
func (c *Call) fail(b *h2.Batch, st *status.Status, reason string) {
	var array [8]hpack.Field
	fields := array[:0]
	if !c.responded {
		fields = append(fields,
			hpack.Field{Name: ":status", Value: "200"},
			hpack.Field{Name: "content-type", Value: c.content})
	}
	c.responded = true
	if c.dc.set.OmitErrorInfo && reason != ReasonRejected {
		st = status.New(st.Code(), st.Message())
	}
	fields = statusFields(fields, st)
	if c.pushback {
		fields = append(fields, hpack.Field{Name: "grpc-retry-pushback-ms", Value: pushbackMillis})
	}
	if c.fan != nil {
		fields = c.fan.trailers(fields)
	}
	c.down.SendLast(b, fields)
	c.finish(b, st.Code(), reason)
}

// pushbackMillis is how long callers shall wait before they try again (gRFC A6).
const pushbackMillis = "1000"

// finish ends the call: nothing moves any more but what is queued for the client. mu is held.
func (c *Call) finish(b *h2.Batch, code codes.Code, reason string) {
	if c.stage == stageDone {
		return
	}
	opened := c.stage == stageOpen
	c.stage = stageDone
	c.code, c.reason = code, reason
	c.replay.drop()
	c.srv.inFlight.Add(-1)
	c.unfollow()
	if c.deadline != nil && !c.deadline.Stop() {
		c.mayReuse = false // expire is about to look at it
	}
	if c.mirror != nil {
		c.endMirror(b, reason)
	}
	if c.pausing != nil {
		c.pausing.Stop()
	}
	if c.ctx != nil {
		c.ctx.cancel()
	}
	h := c.srv.Hooks.CallEnded
	var stats CallStats
	if h != nil {
		stats = c.stats(b.Now())
	}
	if c.ep != nil {
		c.leave(opened, code, reason)
	}
	if c.fan != nil {
		c.fan.close(b, code)
	}
	if h != nil {
		h(c, stats)
	}
}

// upstreamEnd takes the early end of the current attempt: another one where the
// upstream provably did nothing, or a status. mu is held.
func (c *Call) upstreamEnd(b *h2.Batch, e h2.End) {
	if e.Unprocessed && !c.responded && !c.replay.over && c.attempts < maxAttempts {
		c.reroute(b)
		return
	}
	code, reason, msg := c.describeEnd(e, c.responded)
	c.abort(b, code, reason, msg)
}

// describeEnd says what the early end of an upstream's stream means. mu is held.
func (c *Call) describeEnd(e h2.End, responded bool) (code codes.Code, reason, msg string) {
	var ferr *frame.Error
	switch {
	case e.Err == nil && e.Code == frame.NoError && responded:
		return codes.Internal, ReasonUpstreamReset, "stream was reset with NO_ERROR before its status"
	case e.Err == nil && e.Code == frame.Cancel && c.atDeadline():
		// The upstream's clock was faster: servers reset a call at its deadline.
		return codes.DeadlineExceeded, ReasonDeadline, "deadline exceeded"
	case e.Err == nil:
		return codeOfReset(e.Code), ReasonUpstreamReset, "stream was reset with " + e.Code.String()
	case asError(e.Err, &ferr) && !ferr.Connection():
		return codes.Internal, ReasonUpstreamProtocol, ferr.Error()
	}
	return codes.Unavailable, ReasonUpstreamLost, "connection lost: " + e.Err.Error()
}

// atDeadline reports whether the caller's time is up, give or take a fiftieth.
func (c *Call) atDeadline() bool {
	return c.timeout > 0 && time.Since(c.start) >= c.timeout-c.timeout/50
}

// maxAttempts bounds the transparent retries of a call.
const maxAttempts = 4

// find returns the value of the first field of the name, or "".
func find(fields []hpack.Field, name string) string {
	for i := range fields {
		if fields[i].Name == name {
			return fields[i].Value
		}
	}
	return ""
}

// forwardable returns the fields that are forwarded to the client: fields itself, where all are.
func forwardable(fields []hpack.Field, scratch *[]hpack.Field) []hpack.Field {
	drop := func(name string) bool { return name == "content-length" }
	for i := range fields {
		if !drop(fields[i].Name) {
			continue
		}
		out := append((*scratch)[:0], fields[:i]...)
		for _, f := range fields[i+1:] {
			if !drop(f.Name) {
				out = append(out, f)
			}
		}
		*scratch = out
		return out
	}
	return fields
}
