// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package relay

import (
	"bytes"
	"compress/gzip"
	"io"
	"sync"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// A gunzip is a decoder that is used again.
type gunzip struct {
	in  bytes.Reader
	out gzip.Reader
}

var gunzipPool = sync.Pool{New: func() any { return new(gunzip) }}

// inflate returns the message that came compressed. Targets are asked for plain messages, as those of
// several have to be joined, but grpc-go answers a request with gzip in gzip, whatever it is asked. The error is a
// status.
func (t *fanTarget) inflate(flag byte, p []byte) ([]byte, error) {
	switch {
	case flag != 1:
		return nil, status.Errorf(codes.Internal, "message with the flag %d, expected 0 or 1", flag)
	case t.encoding != "gzip":
		return nil, status.Errorf(codes.Internal, "compressed message with grpc-encoding %q, expected identity, which it was asked for, or gzip", t.encoding)
	}
	g := gunzipPool.Get().(*gunzip)
	defer gunzipPool.Put(g)
	g.in.Reset(p)
	limit := or(t.f.cfg.Limits.TargetBytes, defaultTargetBytes)
	err := g.out.Reset(&g.in)
	var out []byte
	if err == nil {
		out, err = io.ReadAll(io.LimitReader(&g.out, int64(limit)+1))
	}
	switch {
	case err != nil:
		return nil, status.Errorf(codes.Internal, "message is no gzip: %v", err)
	case len(out) > limit:
		return nil, status.Errorf(codes.ResourceExhausted, "message of more than %d bytes when decompressed, the limit (TargetBytes)", limit)
	}
	return out, nil
}
