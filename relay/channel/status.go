// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package channel

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/manifold-grpc/manifold/internal/h2"
	"github.com/manifold-grpc/manifold/internal/h2/frame"
	"github.com/manifold-grpc/manifold/internal/h2/hpack"
)

var errEmptyKey = errors.New("there is an empty key in the header")

// find returns the value of the first field of the name, or "".
func find(fields []hpack.Field, name string) string {
	for i := range fields {
		if fields[i].Name == name {
			return fields[i].Value
		}
	}
	return ""
}

// interim reports whether a header block is that of an interim response.
func interim(fields []hpack.Field) bool {
	v := find(fields, ":status")
	return len(v) == 3 && v[0] == '1'
}

// isGRPC reports whether a header block that opens a response is one of gRPC, which its content-type says.
func isGRPC(fields []hpack.Field) bool {
	for i := range fields {
		if fields[i].Name == "content-type" && grpcType(fields[i].Value) {
			return true
		}
	}
	return false
}

func grpcType(v string) bool {
	const base = "application/grpc"
	return strings.HasPrefix(v, base) && (len(v) == len(base) || v[len(base)] == '+' || v[len(base)] == ';')
}

// malformed returns the status of a header block with a field that cannot be read, or nil.
func malformed(fields []hpack.Field) *status.Status {
	for i := range fields {
		f := &fields[i]
		switch {
		case f.Name == "grpc-status":
			if _, err := strconv.ParseInt(f.Value, 10, 32); err != nil {
				return status.New(codes.Unknown, fmt.Sprintf("transport: malformed grpc-status: %v", err))
			}
		case strings.HasSuffix(f.Name, "-bin"):
			if _, err := decodeBinary(f.Value); err != nil {
				return status.New(codes.Internal, fmt.Sprintf("transport: malformed %s: %v", f.Name, err))
			}
		}
	}
	return nil
}

// decodeBinary reads base64 with padding and without (gRPC over HTTP/2, "Binary-Header").
func decodeBinary(v string) ([]byte, error) {
	if len(v)%4 == 0 {
		return base64.StdEncoding.DecodeString(v)
	}
	return base64.RawStdEncoding.DecodeString(v)
}

// statusOf returns the status among trailers: nil for OK.
func statusOf(fields []hpack.Field) *status.Status {
	code, text := codes.Unknown, find(fields, "grpc-status")
	if text == "0" {
		return nil
	}
	if n, err := strconv.ParseInt(text, 10, 32); err == nil {
		code = codes.Code(n)
	}
	p := &spb.Status{Code: int32(code), Message: decodeMessage(find(fields, "grpc-message"))}
	var details []string
	for i := range fields {
		if fields[i].Name == "grpc-status-details-bin" {
			details = append(details, fields[i].Value)
		}
	}
	if len(details) != 1 {
		return status.FromProto(p)
	}
	raw, _ := decodeBinary(details[0]) // checked by malformed
	with := new(spb.Status)
	if proto.Unmarshal(raw, with) != nil {
		return status.FromProto(p)
	}
	if with.Code != p.Code {
		return status.Newf(codes.Internal, "grpc-status-details-bin mismatch: grpc-status=%v, grpc-message=%q, grpc-status-details-bin=%+v", code, p.Message, with)
	}
	return status.FromProto(with)
}

// decodeMessage undoes the percent-encoding of grpc-message. What is not encoded as it should be is left as it is.
func decodeMessage(s string) string {
	if !strings.Contains(s, "%") {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '%' && i+2 < len(s) {
			if v, err := strconv.ParseUint(s[i+1:i+3], 16, 8); err == nil {
				b.WriteByte(byte(v))
				i += 2
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// statusOfEnd says what the early end of a stream means (gRPC over HTTP/2, "Errors").
func statusOfEnd(ctx context.Context, e h2.End) *status.Status {
	var ferr *frame.Error
	switch {
	case e.Err == nil:
		code := codeOfReset(e.Code)
		if deadline, ok := ctx.Deadline(); ok && code == codes.Canceled && !deadline.After(time.Now()) {
			code = codes.DeadlineExceeded // which is why the upstream reset it
		}
		return status.Newf(code, "stream terminated by RST_STREAM with error code: %v", e.Code)
	case errors.As(e.Err, &ferr) && !ferr.Connection():
		return status.New(codes.Internal, "stream terminated: "+ferr.Error())
	}
	return status.New(codes.Unavailable, "connection lost: "+e.Err.Error())
}

// codeOfReset maps the code of a RST_STREAM as grpc-go does.
func codeOfReset(c frame.Code) codes.Code {
	switch c {
	case frame.RefusedStream:
		return codes.Unavailable
	case frame.Cancel:
		return codes.Canceled
	case frame.EnhanceYourCalm, frame.FlowControlError:
		return codes.ResourceExhausted
	case frame.InadequateSecurity:
		return codes.PermissionDenied
	}
	if c > frame.HTTP11Required {
		return codes.Unknown
	}
	return codes.Internal
}

// A foreign is a response that is no gRPC: its body is collected for the message of the status.
type foreign struct {
	code    codes.Code
	message string
	body    []byte
}

// maxForeignBody is how much of it.
const maxForeignBody = 1 << 10

// newForeign reads the header block of a response that is no gRPC (gRPC's http-grpc-status-mapping).
func newForeign(fields []hpack.Field) *foreign {
	code, _ := strconv.Atoi(find(fields, ":status")) // three digits, or the connection would have told
	f := &foreign{code: codeOfHTTP(code)}
	contentType := "malformed header: missing HTTP content-type"
	if v := find(fields, "content-type"); v != "" {
		contentType = fmt.Sprintf("transport: received unexpected content-type %q", v)
	}
	f.message = fmt.Sprintf("unexpected HTTP status code received from server: %d (%s); %s", code, http.StatusText(code), contentType)
	return f
}

func codeOfHTTP(code int) codes.Code {
	switch code {
	case http.StatusBadRequest:
		return codes.Internal
	case http.StatusUnauthorized:
		return codes.Unauthenticated
	case http.StatusForbidden:
		return codes.PermissionDenied
	case http.StatusNotFound:
		return codes.Unimplemented
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return codes.Unavailable
	}
	return codes.Unknown
}

// add takes octets of the body, and reports whether they are enough.
func (f *foreign) add(p []byte) (enough bool) {
	f.body = append(f.body, p[:min(len(p), maxForeignBody-len(f.body))]...)
	return len(f.body) == maxForeignBody
}

// bare returns the status of a response without a body.
func (f *foreign) bare() *status.Status { return status.New(f.code, f.message) }

func (f *foreign) status() *status.Status {
	return status.New(f.code, fmt.Sprintf("%s\ndata: %q", f.message, f.body))
}

// toMetadata returns the metadata of a header block, without what belongs to the protocol.
func toMetadata(fields []hpack.Field) metadata.MD {
	md := make(metadata.MD, len(fields))
	values := make([]string, 0, len(fields))
	for i := range fields {
		f := &fields[i]
		switch f.Name {
		case "user-agent", "content-type":
		default:
			if reserved(f.Name) {
				continue
			}
		}
		v := f.Value
		if strings.HasSuffix(f.Name, "-bin") {
			raw, _ := decodeBinary(v) // checked by malformed
			v = string(raw)
		}
		if old, ok := md[f.Name]; ok {
			md[f.Name] = append(old, v)
			continue
		}
		values = append(values, v)
		md[f.Name] = values[len(values)-1 : len(values) : len(values)]
	}
	return md
}
