// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package proxies

import "context"

// http-reuse safe is HAProxy's default; it is written down as it matters here. A
// tune.bufsize above the default of 16 KiB halves the cost of large messages, but with 32 and
// with 64 KiB this version now and then ended streams before their trailers. Wider
// windows change nothing.
//
// It wants two file descriptors for each of maxconn, which it does not need with
// HTTP/2 to the backend; no strict-limits lets it start with fewer.
const haproxyConf = `global
	nbthread {{.Threads}}
	maxconn {{.MaxConnections}}
	no strict-limits
	{{if .TLS}}ssl-default-bind-ciphersuites TLS_AES_128_GCM_SHA256{{end}}
defaults
	mode http
	timeout connect 10s
	timeout client 1h
	timeout server 1h
frontend front
	bind {{.Host}}:{{.Port}} {{if .TLS}}ssl crt {{.TLS.Both}} alpn h2 ssl-min-ver TLSv1.3{{else}}proto h2{{end}}
	default_backend back
backend back
	http-reuse safe
	server one {{.Backend}} proto h2
`

func startHAProxy(ctx context.Context, c Config) (*Running, error) {
	return startProgram(ctx, c, "haproxy", haproxyConf, "-db", "-f", "{conf}")
}
