// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package channel

import (
	"encoding/base64"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/manifold-grpc/manifold/internal/h2/hpack"
	"github.com/manifold-grpc/manifold/relay"
)

// The fields that are in every request.
var (
	post     = hpack.Prepare(":method", "POST")
	plain    = hpack.Prepare(":scheme", "http")
	secured  = hpack.Prepare(":scheme", "https")
	trailers = hpack.Prepare("te", "trailers")
	ownAgent = hpack.Prepare("user-agent", userAgent)
	noType   = hpack.Prepare("content-type", "application/grpc")
)

// Request appends the fields of the request (gRPC over HTTP/2, "Requests").
func (s *stream) Request(dst []hpack.Field, scheme string, e *relay.Endpoint, now time.Time) (fields []hpack.Field, end bool) {
	authority := s.authority
	if authority == "" {
		authority = e.Authority()
	}
	of, agent, contentType := plain, ownAgent, noType
	if scheme == "https" {
		of = secured
	}
	if s.userAgent != userAgent {
		agent = hpack.Field{Name: "user-agent", Value: s.userAgent}
	}
	if s.info.subtype != "" {
		contentType = hpack.Field{Name: "content-type", Value: "application/grpc+" + s.info.subtype}
	}
	dst = append(dst, post, of,
		hpack.Field{Name: ":path", Value: s.method}, hpack.Field{Name: ":authority", Value: authority},
		contentType, agent, trailers)
	if s.info.encoding != "" {
		dst = append(dst, hpack.Field{Name: "grpc-encoding", Value: s.info.encoding})
	}
	if accepted := acceptEncoding(); accepted != "" {
		dst = append(dst, hpack.Field{Name: "grpc-accept-encoding", Value: accepted})
	}
	if deadline, ok := s.ctx.Deadline(); ok {
		dst = append(dst, hpack.Field{Name: "grpc-timeout", Value: formatTimeout(deadline.Sub(now))})
	}
	return append(dst, s.fields...), s.halfClosed && len(s.kept) == 0 && !s.large
}

// acceptEncoding returns the encodings of those that are in use with gRPC that a compressor is registered for. grpc-go does not tell
// which are; registration is over when the first call is made.
var acceptEncoding = sync.OnceValue(func() string {
	names := slices.DeleteFunc([]string{"gzip", "deflate", "snappy", "zstd", "lz4", "br"}, func(name string) bool {
		return encoding.GetCompressor(name) == nil
	})
	return strings.Join(names, ",")
})

// outgoing takes the metadata of the call and what its credentials add. The error is a status.
func (s *stream) outgoing(c *Channel) error {
	if md, ok := metadata.FromOutgoingContext(s.ctx); ok && len(md) > 0 {
		s.fields = make([]hpack.Field, 0, len(md)+1)
		for key, values := range md {
			if err := s.add(key, values...); err != nil {
				return status.Error(codes.Internal, err.Error())
			}
		}
	}
	if s.info.creds == nil {
		return nil
	}
	return s.authenticate(c)
}

// add adds a field of metadata for each value. What belongs to the protocol is left out, as grpc-go does.
func (s *stream) add(key string, values ...string) error {
	if err := checkKey(key); err != nil {
		return err
	}
	if reserved(key) {
		return nil
	}
	binary := strings.HasSuffix(key, "-bin")
	for _, v := range values {
		if binary {
			v = base64.RawStdEncoding.EncodeToString([]byte(v))
		} else if !printable(v) {
			return fmt.Errorf("header key %q contains value with non-printable ASCII characters", key)
		}
		s.fields = append(s.fields, hpack.Field{Name: key, Value: v})
	}
	return nil
}

// authenticate asks the call's credentials for their metadata.
func (s *stream) authenticate(c *Channel) error {
	creds := s.info.creds
	s.origin.Secure = creds.RequireTransportSecurity()
	host := s.authority
	secure := len(c.Backend.Endpoints) > 0
	for _, e := range c.Backend.Endpoints {
		secure = secure && e.Secure()
		if host == "" {
			host = e.Authority()
		}
	}
	if s.origin.Secure && !secure && c.Backend.Choose == nil {
		return status.Error(codes.Unauthenticated, "transport: cannot send secure credentials on an insecure connection")
	}
	info := credentials.RequestInfo{Method: s.method}
	if secure {
		info.AuthInfo = credentials.TLSInfo{CommonAuthInfo: credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity}}
	}
	data, err := creds.GetRequestMetadata(credentials.NewContextWithRequestInfo(s.ctx, info), audience(host, s.method))
	if err != nil {
		if _, ok := status.FromError(err); ok {
			return err
		}
		return status.Errorf(codes.Internal, "transport: per-RPC creds failed due to error: %v", err)
	}
	for key, value := range data {
		if err := s.add(strings.ToLower(key), value); err != nil {
			return status.Error(codes.Internal, err.Error())
		}
	}
	return nil
}

// audience returns the URI that credentials are asked for.
func audience(host, method string) string {
	if i := strings.LastIndexByte(method, '/'); i >= 0 {
		method = method[:i]
	}
	return "https://" + strings.TrimSuffix(host, ":443") + method
}

// reserved reports whether a field of that name is the protocol's.
func reserved(name string) bool {
	switch name {
	case "content-type", "user-agent", "grpc-message-type", "grpc-encoding", "grpc-message", "grpc-status", "grpc-timeout", "te":
		return true
	}
	return name[0] == ':'
}

// checkKey reports whether a key of metadata can be sent.
func checkKey(key string) error {
	if key == "" {
		return errEmptyKey
	}
	if key[0] == ':' {
		return nil // left out
	}
	for _, c := range []byte(key) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '.' && c != '-' && c != '_' {
			return fmt.Errorf("header key %q contains illegal characters not in [0-9a-z-_.]", key)
		}
	}
	return nil
}

func printable(value string) bool {
	for _, c := range []byte(value) {
		if c < 0x20 || c > 0x7e {
			return false
		}
	}
	return true
}

// formatTimeout writes a grpc-timeout of at most 8 digits, rounded up.
func formatTimeout(d time.Duration) string {
	if d <= 0 {
		return "0n"
	}
	for _, u := range timeoutUnits {
		n := d / u.unit
		if d%u.unit > 0 { // added before, it could overflow
			n++
		}
		if n < 1e8 {
			return strconv.FormatInt(int64(n), 10) + u.name
		}
	}
	return strconv.FormatInt(int64(d/time.Hour)+1, 10) + "H"
}

var timeoutUnits = [...]struct {
	unit time.Duration
	name string
}{{time.Nanosecond, "n"}, {time.Microsecond, "u"}, {time.Millisecond, "m"}, {time.Second, "S"}, {time.Minute, "M"}}
