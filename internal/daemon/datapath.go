// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"

	"github.com/manifold-grpc/manifold/proxy"
)

const (
	// maxHeaderList bounds the request metadata of a call. grpc-go's own bound,
	// 16 MiB, lets one connection take a gigabyte by repeating a few bytes.
	maxHeaderList = 16 << 10
	// minPing is how often a client may ping. grpc-go's own bound, 5 minutes,
	// cuts off clients whose keepalive is set for the NATs on their way.
	minPing = 10 * time.Second
)

// firstTries is how long the start may wait for the endpoints.
const firstTries = time.Second

// pathConfig is what a data path has to know.
type pathConfig struct {
	serverTLS *tls.Config // of listeners; nil is plaintext
	clientTLS *tls.Config // towards TLS endpoints
	endpoints []Endpoint
	fanOut    FanOut
	local     func(grpc.ServiceRegistrar) // registers services not to forward
	log       *slog.Logger
}

// dataPath moves calls from a listener to endpoints. The daemon uses openDataPath
// and the methods serve, drain, inFlight and close, and nothing else of it, so
// that another engine can take its place. This one is package proxy in a
// grpc.Server.
type dataPath struct {
	upstreams []*upstream
	server    *grpc.Server
	calls     atomic.Int64
}

// openDataPath makes a data path and begins to connect to its endpoints. Its
// owner ends it with drain, or with close if it never served.
func openDataPath(cfg pathConfig) (*dataPath, error) {
	p := &dataPath{}
	for _, e := range cfg.endpoints {
		u, err := openUpstream(e, cfg)
		if err != nil {
			p.close()
			return nil, fmt.Errorf("manifold: endpoint %q: %w", e, err)
		}
		p.upstreams = append(p.upstreams, u)
	}

	director, err := newDirector(p.upstreams, cfg.fanOut.Services)
	if err != nil {
		p.close()
		return nil, err
	}
	p.server = grpc.NewServer(p.serverOptions(cfg, director)...)
	cfg.local(p.server)
	p.awaitFirstTries()

	return p, nil
}

// awaitFirstTries waits until each endpoint is known to be up or down, so that
// the first calls are balanced like all others, but not for long.
func (p *dataPath) awaitFirstTries() {
	limit := time.After(firstTries)
	for _, u := range p.upstreams {
		select {
		case <-u.tried:
		case <-limit:
			return
		}
	}
}

func (p *dataPath) serverOptions(cfg pathConfig, director proxy.StreamDirector) []grpc.ServerOption {
	var handlerOpts []proxy.Option
	if cfg.fanOut.Streaming != nil {
		handlerOpts = append(handlerOpts, proxy.WithStreamedDetector(cfg.fanOut.Streaming))
	}
	handler := proxy.TransparentHandler(director, handlerOpts...)

	opts := []grpc.ServerOption{
		grpc.ForceServerCodecV2(proxy.Codec()),
		grpc.UnknownServiceHandler(p.counted(handler)),
		grpc.MaxRecvMsgSize(math.MaxInt32),
		grpc.MaxHeaderListSize(maxHeaderList),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: minPing, PermitWithoutStream: true}),
		// drain returns when nothing of the data path runs any more.
		grpc.WaitForHandlers(true),
	}
	if cfg.serverTLS != nil {
		opts = append(opts, grpc.Creds(credentials.NewTLS(cfg.serverTLS)))
	}

	return opts
}

// counted makes inFlight know of the calls that handler handles.
func (p *dataPath) counted(handler grpc.StreamHandler) grpc.StreamHandler {
	return func(srv any, stream grpc.ServerStream) error {
		p.calls.Add(1)
		defer p.calls.Add(-1)

		return handler(srv, stream)
	}
}

// inFlight returns the number of forwarded calls that have not ended.
func (p *dataPath) inFlight() int64 { return p.calls.Load() }

// serve takes over lis and serves it until drain. Its error is nil after that,
// and else what was wrong with the listener.
func (p *dataPath) serve(lis net.Listener) error {
	err := p.server.Serve(lis)
	if errors.Is(err, grpc.ErrServerStopped) {
		return nil // drain came first
	}

	return err
}

// drain closes the listener, tells clients to take new calls elsewhere, lets the
// calls in flight finish until ctx ends, and closes everything. If calls had to
// be cut then, it returns a *CutError.
func (p *dataPath) drain(ctx context.Context) error {
	graceful := make(chan struct{})
	go p.stopGracefully(graceful) // until the last call ends, or Stop

	var err error
	select {
	case <-graceful:
	case <-ctx.Done():
		// Without calls there are only idle connections, which lose nothing.
		if n := p.inFlight(); n > 0 {
			err = &CutError{Calls: n, Cause: context.Cause(ctx)}
		}
		p.server.Stop()
		<-graceful
	}
	p.close()

	return err
}

func (p *dataPath) stopGracefully(done chan<- struct{}) {
	defer close(done)

	p.server.GracefulStop()
}

// close closes the connections to the endpoints.
func (p *dataPath) close() {
	for _, u := range p.upstreams {
		u.close()
	}
}
