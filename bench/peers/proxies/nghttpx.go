// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package proxies

import "context"

// The default windows of 64 KiB make large requests cost it much more, and windows of
// 1 MiB large responses.
const nghttpxConf = `frontend={{.Host}},{{.Port}}{{if not .TLS}};no-tls{{end}}
backend={{.BackendHost}},{{.BackendPort}};;proto=h2
workers={{.Threads}}
rlimit-nofile={{.Files}}
errorlog-file={{.Dir}}/errors
frontend-http2-window-size=262144
frontend-http2-connection-window-size=8388608
backend-http2-window-size=262144
frontend-http2-read-timeout=1h
stream-read-timeout=0
stream-write-timeout=0
backend-read-timeout=1h
{{with .TLS -}}
private-key-file={{.Key}}
certificate-file={{.Cert}}
no-ocsp=yes
tls-min-proto-version=TLSv1.3
tls13-ciphers=TLS_AES_128_GCM_SHA256
{{- end}}
`

func startNghttpx(ctx context.Context, c Config) (*Running, error) {
	return startProgram(ctx, c, "nghttpx", nghttpxConf, "--conf={conf}")
}
