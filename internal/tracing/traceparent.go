// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package tracing

import (
	"encoding/hex"

	"go.opentelemetry.io/otel/trace"
)

// The headers of W3C Trace Context, in lower case.
const (
	traceparent = "traceparent"
	tracestate  = "tracestate"
)

// parentLen is the length of a traceparent of version 00: version, trace-id, parent-id and trace-flags.
const parentLen = len("00-") + 32 + len("-") + 16 + len("-00")

// flagRandom is the flag random-trace-id of Trace Context Level 2, which is passed on.
const flagRandom trace.TraceFlags = 2

// A parent is what a caller says of its own span.
type parent struct {
	trace trace.TraceID
	span  trace.SpanID
	flags trace.TraceFlags
}

// parseParent reads a traceparent as section 3.2 of Trace Context has it: in lower case, no id of zeros, of version 00
// nothing but the four fields, of later ones these four first, of version ff nothing.
func parseParent(s string) (p parent, ok bool) {
	if len(s) < parentLen || s[2] != '-' || s[35] != '-' || s[52] != '-' {
		return parent{}, false
	}
	var version, flags [1]byte
	if !unhex(version[:], s[:2]) || !unhex(p.trace[:], s[3:35]) || !unhex(p.span[:], s[36:52]) || !unhex(flags[:], s[53:55]) {
		return parent{}, false
	}
	switch {
	case version[0] == 0xff, version[0] == 0 && len(s) > parentLen, len(s) > parentLen && s[parentLen] != '-':
		return parent{}, false
	case !p.trace.IsValid() || !p.span.IsValid():
		return parent{}, false
	}
	p.flags = trace.TraceFlags(flags[0])

	return p, true
}

// unhex reads lower case hex digits, exactly as many as dst takes.
func unhex(dst []byte, s string) bool {
	bad := byte(0)
	for i := range dst {
		hi, lo := nibbles[s[2*i]], nibbles[s[2*i+1]]
		bad |= hi | lo
		dst[i] = hi<<4 | lo
	}

	return bad < 16
}

const hexDigits = "0123456789abcdef"

// nibbles are the values of hex digits in lower case; 0xff for what is none.
var nibbles = func() (values [256]byte) {
	for c := range values {
		values[c] = 0xff
	}
	for v, c := range []byte(hexDigits) {
		values[c] = byte(v)
	}

	return values
}()

// appendParent appends a traceparent of version 00.
func (p parent) appendParent(b []byte) []byte {
	b = append(b, "00-"...)
	b = hex.AppendEncode(b, p.trace[:])
	b = append(b, '-')
	b = hex.AppendEncode(b, p.span[:])

	return append(b, '-', '0', hexDigits[p.flags&(trace.FlagsSampled|flagRandom)])
}
