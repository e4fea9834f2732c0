// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package relay

import (
	"encoding/base64"
	"strconv"
	"strings"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/manifold-grpc/manifold/internal/h2/frame"
	"github.com/manifold-grpc/manifold/internal/h2/hpack"
)

// ErrorDomain is the domain of the google.rpc.ErrorInfo detail in the relay's own failures.
const ErrorDomain = "manifold"

// Reasons of the relay's own failures: in the ErrorInfo detail, and fit for metric
// labels.
const (
	ReasonMalformedPath     = "MALFORMED_PATH"
	ReasonMalformedTimeout  = "MALFORMED_TIMEOUT"
	ReasonHeadersTooLarge   = "HEADERS_TOO_LARGE"
	ReasonMessageTooLarge   = "MESSAGE_TOO_LARGE"
	ReasonNoRoute           = "NO_ROUTE"
	ReasonRejected          = "REJECTED"
	ReasonNoEndpoint        = "NO_ENDPOINT"
	ReasonConnect           = "CONNECT_FAILED"
	ReasonQueueFull         = "QUEUE_FULL"
	ReasonUpstreamLost      = "UPSTREAM_CONNECTION_LOST"
	ReasonUpstreamReset     = "UPSTREAM_RESET"
	ReasonUpstreamProtocol  = "UPSTREAM_PROTOCOL_ERROR"
	ReasonUpstreamHeaders   = "UPSTREAM_HEADERS_TOO_LARGE"
	ReasonUpstreamNotGRPC   = "UPSTREAM_NOT_GRPC"
	ReasonUpstreamNoStatus  = "UPSTREAM_NO_STATUS"
	ReasonUnprocessed       = "UPSTREAM_UNPROCESSED"
	ReasonDeadline          = "DEADLINE_EXCEEDED"
	ReasonIdle              = "IDLE_TIMEOUT"
	ReasonCanceled          = "CANCELED"
	ReasonBufferBudget      = "BUFFER_BUDGET"
	ReasonMemory            = "MEMORY_PRESSURE"
	ReasonFanOut            = "FAN_OUT_FAILED"
	ReasonFanLimit          = "FAN_OUT_LIMIT"
	ReasonSlowTarget        = "SLOW_TARGET"
	ReasonStalled           = "STALLED_TARGET"
	ReasonTargetTimeout     = "TARGET_TIMEOUT"
	ReasonEncoding          = "UPSTREAM_ENCODING"
	ReasonHook              = "ANNOTATION_FAILED"
	ReasonUnknownCompletion = "UNKNOWN"
)

// failure returns the status of a failure of the relay's own.
func failure(code codes.Code, reason, msg string) *status.Status {
	st := status.New(code, msg)
	if with, err := st.WithDetails(&errdetails.ErrorInfo{Reason: reason, Domain: ErrorDomain}); err == nil {
		return with
	}
	return st
}

// statusFields appends the trailers that carry st.
func statusFields(dst []hpack.Field, st *status.Status) []hpack.Field {
	dst = append(dst, hpack.Field{Name: "grpc-status", Value: strconv.Itoa(int(st.Code()))})
	if m := st.Message(); m != "" {
		dst = append(dst, hpack.Field{Name: "grpc-message", Value: encodeMessage(m)})
	}
	if p := st.Proto(); len(p.GetDetails()) > 0 {
		if raw, err := proto.Marshal(p); err == nil {
			dst = append(dst, hpack.Field{Name: "grpc-status-details-bin", Value: base64.RawStdEncoding.EncodeToString(raw)})
		}
	}
	return dst
}

// encodeMessage percent-encodes a status message (gRPC over HTTP/2, "Responses"), and spaces
// at its ends too: RFC 9113 section 8.2.1 has none there.
func encodeMessage(s string) string {
	plain := func(i int) bool {
		c := s[i]
		return c > ' ' && c <= '~' && c != '%' || c == ' ' && i > 0 && i < len(s)-1
	}
	i := 0
	for i < len(s) && plain(i) {
		i++
	}
	if i == len(s) {
		return s
	}
	const hex = "0123456789ABCDEF"
	var b strings.Builder
	for i := range len(s) {
		if plain(i) {
			b.WriteByte(s[i])
			continue
		}
		b.WriteByte('%')
		b.WriteByte(hex[s[i]>>4])
		b.WriteByte(hex[s[i]&15])
	}
	return b.String()
}

// codeOfReset maps the RST_STREAM of an upstream (gRPC over HTTP/2, "Errors").
func codeOfReset(c frame.Code) codes.Code {
	switch c {
	case frame.RefusedStream:
		return codes.Unavailable
	case frame.Cancel:
		return codes.Canceled
	case frame.EnhanceYourCalm:
		return codes.ResourceExhausted
	case frame.InadequateSecurity:
		return codes.PermissionDenied
	}
	return codes.Internal
}

// codeOfHTTP maps the HTTP status of an answer that is no gRPC (gRPC's
// http-grpc-status-mapping).
func codeOfHTTP(s string) codes.Code {
	switch s {
	case "400":
		return codes.Internal
	case "401":
		return codes.Unauthenticated
	case "403":
		return codes.PermissionDenied
	case "404":
		return codes.Unimplemented
	case "429", "502", "503", "504":
		return codes.Unavailable
	}
	return codes.Unknown
}

// isGRPC reports whether a content-type is gRPC's: application/grpc, with any subtype or parameter.
func isGRPC(contentType string) bool {
	const base = "application/grpc"
	if len(contentType) < len(base) || contentType[:len(base)] != base && !strings.EqualFold(contentType[:len(base)], base) {
		return false
	}
	return len(contentType) == len(base) || contentType[len(base)] == '+' || contentType[len(base)] == ';'
}
