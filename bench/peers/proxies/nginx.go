// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package proxies

import "context"

// nginx has, besides clients' connections, of which it closes some when less than a sixteenth of
// worker_connections is free, one upstream connection for each call under way, so the pool has room
// for those of all scenarios. With grpc_buffer_size, what it reads at once from an upstream, and
// http2_chunk_size, what it sends at once, at their defaults of 4 and 8 KiB, streams cost it
// twice as much. A wider http2_body_preread_size, its receive window, costs more.
const nginxConf = `daemon off;
worker_processes {{.Threads}};
worker_rlimit_nofile {{.Files}};
{{if .Root}}user root;{{end}}
pid {{.Dir}}/nginx.pid;
error_log stderr error;
events {
	worker_connections {{.MaxConnections}};
}
http {
	access_log off;
	client_body_temp_path {{.Dir}}/body;
	proxy_temp_path {{.Dir}}/proxy;
	fastcgi_temp_path {{.Dir}}/fastcgi;
	uwsgi_temp_path {{.Dir}}/uwsgi;
	scgi_temp_path {{.Dir}}/scgi;
	client_max_body_size 0;
	client_body_timeout 1h;
	keepalive_timeout 1h;
	keepalive_requests 1000000000;
	http2_max_concurrent_streams 1000;
	http2_chunk_size 16k;
	upstream back {
		server {{.Backend}};
		keepalive 2000;
		keepalive_requests 1000000000;
	}
	server {
		listen {{.Host}}:{{.Port}} http2{{if .TLS}} ssl{{end}};
		{{with .TLS -}}
		ssl_certificate {{.Cert}};
		ssl_certificate_key {{.Key}};
		ssl_protocols TLSv1.3;
		ssl_conf_command Ciphersuites TLS_AES_128_GCM_SHA256;
		{{- end}}
		location / {
			grpc_pass grpc://back;
			grpc_buffer_size 128k;
			grpc_read_timeout 1h;
			grpc_send_timeout 1h;
		}
	}
}
`

func startNginx(ctx context.Context, c Config) (*Running, error) {
	return startProgram(ctx, c, "nginx", nginxConf, "-p", "{dir}", "-e", "stderr", "-c", "{conf}")
}
