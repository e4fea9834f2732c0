// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"strings"

	"google.golang.org/grpc/metadata"
)

// dropHopKeys removes from md the keys that belong to the connection on which they came: see hopKey. It changes md.
func dropHopKeys(md metadata.MD) {
	// RFC 9110, 7.6.1: a proxy removes the fields that the connection field names. HTTP/2 has no such field, but
	// metadata may come from elsewhere.
	for _, line := range md["connection"] {
		for name := range strings.SplitSeq(line, ",") {
			delete(md, strings.ToLower(strings.TrimSpace(name)))
		}
	}

	for key := range md {
		if hopKey(key) {
			delete(md, key)
		}
	}
}

// hopKey reports whether the key, in lower case, belongs to one connection or to the transport of one hop. Each
// hop writes its own; a second copy contradicts it, and some peers end the stream with PROTOCOL_ERROR then.
func hopKey(key string) bool {
	switch key {
	case "connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade", "http2-settings",
		"proxy-authenticate", "proxy-authorization": // RFC 9110, 7.6.1 and 11.7; RFC 9113, 8.2.2
		return true
	case "host", "content-length", "content-type", "content-encoding", "accept-encoding": // of HTTP, for the bytes of one hop
		return true
	case "grpc-encoding", "grpc-accept-encoding", "grpc-timeout", "grpc-status", "grpc-message", "grpc-message-type", "user-agent": // of gRPC's transport
		return true
	}

	return strings.HasPrefix(key, ":") // a pseudo-header
}

// incoming returns the caller's metadata. It is a copy.
func incoming(ctx context.Context) metadata.MD {
	md, _ := metadata.FromIncomingContext(ctx)

	return md
}
