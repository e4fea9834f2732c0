// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package relay

import (
	"strings"

	"github.com/manifold-grpc/manifold/internal/h2/hpack"
)

// forwarding reports whether a request field speaks of who stood before the client: only of
// trusted clients it is believed. The x-forwarded- family (with Envoy's
// x-forwarded-client-cert), RFC 7239, and the certificates of RFC 9440, whose section 4 asks to
// drop them.
func forwarding(name string) bool {
	switch name {
	case "forwarded", "client-cert", "client-cert-chain":
		return true
	}
	return strings.HasPrefix(name, "x-forwarded-")
}

// forwardFields appends the forwarding headers of a call. What a trusted client said of
// host and scheme stays: it saw the caller, and we saw only it.
func (c *Call) forwardFields(dst []hpack.Field) []hpack.Field {
	if !c.dc.set.ForwardedFor {
		return dst
	}
	proto := "http"
	if c.dc.tls != nil {
		proto = "https"
	}
	if c.dc.forwarded != "" {
		dst = append(dst, hpack.Field{Name: "x-forwarded-for", Value: c.dc.forwarded})
	}
	if find(c.req, "x-forwarded-host") == "" {
		dst = append(dst, hpack.Field{Name: "x-forwarded-host", Value: c.host})
	}
	if find(c.req, "x-forwarded-proto") == "" {
		dst = append(dst, hpack.Field{Name: "x-forwarded-proto", Value: proto})
	}
	return dst
}
