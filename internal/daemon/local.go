// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"fmt"
	"math"
	"net"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	_ "google.golang.org/grpc/encoding/gzip" // for callers that compress: without it their calls fail

	"github.com/manifold-grpc/manifold/proxy"
	"github.com/manifold-grpc/manifold/proxy/splice"
	"github.com/manifold-grpc/manifold/relay"
)

// localServices is the gRPC server inside of the daemon: its own services, and one-to-many
// calls by package proxy. The data path reaches it as an endpoint in memory.
type localServices struct {
	server   *grpc.Server
	endpoint *relay.Endpoint
	targets  []*grpc.ClientConn // of one-to-many calls
}

// openLocal starts the server. Its owner closes it.
func openLocal(cfg pathConfig) (*localServices, error) {
	l := &localServices{}
	director, err := l.director(cfg)
	if err != nil {
		l.closeTargets()
		return nil, err
	}
	var opts []proxy.Option
	if cfg.fanOut.Streaming != nil {
		opts = append(opts, proxy.WithStreamedDetector(cfg.fanOut.Streaming))
	}
	l.server = grpc.NewServer(
		grpc.ForceServerCodecV2(proxy.Codec()),
		grpc.UnknownServiceHandler(proxy.TransparentHandler(director, opts...)),
		// The relay's own bounds are what callers meet.
		grpc.MaxRecvMsgSize(math.MaxInt32),
		// close returns when nothing of it runs any more.
		grpc.WaitForHandlers(true),
	)
	cfg.local(l.server)
	l.endpoint = relay.NewLocalEndpoint("local", func(lis net.Listener) error { return l.server.Serve(lis) }, relay.EndpointConfig{})

	return l, nil
}

// director returns what sends a call to all endpoints. Without services to fan out
// nothing is connected.
func (l *localServices) director(cfg pathConfig) (proxy.StreamDirector, error) {
	var backends []proxy.Backend
	if len(cfg.fanOut.Services) > 0 {
		for _, e := range cfg.endpoints {
			b, err := l.target(e, cfg)
			if err != nil {
				return nil, fmt.Errorf("endpoint %q: %w", e, err)
			}
			backends = append(backends, b)
		}
	}

	return func(context.Context, string) (proxy.Mode, []proxy.Backend, error) {
		return proxy.One2Many, backends, nil
	}, nil
}

// target connects to an endpoint for one-to-many calls.
func (l *localServices) target(e Endpoint, cfg pathConfig) (proxy.Backend, error) {
	annotator, err := splice.New(cfg.fanOut.Layout, e.String())
	if err != nil {
		return nil, err
	}
	conn, err := grpc.NewClient(target(e), dialOptions(e, cfg)...)
	if err != nil {
		return nil, err
	}
	l.targets = append(l.targets, conn)
	conn.Connect()

	return &proxy.Upstream{Channel: conn, Name: e.String(), Annotator: annotator}, nil
}

// target returns the endpoint in grpc-go's words.
func target(e Endpoint) string {
	if e.Network == "unix" {
		return "unix:" + e.Addr
	}

	return "dns:///" + e.Addr
}

func dialOptions(e Endpoint, cfg pathConfig) []grpc.DialOption {
	creds := insecure.NewCredentials()
	if e.TLS {
		creds = credentials.NewTLS(cfg.clientTLS)
	}
	backoffs := backoff.DefaultConfig
	backoffs.MaxDelay = maxBackoff

	return []grpc.DialOption{
		grpc.WithTransportCredentials(creds),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(math.MaxInt32)),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoffs, MinConnectTimeout: connectTimeout}),
		// Stay connected, and let the configuration alone say where calls go: no TXT
		// records, no $HTTPS_PROXY.
		grpc.WithIdleTimeout(0),
		grpc.WithDisableServiceConfig(),
		grpc.WithNoProxy(),
	}
}

// close ends the server and its connections.
func (l *localServices) close() {
	l.endpoint.Close()
	l.server.Stop()
	l.closeTargets()
}

func (l *localServices) closeTargets() {
	for _, conn := range l.targets {
		_ = conn.Close() // fails only if it is closed already
	}
}
