// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"net"
	"net/netip"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
)

// The metadata keys that [WithForwarded] sets.
const (
	forwardedFor       = "x-forwarded-for"        // IP addresses of the caller and of the proxies up to this one
	forwardedHost      = "x-forwarded-host"       // the :authority that the caller used
	forwardedProto     = "x-forwarded-proto"      // "https" when the caller used TLS, else "http"
	forwardedUserAgent = "x-forwarded-user-agent" // the caller's user-agent; its own key is grpc-go's
)

// Forwarded says how backends learn who called: see [WithForwarded].
type Forwarded struct {
	// Trust reports whether the peer at addr is a proxy that is to be believed. What such a peer says under the keys of
	// WithForwarded is kept, and its own address added to it. What any other peer says under them is dropped, since
	// everybody can write there. nil trusts nobody.
	Trust func(addr net.Addr) bool

	// Authority makes the caller's :authority that of the upstream calls as well, in place of the connection's. Over TLS the
	// backend's certificate must be valid for it, or the call fails.
	Authority bool
}

// WithForwarded tells the backends who called, by metadata in each upstream call:
//
//	x-forwarded-for         the caller's IP address, after those of trusted proxies before this one
//	x-forwarded-host        the :authority that the caller used
//	x-forwarded-proto       "https" or "http"
//	x-forwarded-user-agent  the caller's user-agent
//
// It does so whether or not the backend forwards the caller's other metadata.
func WithForwarded(f Forwarded) Option {
	return func(o *handlerOptions) {
		o.forwarded = &f
	}
}

// apply sets the keys in md, the outgoing metadata of a call that came with ctx.
func (f *Forwarded) apply(ctx context.Context, md metadata.MD) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		p = &peer.Peer{}
	}

	trusted := f.Trust != nil && p.Addr != nil && f.Trust(p.Addr)

	var addresses []string
	if trusted {
		addresses = metadata.ValueFromIncomingContext(ctx, forwardedFor)
	}

	if ip := ipOf(p.Addr); ip != "" {
		addresses = append(addresses, ip)
	}

	proto := "http"
	if p.AuthInfo != nil && p.AuthInfo.AuthType() == "tls" {
		proto = "https"
	}

	set := func(key string, values []string) {
		if said := metadata.ValueFromIncomingContext(ctx, key); trusted && len(said) > 0 && key != forwardedFor {
			values = said
		}

		if len(values) > 0 {
			md[key] = values
		} else {
			delete(md, key)
		}
	}

	set(forwardedFor, addresses)
	set(forwardedHost, metadata.ValueFromIncomingContext(ctx, ":authority"))
	set(forwardedProto, []string{proto})
	set(forwardedUserAgent, metadata.ValueFromIncomingContext(ctx, "user-agent"))
}

// callOptions adds to opts what the policy needs beside metadata.
func (f *Forwarded) callOptions(ctx context.Context, opts []grpc.CallOption) []grpc.CallOption {
	authority := metadata.ValueFromIncomingContext(ctx, ":authority")
	if !f.Authority || len(authority) == 0 {
		return opts
	}

	return append([]grpc.CallOption{grpc.CallAuthority(authority[0])}, opts...)
}

// ipOf returns the IP address in addr, and "" for addresses of other kinds.
func ipOf(addr net.Addr) string {
	if addr == nil {
		return ""
	}

	ap, err := netip.ParseAddrPort(addr.String())
	if err != nil {
		return ""
	}

	return ap.Addr().Unmap().WithZone("").String()
}
