// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package relay

import (
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/manifold-grpc/manifold/internal/h2"
	"github.com/manifold-grpc/manifold/internal/h2/hpack"
)

// A stockFailure answers every call in the same way. Its answers are made once: a client can ask for
// hundreds of thousands of them a second, and making one takes 25 allocations.
type stockFailure struct {
	code   codes.Code
	reason string
	// The answers for the usual content-type: with an ErrorInfo, and without.
	full, bare *hpack.List
}

// The failures of calls that never get to the Route function.
var (
	malformedPath    = newStockFailure(codes.Unimplemented, ReasonMalformedPath, "malformed path, expected /service/method")
	malformedTimeout = newStockFailure(codes.Internal, ReasonMalformedTimeout, "malformed grpc-timeout, expected up to 8 digits and one of H M S m u n")
	shortOfMemory    = newStockFailure(codes.Unavailable, ReasonMemory, "proxy is short of memory", hpack.Field{Name: "grpc-retry-pushback-ms", Value: pushbackMillis})
)

// usualContent is the content-type of most calls.
const usualContent = "application/grpc"

func newStockFailure(code codes.Code, reason, msg string, more ...hpack.Field) *stockFailure {
	list := func(st *status.Status) *hpack.List {
		fields := []hpack.Field{{Name: ":status", Value: "200"}, {Name: "content-type", Value: usualContent}}
		return hpack.NewList(append(statusFields(fields, st), more...))
	}
	return &stockFailure{code: code, reason: reason, full: list(failure(code, reason, msg)), bare: list(status.New(code, msg))}
}

// failStock answers a call that nobody but the relay has seen.
func (c *Call) failStock(b *h2.Batch, f *stockFailure) {
	c.mu.Lock()
	defer c.mu.Unlock()
	answer := f.full
	if c.dc.set.OmitErrorInfo {
		answer = f.bare
	}
	c.mayReuse = true
	c.responded = true
	if c.content == usualContent {
		c.down.SendLastList(b, answer)
	} else {
		var array [8]hpack.Field
		fields := append(array[:0], answer.Fields...)
		fields[1] = hpack.Field{Name: "content-type", Value: c.content}
		c.down.SendLast(b, fields)
	}
	c.finish(b, f.code, f.reason)
}
