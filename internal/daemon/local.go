// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"fmt"
	"math"
	"net"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	_ "google.golang.org/grpc/encoding/gzip" // for callers that compress: without it their calls fail

	"github.com/manifold-grpc/manifold/internal/config"
	"github.com/manifold-grpc/manifold/internal/upstream"
	"github.com/manifold-grpc/manifold/proxy"
	"github.com/manifold-grpc/manifold/proxy/splice"
	"github.com/manifold-grpc/manifold/relay"
)

// localServices is a gRPC server inside of the daemon: its own services, or the
// one-to-many calls of a route by package proxy. The data path reaches it as a backend in memory.
type localServices struct {
	key     fanOutKey // of one-to-many calls
	server  *grpc.Server
	backend *relay.Backend
	targets []*grpc.ClientConn // of one-to-many calls
}

// fanOutKey is what one-to-many calls of a route depend on. Equal ones can have the same server.
type fanOutKey struct {
	backend upstream.Config
	fanOut  config.FanOut
	layout  splice.Layout
}

// openHealth starts a server of the daemon's own services. Its owner closes it.
func openHealth(register func(grpc.ServiceRegistrar)) *localServices {
	l := &localServices{server: grpc.NewServer(grpc.WaitForHandlers(true))}
	register(l.server)
	l.open()

	return l
}

// openFanOut starts a server that sends all calls to all endpoints of b. Its owner closes it.
func openFanOut(b *backendPlan, r *routePlan) (*localServices, error) {
	l := &localServices{}
	director, err := l.director(b, r.layout)
	if err != nil {
		l.closeTargets()
		return nil, err
	}
	var opts []proxy.Option
	if r.streams != nil {
		opts = append(opts, proxy.WithStreamedDetector(r.streams))
	}
	l.server = grpc.NewServer(
		grpc.ForceServerCodecV2(proxy.Codec()),
		grpc.UnknownServiceHandler(proxy.TransparentHandler(director, opts...)),
		// The relay's own bounds are what callers meet.
		grpc.MaxRecvMsgSize(math.MaxInt32),
		// close returns when nothing of it runs any more.
		grpc.WaitForHandlers(true),
	)
	l.open()

	return l, nil
}

// open makes the server a backend.
func (l *localServices) open() {
	endpoint := relay.NewLocalEndpoint("local", func(lis net.Listener) error { return l.server.Serve(lis) }, relay.EndpointConfig{})
	l.backend = &relay.Backend{Name: "local", Endpoints: []*relay.Endpoint{endpoint}}
}

// director returns what sends a call to all endpoints.
func (l *localServices) director(b *backendPlan, layout splice.Layout) (proxy.StreamDirector, error) {
	var backends []proxy.Backend
	for _, e := range b.endpoints {
		target, err := l.target(e, b, layout)
		if err != nil {
			return nil, fmt.Errorf("endpoint %q: %w", e.Endpoint, err)
		}
		backends = append(backends, target)
	}

	return func(context.Context, string) (proxy.Mode, []proxy.Backend, error) {
		return proxy.One2Many, backends, nil
	}, nil
}

// target connects to an endpoint for one-to-many calls.
func (l *localServices) target(e config.NamedEndpoint, b *backendPlan, layout splice.Layout) (proxy.Backend, error) {
	annotator, err := splice.New(layout, e.Name)
	if err != nil {
		return nil, err
	}
	conn, err := grpc.NewClient(target(e.Endpoint), dialOptions(e.Endpoint, b)...)
	if err != nil {
		return nil, err
	}
	l.targets = append(l.targets, conn)
	conn.Connect()

	return &proxy.Upstream{Channel: conn, Name: e.Name, Annotator: annotator}, nil
}

// target returns the endpoint in grpc-go's words.
func target(e Endpoint) string {
	if e.Network == "unix" {
		return "unix:" + e.Addr
	}

	return "dns:///" + e.Addr
}

func dialOptions(e Endpoint, b *backendPlan) []grpc.DialOption {
	creds := insecure.NewCredentials()
	if e.TLS {
		creds = credentials.NewTLS(b.tls)
	}
	backoffs := backoff.DefaultConfig
	backoffs.MaxDelay = upstream.MaxBackoff

	options := []grpc.DialOption{
		grpc.WithTransportCredentials(creds),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(math.MaxInt32)),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoffs, MinConnectTimeout: b.Connecting()}),
		// Stay connected, and let the configuration alone say where calls go: no TXT
		// records, no $HTTPS_PROXY.
		grpc.WithIdleTimeout(0),
		grpc.WithDisableServiceConfig(),
		grpc.WithNoProxy(),
	}
	if b.Authority != "" {
		options = append(options, grpc.WithAuthority(b.Authority))
	}

	return options
}

// retire closes the services when there has been no call for a second, or when ctx ends.
func (l *localServices) retire(ctx context.Context) {
	defer l.close()
	tick := time.NewTicker(retireTick)
	defer tick.Stop()
	for quiet := time.Duration(0); quiet < retireQuiet; quiet += retireTick {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if l.backend.Endpoints[0].InFlight() > 0 {
			quiet = 0
		}
	}
}

// A call may be between its route and the services for a moment.
const (
	retireTick  = 100 * time.Millisecond
	retireQuiet = time.Second
)

// close ends the server and its connections.
func (l *localServices) close() {
	l.backend.Endpoints[0].Close()
	l.server.Stop()
	l.closeTargets()
}

func (l *localServices) closeTargets() {
	for _, conn := range l.targets {
		_ = conn.Close() // fails only if it is closed already
	}
}
